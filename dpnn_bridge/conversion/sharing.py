"""Decide which Lua tensors become one parameter, and tie parameters that overlap.

Tensors that view the same elements with the same layout become one ``nn.Parameter``. If tensors overlap in another way
(a decoder whose weight is the transpose of the encoder's weight), one of them becomes a parameter, the source. Each
other tensor is computed from the source by a :class:`~dpnn_bridge.conversion.ties.Tie`. So only the source gets a
gradient, and the tensors remain tied after ``.to()``, ``deepcopy``, pickling and ``state_dict``. Tensors that are only
adjacent in a flat storage become independent, contiguous parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.contiguous import is_contiguous
from dpnn_bridge.conversion import deferred
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.ties import Site, Tie, keep_shared, share_buffer
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaStorage, LuaTensor


@dataclass
class _Entry:
    """One parameter or buffer, and all fields that contain it.

    Attributes:
        value: the PyTorch tensor.
        tensor: the Lua tensor.
        sites: the fields.
        torch_shape: shape in PyTorch; None if Lua's shape is used.
        gradients: memory region of each gradient in Lua -> its index, from 0. Shared weights can have several.
    """

    value: Tensor
    tensor: LuaTensor
    sites: list[Site]
    torch_shape: torch.Size | None
    gradients: dict[Any, int]

    @property
    def extent(self) -> tuple[int, int]:
        return extent_of(self.tensor)

    def elements(self) -> np.ndarray:
        """Return the positions of all elements in the storage."""
        index = np.array(self.tensor.offset)
        for size, stride in zip(self.tensor.shape, self.tensor.stride, strict=True):
            index = index[..., None] + np.arange(size) * stride
        return index.reshape(-1)

    def number_of(self, gradient: Any) -> int:
        """Return the index of this gradient's memory region; new regions get the next index."""
        region = region_of(gradient) if isinstance(gradient, LuaTensor) and gradient.size else None
        return self.gradients.setdefault(region, len(self.gradients))


class Sharing:
    """Creates parameters and buffers for Lua tensors.

    Fields of one type (parameter or buffer) with the same region of memory, layout and shape get one tensor.

    Args:
        defer_large: whether the elements of large parameters stay in the file, see
            :mod:`~dpnn_bridge.conversion.deferred`.
    """

    def __init__(self, defer_large: bool = False) -> None:
        self._entries: dict[Any, _Entry] = {}
        self._of_module: dict[int, list[Any]] = defaultdict(list)  # ID of a module -> keys of its fields' entries
        self._defer_large = defer_large

    def assign(
        self,
        site: Site,
        tensor: LuaTensor,
        gradient: Any,
        arrange: Callable[[Tensor], Tensor],
        shape: torch.Size | None,
    ) -> int:
        """Set the parameter or buffer of ``site`` to the elements of ``tensor``.

        Args:
            site: the field; its owner has ``leaf`` as a parameter or buffer (possibly None).
            tensor: the elements.
            gradient: the gradient in Lua, or another value if there is none.
            arrange: function that converts Lua's memory layout to PyTorch's.
            shape: shape in PyTorch; None to use Lua's shape.

        Returns:
            Index of ``gradient`` among the gradients of the parameter in Lua: 0, except if modules share the parameter
            but have separate gradients.

        Raises:
            ConversionError: the owner has no parameter or buffer ``leaf``.
        """
        owner, leaf = site.owner, site.leaf
        if leaf not in owner._parameters and leaf not in owner._buffers:
            raise ConversionError(f"{type(owner).__name__} has no parameter or buffer {leaf!r}")
        is_parameter = leaf in owner._parameters
        identity = (region_of(tensor), site.field.layout, shape or tensor.shape, is_parameter)
        entry = self._entries.get(identity)
        if entry is None:
            large = tensor.size * tensor.dtype.itemsize >= deferred.MIN_BYTES
            if is_parameter and large and self._defer_large and not getattr(tensor.storage, "loaded", True):
                in_order = site.field.layout is None and is_contiguous(tensor.shape, tensor.stride)
                value = deferred.deferred_parameter(tensor, arrange, lambda: arrange(contiguous_copy(tensor)), in_order)
            else:
                value = arrange(contiguous_copy(tensor))
            if is_parameter and not isinstance(value, nn.Parameter):
                value = nn.Parameter(value, requires_grad=value.is_floating_point())
            entry = self._entries[identity] = _Entry(value, tensor, [], shape, {})
        entry.sites.append(site)
        self._of_module[id(site.module)].append(identity)
        table: dict[str, Any] = owner._parameters if is_parameter else owner._buffers
        table[leaf] = entry.value
        return entry.number_of(gradient)

    def join(self, site: Site, tensor: LuaTensor, gradient: Any) -> int:
        """Replace the parameter of ``site`` by the one that other modules already use for the same elements.

        Args:
            site: as for :meth:`assign`; its parameter must not be tied.
            tensor, gradient: as for :meth:`assign`.

        Returns:
            As :meth:`assign`.
        """
        shape = tensor.shape
        parameters: dict[str, Any] = site.owner._parameters
        value = parameters[site.leaf]
        identity = (region_of(tensor), None, shape, True)
        entry = self._entries.setdefault(identity, _Entry(value, tensor, [], None, {}))
        entry.sites.append(site)
        self._of_module[id(site.module)].append(identity)
        parameters[site.leaf] = entry.value
        return entry.number_of(gradient)

    def discard(self, module: nn.Module) -> None:
        """Remove the fields of a module whose construction failed."""
        for identity in set(self._of_module.pop(id(module), ())):
            entry = self._entries[identity]
            entry.sites = [site for site in entry.sites if site.module is not module]
            if not entry.sites:
                del self._entries[identity]

    def tie(self, roots: Iterable[nn.Module]) -> None:
        """Tie parameters that overlap, and keep parameters and buffers shared that several modules contain.

        Args:
            roots: the converted models.
        """
        by_storage: dict[int, list[_Entry]] = defaultdict(list)
        for entry in self._entries.values():
            if isinstance(entry.value, nn.Parameter):
                by_storage[id(entry.tensor.storage)].append(entry)
                for site in entry.sites if len(entry.sites) > 1 else ():
                    if isinstance(site.owner, Placeholder):
                        site.owner.shared_names = site.owner.shared_names | {site.leaf}
            elif len(entry.sites) > 1:
                share_buffer(entry.sites)
        for entries in by_storage.values():
            entries.sort(key=lambda e: e.extent)
            group: list[_Entry] = []
            end = 0
            for entry in entries:
                if entry.tensor.size == 0:
                    continue
                if group and entry.extent[0] < end:
                    group.append(entry)
                else:
                    _tie(group)
                    group = [entry]
                end = max(end, entry.extent[1])
            _tie(group)
        if any(len(e.sites) > 1 for entries in by_storage.values() for e in entries):
            for root in roots:
                keep_shared(root)


