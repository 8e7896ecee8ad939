"""Tie tensors of a module to another module: views of its parameters, and shared buffers."""

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
    """A tensor field of a module: the module, its Lua field and where its torch tensor is."""

    module: nn.Module
    name: str
    field: Field
    owner: nn.Module
    leaf: str


class Tie:
    """A tie: ``owner.leaf`` is a strided view of another module's parameter, computed whenever it is read.

    Attributes:
        site: the tied field.
        source: the field whose parameter contains the elements.
        shape, stride, offset: the Lua tensor, in the elements of the source's Lua tensor.
        torch_shape: shape of the torch tensor when the field has no layout.
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
        """Return the tied part of the source's parameter or gradient, in Lua's memory layout."""
        layout, tensor = self.source.field.layout, full(tensor)
        flat = (layout.to_lua(tensor, self.source.module) if layout else tensor).reshape(-1)
        return flat[self.offset :].as_strided(self.shape, self.stride)  # an offset would count from the storage's begin

    def parameter(self) -> nn.Parameter:
        """Return the parameter with the elements."""
        return getattr(self.source.owner, self.source.leaf)

    def compute(self) -> Tensor:
        """Return the tied tensor in torch's memory layout; gradients flow to the source."""
        return self.arranged(self.parameter())

    def arranged(self, source: Tensor) -> Tensor:
        """Apply :meth:`compute` to a tensor in place of the parameter."""
        value = self.lua_view(source)
        layout = self.site.field.layout
        if layout is not None:
            return layout.to_torch(value, self.site.module)
        return value if self.torch_shape is None else value.reshape(self.torch_shape)

    def install(self) -> None:
        """Remove the field's own parameter and compute it from the source from now on."""
        owner, leaf = self.site.owner, self.site.leaf
        owner._parameters.pop(leaf, None)
        owner.__dict__.setdefault("ties", {})[leaf] = self
        _become_sharing(owner)


def tie_of(owner: nn.Module, leaf: str) -> Tie | None:
    """Return the tie that computes ``owner.leaf``, or None for an ordinary parameter."""
    return owner.__dict__.get("ties", {}).get(leaf)


def share_buffer(sites: list[Site]) -> None:
    """Let a buffer of several modules stay one tensor when one of them changes its type or device."""
    for site in sites:
        site.owner.__dict__.setdefault("shared_buffers", {})[site.leaf] = [(s.owner, s.leaf) for s in sites]
        _become_sharing(site.owner)


def keep_shared(root: nn.Module) -> None:
    """Let parameters that several modules inside ``root`` use, if any, stay one parameter on every device.

    PyTorch replaces each use by a parameter of its own where the tensors of the new device are not compatible with the
    old ones, as on XLA and on devices that other packages add (``PrivateUse1``).
    """
    if _uses_of_parameters(root):
        _become_sharing(root)


class _Sharing(nn.Module):
    """Mixin of modules that have a tie, a shared buffer or inside of them a shared parameter.

    What changes their tensors reaches the other module's.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        uses = _uses_of_parameters(self)
        super()._apply(fn, recurse)
        for (owner, leaf), *others in uses:
            for other, name in others:
                other._parameters[name] = owner._parameters[leaf]
        for tie in self.__dict__.get("ties", {}).values():
            holder = nn.ParameterList([tie.parameter()])._apply(fn)
            tie.source.owner._parameters[tie.source.leaf] = holder[0]
        for leaf, places in self.__dict__.get("shared_buffers", {}).items():
            for owner, name in places:
                owner._buffers[name] = self._buffers[leaf]
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = super().__reduce_ex__(protocol)  # type: ignore[misc]
        return _restore, (plain_type(type(self)), tuple(self.__dict__.get("ties", ()))), *state


def _uses_of_parameters(module: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Return the owners and names of each parameter that several modules inside ``module`` use."""
    uses: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                uses.setdefault(id(parameter), []).append((owner, name))
    return [places for places in uses.values() if len(places) > 1]


def plain_type(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class that a module had before its tensors were tied."""
    return kind.__mro__[2] if issubclass(kind, _Sharing) else kind


def _become_sharing(module: nn.Module) -> None:
    """Give a module the mixin, and a property for each tied tensor."""
    module.__class__ = _sharing_type(plain_type(type(module)), tuple(module.__dict__.get("ties", ())))


def _sharing_type(plain: type[nn.Module], tied: tuple[str, ...]) -> type[nn.Module]:
    """Return the same class for the same arguments, in every thread."""
    with Exclusive((_sharing_type, plain)):
        return _made_sharing_type(plain, tied)


@cache
def _made_sharing_type(plain: type[nn.Module], tied: tuple[str, ...]) -> type[nn.Module]:
    """Return ``plain`` with the mixin; it has the same name, so that tools and people see the class they know."""
    body: dict[str, Any] = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    body |= {leaf: _property(leaf) for leaf in tied}
    body["__jit_unused_properties__"] = [*getattr(plain, "__jit_unused_properties__", ()), *tied]
    return type(plain.__name__, (_Sharing, plain), body)


def _property(leaf: str) -> property:
    return property(lambda module: module.ties[leaf].compute())


def _restore(plain: type[nn.Module], tied: tuple[str, ...]) -> nn.Module:
    """Create an empty instance for pickle and deepcopy; its state follows."""
    kind = _sharing_type(plain, tied)
    return kind.__new__(kind)
