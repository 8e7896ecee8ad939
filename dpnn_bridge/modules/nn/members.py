"""Index and slice the modules of a container, as in ``nn.Sequential``."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from dpnn_bridge.conversion.fields import record_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Members(nn.Module):
    """Base class of containers that do not run their modules in sequence; has the interface of ``nn.ModuleList``.

    Args:
        *modules: the modules; their names are ``"0"``, ``"1"``, …
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
        modules = list(self)
        return nn.ModuleList(modules[index]) if isinstance(index, slice) else modules[index]


def sliced(container: ModuleT, index: slice) -> ModuleT:
    """Return a container of the same class and arguments with a slice of the modules, which are not copied."""
    result = copy.copy(container)
    result._modules = dict(list(container._modules.items())[index])
    if (record := record_of(container)) is not None:
        result.__dict__["lua_record"] = copy.copy(record)
    return result


class SlicedWithArguments(nn.Sequential):
    """Base class of containers whose constructor has other arguments than modules; a slice keeps these arguments."""

    def __getitem__(self, index: int | slice) -> Any:
        return sliced(self, index) if isinstance(index, slice) else super().__getitem__(index)