def _tie(group: list[_Entry]) -> None:
    """Tie parameters whose ranges in the storage overlap, if they have common elements."""
    if len(group) < 2 or not _have_common_elements(group):
        return
    start, end = min(e.extent[0] for e in group), max(e.extent[1] for e in group)
    source = next(
        (e for e in group if e.extent == (start, end) and is_contiguous(e.tensor.shape, e.tensor.stride)), None
    )
    if source is None:
        source = _flat_source(group, start, end)
    for entry in group:
        for site in entry.sites if entry is not source else ():
            if isinstance(site.owner, Placeholder):  # its class runs in Lua, on a separate copy
                continue
            t = entry.tensor
            Tie(site, source.sites[0], t.shape, t.stride, t.offset - start, entry.torch_shape).install()


def _have_common_elements(group: list[_Entry]) -> bool:
    if all(is_contiguous(e.tensor.shape, e.tensor.stride) for e in group):
        return True
    elements = np.concatenate([e.elements() for e in group])
    return len(np.unique(elements)) < len(elements)


def _flat_source(group: list[_Entry], start: int, end: int) -> _Entry:
    """Return a new flat source for a group in which no parameter contains the others; the first module owns it."""
    from dpnn_bridge.conversion.fields import Field

    first = group[0].sites[0]
    storage = group[0].tensor.storage
    assert storage is not None
    flat = LuaTensor(group[0].tensor.class_name, (end - start,), (1,), start, storage)
    elements = contiguous_copy(flat)
    value = nn.Parameter(elements, requires_grad=elements.is_floating_point())
    names = chain(["shared_elements"], (f"shared_elements_{i}" for i in count(2)))
    name = next(name for name in names if not hasattr(first.owner, name))
    first.owner.register_parameter(name, value)
    site = Site(first.module, "", Field(name), first.owner, name)
    return _Entry(value, flat, [site], None, {})


def region_of(tensor: LuaTensor) -> tuple[Any, ...]:
    """Return a key for the elements that a tensor views; contiguous tensors of different shapes can have one key."""
    storage = id(tensor.storage)
    if is_contiguous(tensor.shape, tensor.stride):
        return (storage, tensor.offset, tensor.size)
    return (storage, tensor.offset, tensor.shape, tensor.stride)


def contiguous_copy(tensor: LuaTensor) -> Tensor:
    """Return a contiguous PyTorch copy of a Lua tensor; only the tensor's range of the storage is read."""
    if tensor.size == 0 or tensor.storage is None:
        return tensor.torch()
    start, stop = extent_of(tensor)
    elements = torch.from_numpy(tensor.storage.copy(start, stop))
    if is_contiguous(tensor.shape, tensor.stride):
        return elements.view(tensor.shape)
    view = elements.as_strided(tensor.shape, tensor.stride, tensor.offset - start)
    return view.clone(memory_format=torch.contiguous_format)


def extent_of(tensor: LuaTensor) -> tuple[int, int]:
    """Return the range ``(start, stop)`` of the tensor's elements in the storage."""
    if tensor.size == 0:
        return tensor.offset, tensor.offset
    first = last = tensor.offset
    for size, stride in zip(tensor.shape, tensor.stride, strict=True):
        first, last = first + min(0, (size - 1) * stride), last + max(0, (size - 1) * stride)
    return first, last + 1


def distinct_elements(value: LuaTensor | LuaStorage) -> int:
    """Return the number of elements that :func:`private_copy` copies: one that a view repeats counts once."""
    if isinstance(value, LuaStorage) or value.size == 0 or value.storage is None:
        return value.size
    start, stop = extent_of(value)
    return min(value.size, stop - start)


def private_copy(value: LuaTensor | LuaStorage) -> LuaTensor | LuaStorage:
    """Return a copy on its own memory; of a tensor contiguous, unless its view repeats elements."""
    if isinstance(value, LuaStorage):
        return LuaStorage(value.class_name, value.size, value.copy())
    if distinct_elements(value) == value.size or value.storage is None:
        return LuaTensor.from_numpy(value.numpy().copy(), value.class_name)
    start, stop = extent_of(value)
    storage = LuaStorage(value.storage.class_name, stop - start, value.storage.copy(start, stop))
    return LuaTensor(value.class_name, value.shape, value.stride, value.offset - start, storage)
