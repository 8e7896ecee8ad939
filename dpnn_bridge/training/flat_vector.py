"""Flatten all parameters to the vector that Torch7's ``getParameters()`` returns and training scripts save."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, Literal, NamedTuple, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.elements import require_unmasked
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.distributed import distribute_like, full
from dpnn_bridge.conversion.fields import Layout, parts_of, record_of, resolve
from dpnn_bridge.conversion.flat import Place, filled_storages
from dpnn_bridge.conversion.lua_class import ParameterSite
from dpnn_bridge.conversion.ties import tie_of
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTensor

#: layers of PyTorch that the export divides into linear layers
_STEPWISE = (nn.GRU, nn.RNN, nn.GRUCell, nn.LSTMCell, nn.RNNCell)
#: names of their parameters, also of pruned ones
_NAME_IN_STEP = re.compile(r"(weight|bias)_(ih|hh)(?:_l(\d+)(_reverse)?)?(?:_orig)?")

#: package whose ``getParameters()`` determines the parameters of the vector
Package = Literal["nn", "dpnn"]


class FlatField(NamedTuple):
    """One torch parameter and the layout of its elements in Torch7's flat vector.

    Attributes:
        parameter: the torch parameter.
        module: the module of the parameter, which is an argument of the layout's functions.
        layout: Lua's memory layout; None if it is equal to PyTorch's.
    """

    parameter: nn.Parameter
    module: nn.Module | None = None
    layout: Layout | None = None

    def to_lua(self, tensor: Tensor) -> Tensor:
        """Convert a tensor with the shape of the parameter to a vector in Lua's order."""
        tensor = full(tensor)
        if self.layout is not None and self.module is not None:
            tensor = self.layout.to_lua(tensor, self.module)
        return tensor.reshape(-1)

    def to_torch(self, vector: Tensor) -> Tensor:
        """Convert a vector in Lua's order to shape, dtype, device and distribution of the parameter."""
        vector = vector.to(self.parameter.device, self.parameter.dtype)
        return distribute_like(self._in_torch_layout(vector), self.parameter)

    def _in_torch_layout(self, vector: Tensor) -> Tensor:
        if self.layout is None or self.module is None:
            return vector.reshape(self.parameter.shape)
        shape = self.layout.to_lua(full(self.parameter.detach()), self.module).shape
        return self.layout.to_torch(vector.reshape(shape), self.module)

    def view(self, vector: Tensor) -> Tensor:
        """Return a view of a vector in Lua's order with the shape of the parameter.

        Raises:
            ConversionError: a view is not possible, or the vector has another dtype or device.
        """
        if (vector.dtype, vector.device) == (self.parameter.dtype, self.parameter.device):
            if not vector.numel():
                return vector.view(self.parameter.shape)
            indices = torch.arange(vector.numel(), device=vector.device)
            permuted = self._in_torch_layout(indices)
            shape, first = permuted.shape, int(permuted.flatten()[0])
            strides = [int(permuted.narrow(d, 1, 1).flatten()[0]) - first if n > 1 else 1 for d, n in enumerate(shape)]
            if min(strides, default=1) >= 0 and torch.equal(indices.as_strided(shape, strides, first), permuted):
                return vector.as_strided(shape, strides, vector.storage_offset() + first)
        raise ConversionError("a parameter cannot be a view of one vector; use flatten and load_flat")

    @property
    def size(self) -> int:
        """Number of elements of the parameter in Lua."""
        return self.to_lua(self.parameter.detach()).numel()


def flat_fields(target: nn.Module | Iterable[nn.Parameter], package: Package = "nn") -> list[FlatField]:
    """Return the parameters in the order of Torch7's ``getParameters()``; tied parameters are listed once.

    This is the order of Torch7's ``parameters()``, but parameters that fill one storage of the file keep the order in
    which they lie there.

    Args:
        target: a module, or parameters, which are listed in the given order and in PyTorch's layout.
        package: package whose ``getParameters()`` is used, see :func:`flatten`.
    """
    if not isinstance(target, nn.Module):
        return [FlatField(p) for p in target]
    fields: dict[Any, FlatField] = {}
    sites = _as_exported(registry.parameters(target))
    sites = sites if package == "nn" else chain(sites, registry.hidden_parameters(target))
    places: dict[Any, Place | None] = {}
    parts = ((module, name, part) for module, name, spec in sites for part in parts_of(module, spec))
    for module, name, spec in parts:
        owner, leaf = resolve(module, spec.attribute)
        tie = tie_of(owner, leaf)
        if tie is not None:
            owner, leaf, module, spec = tie.source.owner, tie.source.leaf, tie.source.module, tie.source.field
            name = tie.source.name
        record = record_of(module)
        place = record.places.get(name) if record else None
        parameter = getattr(owner, leaf)
        if isinstance(parameter, nn.Parameter):
            places.setdefault(id(parameter), place)
            fields.setdefault(id(parameter), FlatField(parameter, module, spec.layout))
        elif (id(owner), leaf) not in fields:
            places[id(owner), leaf] = place
            fields[id(owner), leaf] = FlatField(_computed(owner, leaf), module, spec.layout)
    return [fields[key] for key in _as_stored(places, filled_storages(target))]


