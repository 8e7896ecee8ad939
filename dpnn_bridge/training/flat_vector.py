"""Flatten all parameters to the vector that Torch7's ``getParameters()`` returns and training scripts save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.elements import unmasked
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.distributed import distribute_like, full
from dpnn_bridge.conversion.fields import Layout, resolve
from dpnn_bridge.conversion.lua_class import ParameterSite
from dpnn_bridge.conversion.ties import tie_of
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTensor

#: whose ``getParameters()``
Package = Literal["nn", "dpnn"]


class FlatField(NamedTuple):
    """One torch parameter and the layout of its elements in Torch7's flat vector.

    Attributes:
        parameter: the torch parameter.
        module: the module whose layout arranges it.
        layout: Lua's memory layout, None if it is torch's.
    """

    parameter: nn.Parameter
    module: nn.Module | None = None
    layout: Layout | None = None

    def to_lua(self, tensor: Tensor) -> Tensor:
        """Return a tensor shaped like the parameter as a vector in Lua's order."""
        tensor = full(tensor)
        if self.layout is not None and self.module is not None:
            tensor = self.layout.to_lua(tensor, self.module)
        return tensor.reshape(-1)

    def to_torch(self, vector: Tensor) -> Tensor:
        """Return a vector in Lua's order in the shape, dtype and on the device of the parameter, spread as that is."""
        return distribute_like(self._arranged(vector.to(self.parameter.device, self.parameter.dtype)), self.parameter)

    def _arranged(self, vector: Tensor) -> Tensor:
        if self.layout is None or self.module is None:
            return vector.reshape(self.parameter.shape)
        shape = self.layout.to_lua(full(self.parameter.detach()), self.module).shape
        return self.layout.to_torch(vector.reshape(shape), self.module)

    def window(self, vector: Tensor) -> Tensor:
        """View a part of a vector in Lua's order with the shape of the parameter.

        Raises:
            ConversionError: no strides give it, or the vector has another type.
        """
        if (vector.dtype, vector.device) == (self.parameter.dtype, self.parameter.device):
            if not vector.numel():
                return vector.view(self.parameter.shape)
            places = self._arranged(torch.arange(vector.numel(), device=vector.device))
            first, flat = int(places.flatten()[0]), torch.arange(vector.numel(), device=vector.device)
            strides = [
                int(places.narrow(d, 1, 1).flatten()[0]) - first if n > 1 else 1 for d, n in enumerate(places.shape)
            ]
            if min(strides, default=1) >= 0 and torch.equal(flat.as_strided(places.shape, strides, first), places):
                return vector.as_strided(places.shape, strides, vector.storage_offset() + first)
        raise ConversionError("a parameter cannot be a view of one vector; use flatten and load_flat")

    @property
    def size(self) -> int:
        """Number of elements in Lua's vector."""
        return self.to_lua(self.parameter.detach()).numel()


def flat_fields(target: nn.Module | Iterable[nn.Parameter], package: Package = "nn") -> list[FlatField]:
    """Return the parameters in the order of Torch7's ``getParameters()``, tied ones once.

    Args:
        target: a module, or parameters that are taken as they are.
        package: whose ``getParameters()``, see :func:`flatten`.
    """
    if not isinstance(target, nn.Module):
        return [FlatField(p) for p in target]
    fields: dict[int, FlatField] = {}
    sites = registry.parameters(target)
    for module, _, spec in sites if package == "nn" else chain(sites, _hidden(target)):
        owner, leaf = resolve(module, spec.attribute)
        tie = tie_of(owner, leaf)
        if tie is not None:
            owner, leaf, module, spec = tie.source.owner, tie.source.leaf, tie.source.module, tie.source.field
        parameter = getattr(owner, leaf)
        if not isinstance(parameter, nn.Parameter):
            parameter = _computed(owner, leaf)
        fields.setdefault(id(parameter), FlatField(parameter, module, spec.layout))
    return list(fields.values())


def _hidden(module: nn.Module) -> Iterator[ParameterSite]:
    mapping = registry.mapping_of(module)
    yield from mapping.hidden_parameters(module)
    for child in mapping.children(module):
        yield from _hidden(child)


