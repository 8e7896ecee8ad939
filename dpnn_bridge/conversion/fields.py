"""Map tensor fields of Lua classes to parameters and buffers, and store the conversion metadata of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Layout(NamedTuple):
    """The memory layouts of a tensor in Lua and in PyTorch. Both functions take ``(tensor, module)``."""

    to_torch: Callable[[Tensor, Any], Tensor]
    to_lua: Callable[[Tensor, Any], Tensor]


class Field(NamedTuple):
    """A tensor field of a Lua class.

    Attributes:
        attribute: name of the parameter or buffer in the torch module. Dots reach into submodules.
        layout: None when the elements have the same order (the shape may differ; Lua's is restored in the export).
        grad: Lua field that contains the gradient; default ``weight`` -> ``gradWeight``.
    """

    attribute: str
    layout: Layout | None = None
    grad: str | None = None


@dataclass
class LuaRecord:
    """The conversion metadata of a module: the parts of its Lua object that the PyTorch module does not contain.

    Attributes:
        class_name: the Lua class in the file (an alias such as ``cudnn.ReLU`` is kept).
        tensor_type: Lua type of the module's tensors, such as ``torch.FloatTensor``; None when the file names none.
        fields: fields without an attribute, kept for the export.
        scratch: buffers without their contents: field -> empty tensor, storage, or table of them.
        shapes: shapes of tensor fields in Lua where they differ from torch's.
        header: values that the class writes before its fields (``nn.GPU``).
        gradients: fields of shared parameters whose gradients are not shared: field -> number of the gradient.
        places: where the tensors of fields were in the file, see :mod:`~dpnn_bridge.conversion.flat`.
        cast: dtype of the last cast of the whole model, for models without tensors.
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
    """Return the Lua side of a converted module, None for a module that never was Lua's."""
    return module.__dict__.get("lua_record")


def submodules(module: nn.Module) -> list[nn.Module]:
    """Return the direct children in order; unlike ``module.children()`` one that occurs twice is listed twice."""
    return [m for m in module._modules.values() if m is not None]


def grad_field(name: str, spec: str | Field) -> str:
    """Return the name of the gradient, ``weight`` -> ``gradWeight``, unless the field names another."""
    if isinstance(spec, Field) and spec.grad:
        return spec.grad
    return f"grad{name[:1].upper()}{name[1:]}"


def get_tensor(module: nn.Module, attribute: str) -> Tensor | None:
    """Return the parameter or buffer at a dotted name."""
    owner, leaf = resolve(module, attribute)
    return getattr(owner, leaf, None)


def own_tensor(owner: nn.Module, leaf: str) -> Tensor | None:
    """Return a parameter or buffer of a module itself; None for one that is computed, or missing."""
    return owner._parameters.get(leaf, owner._buffers.get(leaf))


def resolve(module: nn.Module, attribute: str) -> tuple[nn.Module, str]:
    """Return ``(owner, name)`` of a dotted attribute."""
    *path, leaf = attribute.split(".")
    for name in path:
        module = getattr(module, name)
    return module, leaf
