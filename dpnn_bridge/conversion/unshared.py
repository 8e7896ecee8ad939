"""Create one module per use. A Torch7 module stores its ``output`` for ``backward``, so it must not run twice."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError


def unshared(root: nn.Module) -> nn.Module:
    """Return a model in which every use of a module is a separate module with the same parameters and buffers.

    Containers from a Lua file keep the shared modules of the file. Modules that were created in PyTorch are separated
    there too: a ``.pt`` file of a network that was created in PyTorch contains Lua's containers.

    Returns:
        ``root`` if each module is used once, else a copy that shares all tensors with ``root``.

    Raises:
        ConversionError: a container contains itself.
    """
    if not _has_repeats(root):
        return root
    memo = tensors_of(root)
    result = copy.deepcopy(root, dict(memo))
    _separate(result, set(), set(), memo)
    return result


def _uses(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the names and modules of a container to separate, in order, once for each use.

    Submodules of other classes (``members``) are not counted: such a module may not run where it is stored.
    """
    new = record_of(module) is None
    return [(name, child) for name, child in _contained(module) if new or _has_new(child)]


def _contained(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the names and modules of a container or graph; an empty list for other modules."""
    mapping = registry.mapping_of(module)
    if not mapping.container and not mapping.is_graph:
        return []
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _has_new(root: nn.Module) -> bool:
    """Return whether a module, or one in its containers, was created in PyTorch."""
    stack, seen = [root], set[int]()
    while stack:
        module = stack.pop()
        if record_of(module) is None and not isinstance(module, Placeholder):
            return True
        if id(module) not in seen:
            seen.add(id(module))
            stack += [child for _, child in _contained(module)]
    return False


def _has_repeats(root: nn.Module) -> bool:
    """Return whether containers in ``root`` use a module more than once that :func:`unshared` separates."""
    contained = [id(child) for module in root.modules() for _, child in _contained(module)]
    if id(root) not in contained and len(contained) == len(set(contained)):
        return False
    used = [id(child) for module in root.modules() for _, child in _uses(module)]
    return len(used) > len(set(used)) or id(root) in used


def tensors_of(root: nn.Module) -> dict[int, Tensor]:
    """Return ``id`` -> tensor for all tensors in ``root``, as the memo of a ``deepcopy`` that shares the tensors."""
    found: dict[int, Tensor] = {}
    for module in root.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            values = value if isinstance(value, (list, tuple)) else [value]
            found |= {id(tensor): tensor for tensor in values if isinstance(tensor, Tensor)}
    return found


def _separate(module: nn.Module, active: set[int], seen: set[int], memo: dict[int, Tensor]) -> None:
    """Replace each repeated use of a module in containers by a copy.

    Args:
        module: the current module of the traversal.
        active: ids of ``module`` and the modules that contain it.
        seen: ids of the modules that were used before.
        memo: memo for copies that share tensors.
    """
    if id(module) in active:
        raise ConversionError("it contains itself", class_name=type(module).__name__)
    active.add(id(module))
    uses = _uses(module)
    for name, child in uses:
        if id(child) in seen and id(child) not in active:
            child = module._modules[name] = copy.deepcopy(child, dict(memo))
        seen.add(id(child))
        _separate(child, active, seen, memo)
    for child in module._modules.values():
        if child is not None and id(child) not in seen:
            seen.add(id(child))
            _separate(child, active, seen, memo)
    active.discard(id(module))