def _as_exported(sites: Iterable[ParameterSite]) -> Iterator[ParameterSite]:
    """Yield parameters in the order that they have after the export: a weight of a GRU is followed by its bias."""
    for module, own in groupby(sites, key=lambda site: site[0]):
        listed = list(own)
        yield from sorted(listed, key=_position_in_step) if isinstance(module, _STEPWISE) else listed


def _position_in_step(site: ParameterSite) -> tuple[int, bool, bool, bool]:
    """Return the position of a parameter such as ``weight_ih_l0_reverse``; other parameters come last."""
    found = _NAME_IN_STEP.fullmatch(site[1])
    if found is None:
        return sys.maxsize, True, True, True
    kind, input, layer, reverse = found.groups()
    return int(layer or 0), reverse is not None, input == "hh", kind == "bias"


def _as_stored(places: dict[Any, Place | None], filled: set[int]) -> list[Any]:
    """Return the keys of parameters, those of one storage that is filled in the order of their positions."""
    members: dict[int, dict[int, Any]] = defaultdict(dict)  # storage -> first element -> key
    for key, place in places.items():
        if place is not None:
            members[place.origin].setdefault(place.start, key)  # the position of a copy is that of its original
    ranks: dict[Any, int] = {}

    def position(key: Any) -> tuple[int, int]:
        place = places[key]
        if place is None or place.origin not in filled or members[place.origin][place.start] != key:
            return ranks.setdefault(key, len(ranks)), 0
        return ranks.setdefault(("storage", place.origin), len(ranks)), place.start

    return sorted(places, key=position)


def _computed(owner: nn.Module, leaf: str) -> nn.Parameter:
    """Return the weight that a parametrization computes, with the gradient of the direction, as Torch7 stores it."""
    weight = nn.Parameter(getattr(owner, leaf).detach(), requires_grad=False)
    weight.grad = cast(Any, owner).parametrizations[leaf].original1.grad
    return weight


def as_vector(vector: Any) -> Tensor:
    """Convert a Lua tensor, array or sequence to a torch tensor; raise ``TypeError`` for a masked array."""
    if isinstance(vector, LuaTensor):
        return vector.torch()
    # a sequence of Python numbers has double precision
    dtype = None if isinstance(vector, (Tensor, np.ndarray)) else torch.float64
    return torch.as_tensor(require_unmasked(vector), dtype=dtype)


def count_elements(fields: Iterable[FlatField]) -> int:
    """Return the number of elements of a flat vector."""
    return sum(field.size for field in fields)


def hidden_elements(target: nn.Module | Iterable[nn.Parameter]) -> int:
    """Return the number of elements that dpnn's ``getParameters()`` appends to those of nn, see :func:`flatten`."""
    if not _has_hidden(target):
        return 0
    return count_elements(flat_fields(target, "dpnn")) - count_elements(flat_fields(target))


def _has_hidden(target: nn.Module | Iterable[nn.Parameter]) -> TypeGuard[nn.Module]:
    return isinstance(target, nn.Module) and next(registry.hidden_parameters(target), None) is not None


def package_of(target: nn.Module | Iterable[nn.Parameter]) -> Package:
    """Return ``"dpnn"`` if the parameters of a module were in a vector of dpnn's ``getParameters()`` in its file."""
    if not _has_hidden(target):
        return "nn"
    length = count_elements(flat_fields(target, "dpnn"))
    if length == count_elements(flat_fields(target)):
        return "nn"
    records = filter(None, map(record_of, target.modules()))
    lengths = {place.length for record in records for place in record.places.values()}
    return "dpnn" if length in lengths else "nn"


