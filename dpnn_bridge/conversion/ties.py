"""Tie tensors of a module to tensors of another module: views of parameters, and shared parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.conversion.distributed import full

if TYPE_CHECKING:
    from dpnn_bridge.conversion.fields import Field


@dataclass(frozen=True)
class Site:
    """A tensor field of a module.

    Attributes:
        module: the module.
        name: Lua field.
        field: attribute and memory layout of the field.
        owner, leaf: the submodule that owns the PyTorch tensor, and the name of the tensor there.
    """

    module: nn.Module
    name: str
    field: Field
    owner: nn.Module
    leaf: str


class Tie:
    """A tied parameter: a strided view of the parameter of another module, computed whenever it is read.

    Attributes:
        site: the tied field.
        source: the field whose parameter contains the elements.
        shape, stride, offset: shape, strides and first element of the view in the source's elements, in Lua's layout.
        torch_shape: shape in PyTorch if the field has no layout; None to use ``shape``.
    """

    def __init__(
        self,
        site: Site,
        source: Site,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        offset: int,
        torch_shape: torch.Size | None,
    ) -> None:
        self.site, self.source = site, source
        self.shape, self.stride, self.offset, self.torch_shape = shape, stride, offset, torch_shape

    def lua_view(self, tensor: Tensor) -> Tensor:
        """Return the view of the source's parameter or gradient, in Lua's memory layout."""
        layout, tensor = self.source.field.layout, full(tensor)
        flat = (layout.to_lua(tensor, self.source.module) if layout else tensor).reshape(-1)
        return flat[self.offset :].as_strided(self.shape, self.stride)  # its storage_offset counts from the storage

    def parameter(self) -> nn.Parameter:
        """Return the source's parameter."""
        return getattr(self.source.owner, self.source.leaf)

    def compute(self) -> Tensor:
        """Return the tied tensor in PyTorch's memory layout; gradients flow to the source."""
        return self.arranged(self.parameter())

    def arranged(self, source: Tensor) -> Tensor:
        """Compute the tied tensor from ``source`` instead of the source's parameter."""
        value = self.lua_view(source)
        layout = self.site.field.layout
        if layout is not None:
            return layout.to_torch(value, self.site.module)
        return value if self.torch_shape is None else value.reshape(self.torch_shape)

    def install(self) -> None:
        """Replace the field's parameter by a property that computes it from the source."""
        owner, leaf = self.site.owner, self.site.leaf
        owner._parameters.pop(leaf, None)
        owner.__dict__.setdefault("ties", {})[leaf] = self
        _add_mixin(owner)


#: attributes of modules that have tied parameters or shared buffers
ATTRIBUTES = frozenset({"ties", "shared_buffers"})


def tie_of(owner: nn.Module, leaf: str) -> Tie | None:
    """Return the tie that computes ``owner.leaf``, or None for an ordinary parameter."""
    return owner.__dict__.get("ties", {}).get(leaf)


def share_buffer(sites: list[Site]) -> None:
    """Keep the buffer of several modules one tensor when ``.to()`` and similar methods replace it."""
    for site in sites:
        site.owner.__dict__.setdefault("shared_buffers", {})[site.leaf] = [(s.owner, s.leaf) for s in sites]
        _add_mixin(site.owner)


def keep_shared(root: nn.Module) -> None:
    """Keep parameters that several modules inside ``root`` contain shared when ``.to()`` moves them to another device.

    PyTorch itself creates a separate parameter for each module if it cannot exchange the data of a parameter in place,
    as on XLA and on devices that other packages add (``PrivateUse1``).
    """
    if _uses_of_parameters(root):
        _add_mixin(root)


class _Sharing(nn.Module):
    """Mixin of modules that have a tied parameter or a shared buffer, or contain modules with a shared parameter.

    ``.to()`` and similar methods, which call ``_apply``, keep the tensors tied and shared.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        uses = _uses_of_parameters(self)
        super()._apply(fn, recurse)
        for (owner, leaf), *others in uses:
            for other, name in others:
                other._parameters[name] = owner._parameters[leaf]
        for tie in self.__dict__.get("ties", {}).values():
            parameters = nn.ParameterList([tie.parameter()])._apply(fn)
            tie.source.owner._parameters[tie.source.leaf] = parameters[0]
        for leaf, uses in self.__dict__.get("shared_buffers", {}).items():
            for owner, name in uses:
                owner._buffers[name] = self._buffers[leaf]
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = super().__reduce_ex__(protocol)  # type: ignore[misc]
        return _restore, (plain_type(type(self)), tuple(self.__dict__.get("ties", ()))), *state


def _uses_of_parameters(module: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Return, for each parameter that several modules inside ``module`` contain, these modules and its names there."""
    uses: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                uses.setdefault(id(parameter), []).append((owner, name))
    return [owners for owners in uses.values() if len(owners) > 1]


def plain_type(module_class: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a module without the mixin for tied and shared tensors, also without later subclasses."""
    mro = module_class.__mro__
    return mro[mro.index(_Sharing) + 1] if _Sharing in mro else module_class


def _add_mixin(module: nn.Module) -> None:
    """Add the mixin, and a property for each tied parameter, to the class of a module."""
    module.__class__ = _sharing_type(plain_type(type(module)), tuple(module.__dict__.get("ties", ())))


def _sharing_type(plain: type[nn.Module], tied: tuple[str, ...]) -> type[nn.Module]:
    """Return the class ``plain`` with the mixin and the tied parameters; one class for all threads."""
    with Exclusive((_sharing_type, plain)):
        return _create_sharing_type(plain, tied)


@cache
def _create_sharing_type(plain: type[nn.Module], tied: tuple[str, ...]) -> type[nn.Module]:
    """Create a subclass of the mixin and ``plain``, with the name of ``plain``, which ``repr`` and tools show."""
    body: dict[str, Any] = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    body |= {leaf: _property(leaf) for leaf in tied}
    body["__jit_unused_properties__"] = [*getattr(plain, "__jit_unused_properties__", ()), *tied]
    return type(plain.__name__, (_Sharing, plain), body)


def _property(leaf: str) -> property:
    return property(lambda module: module.ties[leaf].compute())


def _restore(plain: type[nn.Module], tied: tuple[str, ...]) -> nn.Module:
    """Create an empty instance for pickle and deepcopy, which set its state afterwards."""
    module_class = _sharing_type(plain, tied)
    return module_class.__new__(module_class)
