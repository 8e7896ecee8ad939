"""Decode the object graph of a ``.pt`` or ``.safetensors`` file, with the checks of the ``.t7`` reader.

Every reference, size, view and type is checked. So the decoded objects satisfy the same conditions as objects read from
a ``.t7`` file. :mod:`dpnn_bridge.outputs.container` describes the format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.storage import storage_elements, storage_id
from dpnn_bridge.loaders.hash_flood import SAFE, HashFloodGuard
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS, check_view
from dpnn_bridge.loaders.shared_tables import SharedTables
from dpnn_bridge.loaders.stream import StreamError
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype

#: maximum elements of storages without elements in the file: a fixed number, plus a number per element of state_dict
SPARE, SPARE_PER_ELEMENT = 1 << 16, 16


class GraphError(ValueError):
    """The graph is damaged."""


class Decoded(NamedTuple):
    """The content of a graph.

    Attributes:
        root: the Lua value.
        mapped_by: ``id`` of Lua objects -> the user's mapping or Lua file that converts them.
        flat: the part ``flat`` of the graph, unchecked.
        unmapped, names, frozen: the parts of the graph with these names; frozen is None in files of older versions that
            have no such part.
    """

    root: Any
    mapped_by: dict[int, str]
    flat: Any
    unmapped: list[str]
    names: dict[str, list[str]]
    frozen: frozenset[str] | None


def decode(text: Any, constants: Any, state_dict: Any) -> Decoded:
    """Decode a graph.

    Args:
        text: the graph as JSON.
        constants: the tensors that the graph refers to by number.
        state_dict: the parameters and buffers, by name.

    Raises:
        GraphError: the graph is damaged.
    """
    try:
        graph = parse_json(_of(text, str, "the graph"))
    except RecursionError:
        raise GraphError("the JSON is nested too deeply") from None
    nodes = _of(_of(graph, dict, "the graph").get("nodes"), list, "nodes")
    decoder = _Decoder(nodes, _of(constants, list, "constants"), _of(state_dict, dict, "state_dict"))
    unmapped, listed = (
        [_text(name) for name in _of(graph.get(part, []), list, part)] for part in ("unmapped", "frozen")
    )
    frozen = frozenset(listed) if "frozen" in graph else None
    names = {
        path: [_text(name) for name in _of(children, list, "names")]
        for path, children in _of(graph.get("names", {}), dict, "names").items()
    }
    return Decoded(decoder.decode(graph["root"]), decoder.mapped_by, graph.get("flat"), unmapped, names, frozen)


class _Decoder:
    def __init__(self, nodes: list[Any], constants: list[Any], state_dict: dict[Any, Any]) -> None:
        self.nodes, self.constants, self.state_dict = nodes, constants, state_dict
        for value in [*constants, *state_dict.values()]:
            _of(value, Tensor, "a constant or an entry of state_dict")
        stored = (min(t.numel(), storage_elements(t)) for t in state_dict.values())
        self.spare = SPARE + SPARE_PER_ELEMENT * sum(stored)
        self.unused = {storage_id(t): t.untyped_storage().nbytes() for t in state_dict.values()}  # in bytes
        self.bytes_left = sum(t.numel() * t.element_size() for t in constants)
        self.objects: list[Any] = []
        self.mapped_by: dict[int, str] = {}

    def decode(self, root: Any) -> Any:
        self.objects = [self._create(_of(node, dict, "a node")) for node in self.nodes]
        for node, obj in zip(self.nodes, self.objects, strict=True):
            if isinstance(obj, LuaTable):
                guard = HashFloodGuard()
                for at, pair in enumerate(_of(node["table"], list, "a table")):
                    if at and at % SAFE == 0:
                        _checked(guard.check, obj.entries, SAFE)
                    key, value = _of(pair, list, "an entry of a table")
                    key = self._value(key)
                    if key is None or key != key or isinstance(key, bytes):
                        raise GraphError("a table key is null, nan or bytes")
                    obj[key] = self._value(value)
            elif isinstance(obj, LuaObject):
                obj.payload = self._value(node["payload"])
                obj.header = tuple(self._value(v) for v in _of(node["header"], list, "a header"))
                if "mapping" in node:
                    self.mapped_by[id(obj)] = _text(node["mapping"])
            elif isinstance(obj, LuaTensor):
                storage = self._value(node["storage"])
                if storage is not None and (not isinstance(storage, LuaStorage) or storage.dtype != obj.dtype):
                    raise GraphError(f"the storage of a {obj.class_name} is {storage!r:.80}")
                obj.storage = storage
                _checked(check_view, obj)
        payloads = (obj.payload for obj in self.objects if isinstance(obj, LuaObject))
        _checked(SharedTables().check, payloads, len(self.objects))
        return self._value(root)

    def _create(self, node: dict[str, Any]) -> Any:
        """Create the object of a node, without references to other nodes."""
        if "table" in node:
            return LuaTable()
        if "object" in node:
            name, version = _text(node["object"]), node["version"]
            if element_dtype(name) is not None or type(version) not in (int, float):
                raise GraphError(f"an object of class {name!r:.80}, version {version!r:.40}")
            return LuaObject(name, None, version=version)
        if "tensor" in node:
            name = _class(node["tensor"], "Tensor")
            shape, stride = ([_size(n) for n in _of(node[part], list, part)] for part in ("shape", "stride"))
            if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
                raise GraphError(f"a {name} of shape {shape!r:.80} and strides {stride!r:.80}")
            return LuaTensor(name, tuple(shape), tuple(stride), _size(node["offset"]), None)
        if "bytes" in node:
            return self._constant(node["bytes"], torch.uint8).numpy().tobytes()
        return self._storage(_class(node["storage"], "Storage"), _size(node["size"]), node)

    def _storage(self, name: str, size: int, node: dict[str, Any]) -> LuaStorage:
        dtype = element_dtype(name)
        assert dtype is not None
        if "data" in node:
            array = self._constant(node["data"]).numpy()
            if array.dtype != dtype or array.size != size:
                raise GraphError(f"a {name} of {size} has {array.size} elements of type {array.dtype}")
            return LuaStorage(name, size, array)
        storage = LuaStorage(name, size, lambda: np.zeros(size, dtype), lambda i, j: np.zeros(j - i, dtype))
        if "key" in node:
            tensor = self.state_dict[node["key"]]
            if tensor.numel() != size:
                raise GraphError(f"a {name} of {size} is a tensor of {tensor.numel()} elements in state_dict")
            self.unused[storage_id(tensor)] -= tensor.nbytes
            storage.given = self.unused[storage_id(tensor)] >= 0  # several names may have one tensor
        else:
            self.spare -= size
            if self.spare < 0:
                raise GraphError("its storages are too large for the size of the file")
            storage.given = False
        return storage

    def _constant(self, index: Any, dtype: torch.dtype | None = None) -> Tensor:
        tensor = self.constants[_size(index)]
        self.bytes_left -= tensor.numel() * tensor.element_size()
        if tensor.dim() != 1 or not tensor.is_contiguous() or dtype not in (None, tensor.dtype) or self.bytes_left < 0:
            raise GraphError(f"constant {index} has another shape or type, or is used several times")
        return tensor

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            (index,) = value
            return self.objects[_size(index)]
        if isinstance(value, str):
            return _text(value)
        if value is None or isinstance(value, (bool, float)):
            return value
        if type(value) is int and value.bit_length() < 1024 and int(float(value)) == value:  # Lua's numbers are doubles
            return value
        raise GraphError(f"a value is {value!r:.60}")


def _checked(check: Callable[..., None], *arguments: Any) -> None:
    """Call a check of the ``.t7`` reader and convert its error to a :class:`GraphError`."""
    try:
        check(*arguments)
    except StreamError as error:
        raise GraphError(str(error)) from None


def _of(value: Any, kind: type, what: str) -> Any:
    """Return ``value``, or raise an error if it is not of type ``kind``."""
    if not isinstance(value, kind):
        raise GraphError(f"{what} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise GraphError(f"{value!r:.60} is not a size, index or offset")
    return value


def _text(value: Any) -> str:
    """Return a Lua string; bytes that are not UTF-8 are surrogates. Raise an error for other surrogates."""
    text = _of(value, str, "a string")
    if not text.isascii():
        text.encode("utf-8", "surrogateescape")
    return text


def _class(name: Any, kind: str) -> str:
    if element_dtype(_of(name, str, "a class")) is None or not name.endswith(kind):
        raise GraphError(f"{name!r:.80} is not a {kind.lower()} class")
    return name