def split_flat(fields: list[FlatField], vector: Any, what: str, of_dpnn: Sequence[FlatField] = ()) -> list[Tensor]:
    """Split a flat vector into tensors with the shapes of the parameters.

    Args:
        fields: the parameters.
        vector: the vector.
        what: description of the vector, for the message.
        of_dpnn: parameters of a longer vector of dpnn, whose additional elements are ignored.

    Raises:
        ConversionError: the number of elements differs from that of all parameters.
    """
    vector = as_vector(vector)
    sizes = [f.size for f in fields]
    longer = [f.size for f in of_dpnn]
    if sum(longer) > sum(sizes) and vector.numel() == sum(longer):
        parts = zip(of_dpnn, vector.reshape(-1).split(longer), strict=True)
        found = {id(f.parameter): part for f, part in parts}
        vector = torch.cat([found[id(f.parameter)] for f in fields])
    if vector.numel() != sum(sizes):
        raise ConversionError(
            f"{what} has {vector.numel()} elements, the parameters have {sum(sizes)}; "
            "use the vector of this model, and a model with all layers"
        )
    parts = vector.detach().reshape(-1).split(sizes)
    return [field.to_torch(part) for field, part in zip(fields, parts, strict=True)]


@checks_arguments
@wrap_errors(ConversionError, "flattening the parameters")
def flatten(module: nn.Module, *, gradients: bool = False, package: Package = "nn") -> Tensor:
    """Return a copy of all parameters as one vector, the vector of Torch7's ``module:getParameters()``.

    Args:
        module: any module.
        gradients: return the gradients instead; zeros for a parameter without a gradient.
        package: ``"dpnn"`` for dpnn's version of the function. It appends the parameters of modules that are not in a
            container's ``modules``, such as the layer in an ``nn.WeightNorm`` (its weight in addition to v and g) and
            the estimators of ``nn.SpatialContrastiveNormalization``.
    """
    parts = []
    for field in flat_fields(module, package):
        p = field.parameter.detach()
        grad = field.parameter.grad if field.parameter.grad is not None else torch.zeros_like(p)
        parts.append(field.to_lua(grad if gradients else p))
    return torch.cat(parts) if parts else torch.empty(0)


@checks_arguments
@wrap_errors(ConversionError, "moving the parameters into one vector")
def get_parameters(module: nn.Module, *, package: Package = "nn") -> tuple[Tensor, Tensor]:
    """Move all parameters into one vector and all gradients into another, ``m:getParameters()``.

    Args:
        module: any module.
        package: ``"dpnn"`` for dpnn's version of the function, see :func:`flatten`. The vector then contains weights
            that are computed from other parameters (in an ``nn.WeightNorm``); writing to them has no effect on the
            module, as in Torch7.

    Returns:
        ``(params, grads)``. The parameters and gradients of the module are views of these vectors.

    Raises:
        ConversionError: the memory layout of a parameter in PyTorch cannot be a view of Torch7's layout; use
            :func:`flatten` and :func:`load_flat`.
    """
    fields = flat_fields(module, package)
    params, grads = flatten(module, package=package), flatten(module, gradients=True, package=package)
    sizes = [f.size for f in fields]
    views = [[f.view(v) for f, v in zip(fields, vector.split(sizes), strict=True)] for vector in (params, grads)]
    for field, values, gradients in zip(fields, *views, strict=True):  # only after all views were created
        field.parameter.data, field.parameter.grad = values, gradients
    return params, grads


@checks_arguments
@wrap_errors(ConversionError, "filling a model from a flat vector")
@torch.no_grad()
def load_flat(module: nn.Module, vector: Tensor | LuaTensor | np.ndarray | Sequence[float]) -> None:
    """Load the saved vector of Torch7's ``getParameters()`` into a module.

    Args:
        module: a converted module with the structure of the model that the vector comes from.
        vector: all parameters in Torch7's order, tied parameters once. The vector of dpnn's ``getParameters()`` is
            also accepted, if its length differs, see :func:`flatten`.

    Raises:
        ConversionError: the number of elements differs from that of all parameters.
    """
    fields, count = flat_fields(module), as_vector(vector).numel()
    if count != count_elements(fields):
        of_dpnn = flat_fields(module, "dpnn")
        fields = of_dpnn if count == count_elements(of_dpnn) else fields
    for field, value in zip(fields, split_flat(fields, vector, "the flat vector"), strict=True):
        field.parameter.copy_(value)
