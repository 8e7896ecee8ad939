"""Restore flat storages such as those of ``getParameters()``: parameters that are adjacent in a file stay adjacent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from dpnn_bridge.base.contiguous import is_contiguous
from dpnn_bridge.base.storage import memory_of
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.distributed import is_distributed, local
from dpnn_bridge.conversion.fields import Field, LuaRecord, get_tensor, grad_field, record_of, resolve
from dpnn_bridge.conversion.lua_class import ParameterSite
from dpnn_bridge.conversion.parametrized import current
from dpnn_bridge.conversion.ties import tie_of
from dpnn_bridge.objects import ORIGINS, LuaStorage, LuaTensor


class Place(NamedTuple):
    """The position of a contiguous tensor in a storage of the file.

    Attributes:
        origin: number of the storage.
        length: elements of the storage.
        start: first element of the tensor.
        size: elements of the tensor.
    """

    origin: int
    length: int
    start: int
    size: int


def place_of(tensor: Any) -> Place | None:
    """Return the position of a contiguous tensor in its storage; None for empty and other tensors, and other values."""
    if not isinstance(tensor, LuaTensor) or tensor.storage is None or not tensor.size:
        return None
    if not is_contiguous(tensor.shape, tensor.stride):
        return None
    return Place(tensor.storage.origin, tensor.storage.size, tensor.offset, tensor.size)


#: the tensors of a model that were in one storage of the file: first element -> position, module, name, field, gradient
_Members = dict[int, tuple[Place, nn.Module, str, Field, bool]]


def filled_storages(root: nn.Module) -> set[int]:
    """Return the numbers of the storages of the file that the parameters and buffers of a model fill now."""
    computed = sum(size for _, size in computed_fields(root))
    stored = _stored_members(root, gradients=False)
    return {n for n, members in stored.items() if _is_filled(members, computed, lambda tensor, _: tensor.dtype)}


def _stored_members(root: nn.Module, *, gradients: bool) -> dict[int, _Members]:
    """Return the tensors of a model by the number of their storage in the file."""
    found: dict[int, _Members] = defaultdict(dict)
    for module, record, name, field in _stored_fields(root):
        for gradient in (False, True)[: 1 + gradients]:
            place = record.places.get(grad_field(name, field) if gradient else name)
            if place is not None:
                found[place.origin].setdefault(place.start, (place, module, name, field, gradient))
    return found


def _is_filled(members: _Members, computed: int, kind_of: Callable[[Tensor, nn.Module], Any]) -> bool:
    """Return whether the current tensors lie one after another, fill their storage and are of one kind.

    Args:
        members: the tensors.
        computed: number of elements that dpnn's ``getParameters()`` appends, see :func:`computed_fields`.
        kind_of: function ``kind_of(tensor, module)`` that returns what elements of one storage have in common.
    """
    end, length, kinds = 0, 0, set()
    for place, module, _, field, _ in map(members.__getitem__, sorted(members)):
        tensor = current(module, field.attribute)
        if tensor is None or tensor.numel() != place.size or place.start != end:
            return False  # a layer was resized, or there is a gap
        kinds.add(kind_of(tensor, module))
        end, length = end + place.size, place.length
    return len(kinds) == 1 and end in (length, length - computed)


def _stored_fields(root: nn.Module) -> Iterator[tuple[nn.Module, LuaRecord, str, Field]]:
    """Yield the fields that may have a position: module, conversion metadata, name and field."""
    for module in root.modules():
        record = record_of(module)
        for name, field in registry.mapping_of(module).fields_of(module).items() if record else ():
            owner, leaf = resolve(module, field.attribute)
            is_none = leaf in owner._parameters and owner._parameters[leaf] is None
            if record is not None and not is_none and tie_of(owner, leaf) is None:
                yield module, record, name, field


def _is_computed(module: nn.Module, field: Field) -> bool:
    owner, leaf = resolve(module, field.attribute)
    return leaf not in owner._parameters and leaf not in owner._buffers


def stored_places(root: nn.Module) -> dict[str, dict[str, list[int]]]:
    """Return the positions of a model's tensors in flat storages: module name -> field -> numbers of a :class:`Place`.

    Storages are numbered from 0. :func:`set_places` is the inverse.
    """
    numbers: dict[int, int] = {}
    found: dict[str, dict[str, list[int]]] = {}
    for name, module in root.named_modules():
        record = record_of(module)
        for field, place in record.places.items() if record else ():
            if place.size < place.length:
                number = numbers.setdefault(place.origin, len(numbers))
                found.setdefault(name, {})[field] = [number, place.length, place.start, place.size]
    return found


def set_places(root: nn.Module, known: Any) -> None:
    """Set the positions from :func:`stored_places` in the conversion metadata of a model's modules.

    Args:
        root: the model.
        known: result of :func:`stored_places`, read from a file. Invalid values are ignored.
    """
    origins: dict[int, int] = {}
    modules = dict(root.named_modules())
    for name, places in known.items() if isinstance(known, dict) else ():
        record = record_of(modules[name]) if name in modules else None
        for field, numbers in places.items() if record and isinstance(places, dict) else ():
            if isinstance(numbers, list) and len(numbers) == 4 and all(type(n) is int and n >= 0 for n in numbers):
                origin = origins.setdefault(numbers[0], next(ORIGINS))
                record.places[field] = Place(origin, *numbers[1:])  # type: ignore[union-attr]


def computed_fields(root: nn.Module) -> list[tuple[ParameterSite, int]]:
    """Return the computed tensors that dpnn's ``getParameters()`` appends, with their numbers of elements."""
    computed: dict[tuple[int, str], tuple[ParameterSite, int]] = {}
    for module, name, field in registry.hidden_parameters(root):
        owner, leaf = resolve(module, field.attribute)
        if leaf not in owner._parameters:
            computed.setdefault((id(owner), leaf), ((module, name, field), getattr(owner, leaf).numel()))
    return list(computed.values())


