"""Members of containers by position, as ``nn.Sequential`` has them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from dpnn_bridge.conversion.fields import record_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Members(nn.Module):
    """Base of containers that are no chain: ``len``, iteration, ``container[0]``, and slices as ``nn.ModuleList``.

    Args:
        *modules: the members; they become the submodules ``"0"``, ``"1"``, …
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __len__(self) -> int:
        return sum(name.isdigit() for name in self._modules)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([m for name, m in self._modules.items() if name.isdigit() and m is not None])

    def __getitem__(self, index: int | slice) -> Any:
        members = list(self)
        return nn.ModuleList(members[index]) if isinstance(index, slice) else members[index]


def part(container: ModuleT, members: slice) -> ModuleT:
    """Return a container of the same class and arguments with some of the members, which are not copied."""
    piece = copy.copy(container)
    piece._modules = dict(list(container._modules.items())[members])
    if (record := record_of(container)) is not None:
        piece.__dict__["lua_record"] = copy.copy(record)
    return piece


class SlicedWithArguments(nn.Sequential):
    """Base of containers whose constructor takes more than members: their slices have the same arguments."""

    def __getitem__(self, index: int | slice) -> Any:
        return part(self, index) if isinstance(index, slice) else super().__getitem__(index)
