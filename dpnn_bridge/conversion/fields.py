"""Map tensor fields of Lua classes to parameters and buffers, and store the conversion metadata of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError


class Layout(NamedTuple):
    """Two functions ``(tensor, module) -> tensor`` that convert between the memory layouts of Lua and PyTorch."""

    to_torch: Callable[[Tensor, Any], Tensor]
    to_lua: Callable[[Tensor, Any], Tensor]


class Field(NamedTuple):
    """A tensor field of a Lua class.

    Attributes:
        attribute: name of the parameter or buffer in the PyTorch module, such as ``conv.weight``.
        layout: None if the elements have the same order (the shape may differ; the export restores Lua's shape).
        grad: Lua field that contains the gradient; default: ``weight`` -> ``gradWeight``.
        parts: None, or a function that returns the attributes of several parameters, which ``attribute`` concatenates.
    """

    attribute: str
    layout: Layout | None = None
    grad: str | None = None
    parts: Callable[[Any], list[str]] | None = None


@dataclass
class LuaRecord:
    """The conversion metadata of a module: the parts of its Lua object that the PyTorch module does not contain.

    Attributes:
        class_name: the Lua class in the file (an alias such as ``cudnn.ReLU`` is kept).
        tensor_type: Lua type of the module's tensors, such as ``torch.FloatTensor``; None if the file has no type.
        fields: Lua fields that are not an attribute of the module, kept for the export.
        scratch: temporary buffers without their elements: field -> empty tensor or storage, or a table of those.
        shapes: shapes of tensor fields in Lua that differ from the shapes in PyTorch.
        header: values that the class writes before its fields (``nn.GPU``).
        gradients: fields of shared parameters whose gradients are not shared: field -> number of the gradient.
        places: positions of tensors in the storages of the file, see :mod:`~dpnn_bridge.conversion.flat`.
        cast: dtype of the last cast of the complete model, for models without tensors.
    """

    class_name: str
    tensor_type: str | None = None
    fields: dict[Any, Any] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    header: tuple[Any, ...] = ()
    gradients: dict[str, int] = field(default_factory=dict)
    cast: torch.dtype | None = None
    places: dict[str, Any] = field(default_factory=dict)


def record_of(module: nn.Module) -> LuaRecord | None:
    """Return the conversion metadata of a module; None for a module that was created in PyTorch."""
    return module.__dict__.get("lua_record")


def submodules(module: nn.Module) -> list[nn.Module]:
    """Return the direct children in order; unlike ``module.children()``, a child that occurs twice is listed twice."""
    return [m for m in module._modules.values() if m is not None]


def grad_field(name: str, spec: str | Field) -> str:
    """Return the Lua field of the gradient: ``spec.grad`` if set, otherwise ``weight`` -> ``gradWeight``."""
    if isinstance(spec, Field) and spec.grad:
        return spec.grad
    return f"grad{name[:1].upper()}{name[1:]}"


def parts_of(module: nn.Module, spec: Field) -> list[Field]:
    """Return one field for each parameter of a field; their values, concatenated, are the value of the field in Lua."""
    if spec.parts is None:
        return [spec]
    return [Field(name, Layout(partial(_as_parameter, name), _as_vector)) for name in spec.parts(module)]


def _as_parameter(attribute: str, vector: Tensor, module: nn.Module) -> Tensor:
    return vector.reshape(attrgetter(attribute)(module).shape)


def _as_vector(tensor: Tensor, _module: nn.Module) -> Tensor:
    return tensor.reshape(-1)


def hooked(module: nn.Module, spec: Field) -> list[Field]:
    """Return a field for each parameter from which a hook of pruning, or of an older norm, computes a tensor."""
    owner, leaf = resolve(module, spec.attribute)
    if leaf in owner._parameters:  # None, such as the bias of a Linear(bias=False)
        return []
    found = [name for end in ("_orig", "_g", "_v") if (name := leaf + end) in owner._parameters]
    path = spec.attribute.removesuffix(leaf)
    return [spec._replace(attribute=path + name, layout=None if name[-1] == "g" else spec.layout) for name in found]


def get_tensor(module: nn.Module, attribute: str) -> Tensor | None:
    """Return the parameter or buffer at a dotted name."""
    owner, leaf = resolve(module, attribute)
    return getattr(owner, leaf, None)


def own_tensor(owner: nn.Module, leaf: str) -> Tensor | None:
    """Return the parameter or buffer with this name; None if the tensor is computed or missing."""
    tensors: Any = (owner._parameters, owner._buffers)  # those of TorchScript have no method `get`
    return next((named[leaf] for named in tensors if leaf in named), None)


def resolve(module: nn.Module, attribute: str) -> tuple[nn.Module, str]:
    """Return the submodule that owns a dotted attribute, and the last name: ``conv.weight`` -> ``(conv, "weight")``."""
    *path, leaf = attribute.split(".")
    for name in path:
        module = getattr(module, name)
    return module, leaf


def check_complete(container: nn.Module) -> None:
    """Raise an error for None in a :class:`torch.nn.Sequential`, which PyTorch stores and cannot run."""
    empty = [name for name, module in container._modules.items() if module is None]
    if empty and isinstance(container, nn.Sequential):
        raise ConversionError(
            f"its module {empty[0]!r} is None, which cannot run; delete it, or replace it by nn.Identity",
            class_name=type(container).__name__,
        )