class FlatStorages:
    """The storages of the source file that the tensors of a model fill completely.

    A vector of dpnn's ``getParameters()`` ends with the weights that the modules ``nn.WeightNorm`` compute.

    Args:
        root: the model.
        gradients: whether to include the storages of gradients.
        load: function ``load(module, name, field, gradient)`` that returns the elements of a field as an array, in
            Lua's order.
        class_of: function ``class_of(tensor, module)`` that returns the Lua class of a tensor of a module.
    """

    def __init__(
        self, root: nn.Module, gradients: bool, load: Callable[..., np.ndarray], class_of: Callable[..., str]
    ) -> None:
        self._load, self._class_of = load, class_of
        self._members = _stored_members(root, gradients=gradients)
        self._storages: dict[int, LuaStorage | None] = {}
        self._computed = computed_fields(root)

    def find(self, place: Place, module: nn.Module, name: str, tensor: Tensor) -> LuaStorage | None:
        """Return the storage of a position; None if it is incomplete or has elements of another tensor there.

        Tensors that share their memory have the same position. A copy of a module has it too, but other memory.

        Args:
            place: the position.
            module: the module with the tensor.
            name: name of its field.
            tensor: the parameter or buffer to write at the position; for a gradient, its parameter.
        """
        members = self._members.get(place.origin, {})
        if place.start not in members:
            return None
        _, owner, known, field, _ = members[place.start]
        is_field = record_of(owner) is record_of(module) and known == name
        if not (is_field and _is_computed(owner, field)):  # a computed tensor has other memory each time
            stored = current(owner, field.attribute)
            if stored is None or memory_of(local(stored)) != memory_of(local(tensor)):
                return None
        if place.origin not in self._storages:
            self._storages[place.origin] = self._create(place, members)
        return self._storages[place.origin]

    def _create(self, place: Place, members: _Members) -> LuaStorage | None:
        computed = sum(size for _, size in self._computed)
        if len(members) == 1 or not _is_filled(members, computed, self._class_of):
            return None
        first, *_ = arguments = [members[start][1:] for start in sorted(members)]
        if sum(p.size for p, *_ in members.values()) != place.length:
            arguments += [(*site, first[-1]) for site, _ in self._computed]

        def load() -> np.ndarray:
            return np.concatenate([self._load(*a) for a in arguments])

        # only one process writes the file, so all processes gather distributed parameters now
        distributed = any(is_distributed(get_tensor(module, field.attribute)) for module, _, field, _ in arguments)
        kind = self._class_of(current(first[0], first[2].attribute), first[0])
        storage = LuaStorage(kind.replace("Tensor", "Storage"), place.length, load() if distributed else load)
        storage.replaces = place.origin
        return storage
