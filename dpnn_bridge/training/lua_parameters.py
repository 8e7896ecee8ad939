"""Read and write a module's parameters and gradients in Lua's layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.conversion import fields, registry, tensors
from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import ParameterSite
from dpnn_bridge.conversion.ties import tie_of


@dataclass
class LuaParameter:
    """One entry of Torch7's ``parameters()``.

    Attributes:
        module: the module that contains the parameter.
        name: name of the Lua field.
        field: attribute and layout of the field in PyTorch.
    """

    module: nn.Module
    name: str
    field: Field

    def read(self) -> Tensor:
        """Return the parameter in Lua's shape, detached."""
        return tensors.field_value(self.module, self.name, self.field)

    def read_gradient(self) -> Tensor:
        """Return the gradient in Lua's shape; zeros if the parameter has no gradient."""
        return tensors.field_value(self.module, self.name, self.field, gradient=True)

    def write(self, value: Tensor) -> None:
        """Set the elements of the parameter to ``value``, which has Lua's shape."""
        for part, own in self._split(value):
            part._write(part.read(), own, part.parameter.detach())

    def write_gradient(self, value: Tensor) -> None:
        """Set the gradient to ``value``, which has Lua's shape."""
        for part, own in self._split(value):
            part._write_gradient(own)

    @property
    def parts(self) -> list[LuaParameter]:
        """One entry for each torch parameter of which this parameter consists."""
        return [LuaParameter(self.module, self.name, part) for part in fields.parts_of(self.module, self.field)]

    def _split(self, value: Tensor) -> Iterable[tuple[LuaParameter, Tensor]]:
        parts = self.parts
        if len(parts) == 1:
            return [(parts[0], value)]
        return zip(parts, value.reshape(-1).split([p.parameter.numel() for p in parts]), strict=True)

    def _write_gradient(self, value: Tensor) -> None:
        parameter = self.parameter
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        self._write(self.read_gradient(), value, parameter.grad)

    @property
    def repeats(self) -> bool:
        """Whether Torch7 has a separate gradient for each use of the shared parameter; PyTorch has their sum."""
        record = fields.record_of(self.module)
        return bool(record and record.gradients.get(self.name))

    @property
    def parameter(self) -> nn.Parameter:
        """The torch parameter; for a tied parameter, the parameter of the other module."""
        owner, leaf = fields.resolve(self.module, self.field.attribute)
        tie = tie_of(owner, leaf)
        return tie.parameter() if tie else getattr(owner, leaf)

    @torch.no_grad()
    def _write(self, view: Tensor, value: Tensor, target: Tensor) -> None:
        if storage_id(view) == storage_id(target):
            view.copy_(value)
            return
        tie = tie_of(*fields.resolve(self.module, self.field.attribute))
        if tie is None:
            layout, module = self.field.layout, self.module
        else:
            layout, module = tie.source.field.layout, tie.source.module
            source = (layout.to_lua(target, module) if layout else target).contiguous().clone()
            source.view(-1).as_strided(tie.shape, tie.stride, tie.offset).copy_(value)
            value = source
        target.copy_(layout.to_torch(value, module) if layout else value.reshape(target.shape))


def children(module: nn.Module) -> list[nn.Module]:
    """Return the submodules in the order of Torch7's ``modules``; a submodule may occur several times.

    A parametrization is omitted if its tensors belong to the Lua module that contains the layer (``nn.WeightNorm``).
    """
    found = registry.mapping_of(module).children(module)
    return found if direction_outside(module) is None else [c for c in found if c is not module.parametrizations]


def direction_outside(module: nn.Module) -> nn.Parameter | None:
    """Return the direction of a normalized weight if it belongs to a Lua module that contains the layer, else None.

    Such a Lua module is an ``nn.WeightNorm``.
    """
    lists: Any = module._modules.get("parametrizations")
    outside = lists is not None and any(getattr(p, "listed_outside", False) for p in lists.modules())
    return lists["weight"].original1 if lists is not None and outside else None


def own_parameters(module: nn.Module) -> list[LuaParameter]:
    """Return the parameters of a module without those of its submodules."""
    mapping = registry.mapping_of(module)
    if not mapping.children(module):
        return [LuaParameter(*entry) for entry in registry.parameters(module)]
    fields = mapping.fields_of(module).items()
    return [LuaParameter(module, n, f) for n, f in fields if tensors.is_parameter(module, f.attribute)]


def changed_parameters(module: nn.Module) -> list[LuaParameter]:
    """Return the parameters of a module that dpnn's recursive functions change; an empty list for containers."""
    return [] if "modules" in registry.mapping_of(module).handled(module) else own_parameters(module)


def stepped_parameters(module: nn.Module) -> Iterator[LuaParameter]:
    """Yield the parameters of Torch7's ``updateParameters`` and ``zeroGradParameters``, once for each change."""

    def sites(inner: nn.Module) -> Iterator[ParameterSite]:
        return registry.mapping_of(inner).stepped(inner, sites)

    for entry in sites(module):
        yield LuaParameter(*entry)


def all_parameters(module: nn.Module) -> Iterator[LuaParameter]:
    """Yield all parameters in the order of Torch7's ``parameters()``; a module that occurs twice is listed twice."""
    for entry in registry.parameters(module):
        yield LuaParameter(*entry)


def setting(module: nn.Module, name: str, default: Any) -> Any:
    """Return a setting of a module, such as ``momFactor``: its attribute, its field in the file, or ``default``."""
    record = fields.record_of(module)
    value = module.__dict__.get(name)
    if value is None and record is not None:
        value = record.fields.get(name)
    return default if value is None else value
