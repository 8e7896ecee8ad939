"""Load the tensors of modules that were placeholders, or ran in Lua, when their file was written."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from dpnn_bridge.base.display import printable, shortened
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError


def with_placeholders(
    module: nn.Module, unmapped: Sequence[str], state_dict: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return ``state_dict`` with the current tensors of modules that were placeholders or ran in Lua when written.

    Such modules were created with the constants of the graph. They may have a mapping now, or share memory with Lua, so
    their tensors must not be replaced. They come first: other modules that share them get their memory.
    """
    if not unmapped:
        return state_dict
    parts, names, listed = dict(module.named_modules()), sorted(state_dict), set(unmapped)
    outermost = [name for name in listed if listed.isdisjoint(_above(name))]
    found = [parts[name] for name in outermost if name in parts]
    inside = {id(t) for part in found for t in part.state_dict(keep_vars=True).values()}
    replaced = {name for path in outermost for name in _below(path, names)}
    tensors = {name: t.detach() for name, t in module.state_dict(keep_vars=True).items() if id(t) in inside}
    kept = {name: t for name, t in state_dict.items() if name not in replaced}
    return {name: t for name, t in tensors.items() if name not in kept} | kept


def check_placeholders(module: nn.Module, unexpected: Iterable[str], source: str) -> None:
    """Refuse placeholders for modules whose tensors are in ``state_dict``: the mapping that wrote them is missing."""
    names = sorted(unexpected)
    for path, part in module.named_modules() if names else ():
        if isinstance(part, Placeholder) and _below(path, names):
            by = f" ({shortened(printable(part.mapped_by))})" if part.mapped_by else ""
            raise ConversionError(
                f"{source}: its tensors have the names and layouts of a class mapping{by} that is not loaded; pass the "
                "plugin with which the file was written (--plugin, plugins=)",
                path=path,
                class_name=part.class_name,
            )


def _above(path: str) -> Iterator[str]:
    """Yield the paths of the modules around a module."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _below(path: str, names: list[str]) -> list[str]:
    """Return those of the sorted ``names`` that begin with the path of a module; all for an empty path."""
    return names[bisect_left(names, f"{path}.") : bisect_left(names, f"{path}/")] if path else names
