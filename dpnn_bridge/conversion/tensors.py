"""Read tensor fields for the export: whether a field is a parameter, and its elements in Lua's memory layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge.base.storage import one_parameter
from dpnn_bridge.conversion.distributed import full
from dpnn_bridge.conversion.fields import Field, get_tensor, record_of, resolve
from dpnn_bridge.conversion.ties import tie_of
from dpnn_bridge.errors import ConversionError, OptionError


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Convert the name of a floating point dtype, such as ``"float16"``, ``"torch.float16"`` or ``"half"``, to a dtype.

    A dtype is returned unchanged, and None too.

    Raises:
        OptionError: the value is not a floating point dtype.
    """
    if dtype is None:
        return None
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise OptionError(f"dtype={dtype!r}: expected a floating point dtype such as 'float16', 'float32' or 'float64'")
    return found


def is_parameter(module: nn.Module, attribute: str) -> bool:
    """Return whether a dotted attribute is a parameter or is tied to one."""
    owner, leaf = resolve(module, attribute)
    own = leaf in owner._parameters and owner._parameters[leaf] is not None  # TorchScript's have no method `get`
    return own or tie_of(owner, leaf) is not None


def written_tensor(module: nn.Module, spec: Field) -> Tensor:
    """Return the parameter or buffer that a field of the written file contains.

    Raises:
        ConversionError: a layer of ``torch.nn`` was created in PyTorch, and the tensor has no elements.
    """
    tensor = get_tensor(module, spec.attribute)
    assert tensor is not None
    kind = parametrize.type_before_parametrizations(module)  # other classes may have an empty buffer before they run
    if record_of(module) is None and kind.__module__.startswith("torch.nn.") and not tensor.numel():
        raise ConversionError(
            f"its {spec.attribute} has shape {tuple(tensor.shape)}, and a tensor without elements has no shape in "
            "Torch7; remove the layer",
            class_name=kind.__name__,
        )
    return tensor


def field_value(module: nn.Module, name: str, spec: Field, *, gradient: bool = False) -> Tensor:
    """Return a field's tensor or its gradient, detached and in Lua's memory layout, if possible as a view.

    Args:
        module: the module.
        name: Lua field.
        spec: attribute and layout of the field.
        gradient: whether to return the gradient, or zeros if there is none.
    """
    owner, leaf = resolve(module, spec.attribute)
    tie = tie_of(owner, leaf)
    tensor = tie.parameter() if tie else getattr(owner, leaf)
    if gradient:
        tensor = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
    tensor = full(tensor.detach())
    if tensor.is_sparse:  # the gradient of an nn.Embedding(sparse=True)
        tensor = tensor.to_dense()
    if tie:
        return tie.lua_view(tensor)
    if spec.layout is not None:
        return spec.layout.to_lua(tensor, module)
    record = record_of(module)
    shape = record.shapes.get(name) if record else None
    return tensor.reshape(shape) if shape and torch.Size(shape).numel() == tensor.numel() else tensor


def firsts_on_memory(root: nn.Module) -> dict[int, int]:
    """Return the ``id`` of each parameter and buffer -> ``id`` of the first one on the same memory."""
    found: dict[tuple[object, ...], int] = {}
    return {id(t): found.setdefault(one_parameter(t), id(t)) for t in (*root.parameters(), *root.buffers())}