def _computed(owner: nn.Module, leaf: str) -> nn.Parameter:
    """Return the weight that a parametrization computes; Torch7 leaves the gradient of its direction beside it."""
    weight = nn.Parameter(getattr(owner, leaf).detach(), requires_grad=False)
    weight.grad = cast(Any, owner).parametrizations[leaf].original1.grad
    return weight


def as_vector(vector: Any) -> Tensor:
    """Return a Lua tensor or anything like a tensor as a torch tensor; ``TypeError`` for a masked array."""
    return vector.torch() if isinstance(vector, LuaTensor) else torch.as_tensor(unmasked(vector))


def split_flat(fields: list[FlatField], vector: Any, what: str) -> list[Tensor]:
    """Cut a flat vector into tensors shaped like the parameters.

    Raises:
        ConversionError: it has not as many elements as the parameters together.
    """
    vector = as_vector(vector)
    sizes = [f.size for f in fields]
    if vector.numel() != sum(sizes):
        raise ConversionError(
            f"{what} has {vector.numel()} elements, the parameters have {sum(sizes)}; "
            "is it of this model, and does the model have all its layers?"
        )
    parts = vector.detach().reshape(-1).split(sizes)
    return [field.to_torch(part) for field, part in zip(fields, parts, strict=True)]


@checks_arguments
def flatten(module: nn.Module, *, gradients: bool = False, package: Package = "nn") -> Tensor:
    """Return all parameters as the one vector that Torch7's ``module:getParameters()`` returns; a copy.

    Args:
        module: any module.
        gradients: return the gradients instead, zeros if there are none.
        package: ``"dpnn"`` for what the function returns once that package is loaded: after the parameters of
            ``parameters()`` those of modules that no container lists, such as the layer in an ``nn.WeightNorm`` (its
            weight beside v and g) and the estimators of ``nn.SpatialContrastiveNormalization``.
    """
    parts = []
    for field in flat_fields(module, package):
        p = field.parameter.detach()
        grad = field.parameter.grad if field.parameter.grad is not None else torch.zeros_like(p)
        parts.append(field.to_lua(grad if gradients else p))
    return torch.cat(parts) if parts else torch.empty(0)


@checks_arguments
def get_parameters(module: nn.Module, *, package: Package = "nn") -> tuple[Tensor, Tensor]:
    """Move all parameters and gradients into one vector each, ``m:getParameters()``.

    Args:
        module: any module.
        package: ``"dpnn"`` for that package's function, see :func:`flatten`. What is computed from other parameters
            (the weight in an ``nn.WeightNorm``) is in the vector then, and writing there changes nothing, as in Torch7.

    Returns:
        ``(params, grads)``: what is written into them the module has, and the reverse.

    Raises:
        ConversionError: torch arranges a parameter in a way that is no view of Torch7's; use :func:`flatten` and
            :func:`load_flat`.
    """
    fields = flat_fields(module, package)
    params, grads = flatten(module, package=package), flatten(module, gradients=True, package=package)
    sizes = [f.size for f in fields]
    windows = [[f.window(v) for f, v in zip(fields, vector.split(sizes), strict=True)] for vector in (params, grads)]
    for field, values, gradients in zip(fields, *windows, strict=True):  # after the last error
        field.parameter.data, field.parameter.grad = values, gradients
    return params, grads


@checks_arguments
@wrap_errors(ConversionError, "filling a model from a flat vector")
@torch.no_grad()
def load_flat(module: nn.Module, vector: Tensor | LuaTensor | np.ndarray | Sequence[float]) -> None:
    """Fill a module from the vector that Torch7's ``getParameters()`` returned and a script saved.

    Args:
        module: a converted module, of the structure that the vector was taken from.
        vector: all parameters in Torch7's order, tied ones once; of nn or, if only that has its length, of dpnn, see
            :func:`flatten`.

    Raises:
        ConversionError: it has not as many elements as the parameters together.
    """
    fields, count = flat_fields(module), as_vector(vector).numel()
    if count != sum(f.size for f in fields):
        hidden = flat_fields(module, "dpnn")
        fields = hidden if count == sum(f.size for f in hidden) else fields
    for field, value in zip(fields, split_flat(fields, vector, "the flat vector"), strict=True):
        field.parameter.copy_(value)
