"""Create one module per use: a Torch7 module stores its ``output`` for ``backward``, so it cannot run twice."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.errors import ConversionError


def unshared(root: nn.Module) -> nn.Module:
    """Return a model in which every use of a module is a separate module, on the same parameters and buffers.

    Only containers that came from no file are changed: a Lua file says itself which modules are one.

    Returns:
        ``root`` itself where each module is used once, else a copy that shares all tensors with it.

    Raises:
        ConversionError: A container contains itself.
    """
    if not _repeats(root):
        return root
    memo = tensors_of(root)
    twin = copy.deepcopy(root, dict(memo))
    _separate(twin, set(), set(), memo)
    return twin


def _uses(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the members of a container of no file, in order, once for each use.

    A module in a field of another one (``members``) may be there only to be set, not to run again.
    """
    if record_of(module) is not None or not registry.mapping_of(module).container:
        return []
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _repeats(root: nn.Module) -> bool:
    """Return whether a container in ``root`` uses a module that is used before."""
    used = [id(child) for module in root.modules() for _, child in _uses(module)]
    return len(used) > len(set(used)) or id(root) in used


def tensors_of(root: nn.Module) -> dict[int, Tensor]:
    """Map ``id`` of every tensor in ``root`` to the tensor: the memo of a copy that shares tensors."""
    found: dict[int, Tensor] = {}
    for module in root.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            values = value if isinstance(value, (list, tuple)) else [value]
            found |= {id(tensor): tensor for tensor in values if isinstance(tensor, Tensor)}
    return found


def _separate(module: nn.Module, active: set[int], seen: set[int], memo: dict[int, Tensor]) -> None:
    """Put a copy of each member of a container in ``module`` that is in ``seen`` in its place."""
    if id(module) in active:
        raise ConversionError("it contains itself", class_name=type(module).__name__)
    active.add(id(module))
    uses = _uses(module)
    for name, child in uses:
        if id(child) in seen and id(child) not in active:
            child = module._modules[name] = copy.deepcopy(child, dict(memo))
        seen.add(id(child))
        _separate(child, active, seen, memo)
    if not uses:
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                _separate(child, active, seen, memo)
    active.discard(id(module))
