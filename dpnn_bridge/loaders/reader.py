"""Read Lua values from binary and ASCII streams, without recursion. Sizes are checked before memory is allocated."""

from __future__ import annotations

import functools
import math
import re
from typing import Any, NoReturn

from dpnn_bridge.base.contiguous import last_offset
from dpnn_bridge.base.display import printable
from dpnn_bridge.base.graph import key_text
from dpnn_bridge.errors import T7FormatError, T7LimitError
from dpnn_bridge.loaders.hash_flood import SAFE, Chunks, HashFloodGuard, chunk_size
from dpnn_bridge.loaders.primitives import (
    BOOLEAN,
    FUNCTION_6,
    FUNCTION_7,
    FUNCTION_8,
    NIL,
    NUMBER,
    STRING,
    TABLE,
    TORCH,
    number,
    text,
)
from dpnn_bridge.loaders.serializers import SERIALIZERS
from dpnn_bridge.loaders.shared_tables import SharedTables
from dpnn_bridge.loaders.stream import LimitError, StreamError
from dpnn_bridge.objects import BOOLEAN_KEYS, LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype

#: Maximum number of dimensions of a tensor, which all versions of numpy and torch support.
MAX_DIMENSIONS = 32
#: Maximum number of elements of a view with more elements than its storage (stride 0).
MAX_REPEATED = 1 << 28
#: Maximum stride, more than the size of any storage; prevents overflow in numpy for a dimension of size 1.
_MAX_STRIDE = 1 << 48

#: Special keys of a frame: the key of a table is read next; the value is sent to a serializer.
NO_KEY, STEPS = object(), object()
#: A compound value whose content is being read: dict of its table, or generator of its serializer; number of pairs to
#: read; key of the current pair; the value itself.
Frame = tuple[Any, int, Any, Any]

_REFERENCED: dict[int, tuple[type, ...]] = {
    TABLE: (LuaTable,),
    TORCH: (LuaTensor, LuaObject, LuaStorage),
    FUNCTION_7: (LuaFunction,),
    FUNCTION_8: (LuaFunction,),
}


class _OneValue:
    """Replacement for the generator of a serializer that reads one value; it takes a tenth of the memory."""

    __slots__ = ("begun", "name", "owner")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name, self.begun = owner, name, False

    def send(self, value: Any) -> None:
        if self.begun:
            setattr(self.owner, self.name, value)
            raise StopIteration
        self.begun = True


class Reader:
    """Reader for the consecutive objects of a stream. References may refer to earlier objects.

    Args:
        stream: source of the primitive values.
        referenced: whether equal indices refer to the same object; False for files of ``torch.save(…, false)``.
        max_depth: maximum nesting depth of objects.
        max_objects: maximum number of tables, objects, functions, tensors and storages.
    """

    def __init__(self, stream: Any, *, referenced: bool, max_depth: int, max_objects: int) -> None:
        self.stream, self.referenced = stream, referenced
        self.max_depth, self.max_objects = max_depth, max_objects
        self.storages: list[LuaStorage] = []
        self.memo: dict[int, Any] = {}
        self.count = 0
        self.chunks, self._indices = Chunks(), HashFloodGuard()
        self.next_check = min(max_objects, SAFE)  # number of objects at which check_count is called again
        self._stack: list[Frame] = []
        self._start = 0
        self._last_class = ""
        self._sharing = SharedTables()
        self._sharers: list[LuaObject | LuaFunction] = []  # may have the same table as another one

    def read(self) -> Any:
        """Return the next object of the stream.

        Raises:
            T7FormatError: the stream is damaged.
            T7LimitError: the stream exceeds a limit.
        """
        self._stack = []
        try:
            value = self._read(self._stack)
            sharers, self._sharers = self._sharers, []
            tables = (s.upvalues if isinstance(s, LuaFunction) else s.payload for s in sharers)
            self._sharing.check(tables, self.count)
            return value
        except StreamError as error:
            kind = T7LimitError if isinstance(error, LimitError) else T7FormatError
            offset = min(self._start, self.stream.size)
            where = {"offset": offset, "path": printable(path_of(self._stack)), "source": self.stream.source.name}
            raise kind(printable(str(error)), **where) from None

    def read_all(self) -> list[Any]:
        """Return all objects up to the end of the stream."""
        values = []
        while self.stream.remaining > 0:
            values.append(self.read())
        return values

    def _read(self, stack: list[Frame]) -> Any:
        root: dict[Any, Any] = {}
        contents: Any = root  # dict of a table, or generator of a serializer
        left, key, owner = 1, 1, None
        try:
            while True:
                value, frame = self.value()
                if frame is not None:
                    self.check_limits(len(stack), self.count)
                    stack.append((contents, left, key, owner))
                    contents, left, key, owner = frame
                    if left > SAFE:
                        left = self.chunks.first(contents, left)
                    continue
                while True:  # store the value in its owner; an owner that becomes complete is the next value
                    if key is NO_KEY:
                        key = table_key(value)
                        break
                    if key is STEPS:
                        if resume(contents, value):
                            break
                    else:
                        store(contents, key, value)
                        key = NO_KEY
                        left -= 1
                        if left:
                            break
                        if self.chunks.open and (left := self.chunks.next(contents)):
                            break
                    if not stack:
                        return root.get(1)
                    value = owner
                    contents, left, key, owner = stack.pop()
        except StreamError:
            stack.append((contents, left, key, owner))
            raise

    def check_limits(self, depth: int, count: int) -> None:
        """Raise an error if another level at this depth, or this number of objects, exceeds a limit."""
        if depth >= self.max_depth:
            raise LimitError(f"objects are nested deeper than {self.max_depth} (max_depth)")
        if count > self.max_objects:
            raise LimitError(f"more than {self.max_objects} objects (max_objects)")

    def check_count(self, count: int) -> int:
        """Raise an error for too many objects or colliding indices; return the number of objects for the next check."""
        self.check_limits(0, count)
        more = chunk_size(count)
        self._indices.check(self.memo, more)
        self.next_check = min(self.max_objects, count + more)
        return self.next_check

    def value(self) -> tuple[Any, Frame | None]:
        """Read the next value. For a compound value, also return the frame for reading its content, or None."""
        stream = self.stream
        self._start = stream.position
        code = stream.int()
        if code == NIL:
            return None, None
        if code == NUMBER:
            return number(stream.double()), None
        if code == STRING:
            return text(stream.string()), None
        if code == BOOLEAN:
            return stream.int() == 1, None
        if code == FUNCTION_6:
            return self._function(code, None)
        if not TABLE <= code <= FUNCTION_8:
            self._raise_misread(f"unknown type code {code}")
        index = stream.int()
        value = self.memo.get(index)
        if value is not None:
            self.check_reference(code, value)
            return value, None
        if code == TABLE:
            table = LuaTable()
            self.register(index, table)
            count = stream.check_count(stream.int(), least=stream.least_pair)
            return table, (table.entries, count, NO_KEY, table) if count else None
        if code == TORCH:
            return self._torch(index)
        return self._function(code, index)

    def register(self, index: int, value: Any) -> None:
        """Store a compound value under its index, for later references."""
        self.count += 1
        if self.count > self.next_check:
            self.check_count(self.count)
        if self.referenced:
            self.memo[index] = value

    def check_reference(self, code: int, value: Any) -> None:
        """Raise an error if a reference with this type code cannot refer to ``value``."""
        if value.__class__ not in _REFERENCED[code]:
            raise StreamError(f"a reference with type code {code} refers to {value!r}")

    def _torch(self, index: int) -> tuple[Any, Frame | None]:
        class_name, version = self._class()
        if element_dtype(class_name) is not None:
            if class_name.endswith("Tensor"):
                return self._tensor(index, class_name), None
            return self._storage(index, class_name), None
        obj = LuaObject(class_name, None, version=version)
        self.register(index, obj)
        serializer = SERIALIZERS.get(class_name)
        if serializer is not None:
            self._sharers.append(obj)
            return self._begin(obj, serializer.read(obj, self.stream))
        self._last_class = class_name
        if self.stream.peek_int() != TABLE:
            return self._begin(obj, _OneValue(obj, "payload"))
        before = self.count
        obj.payload, frame = self.value()
        if self.count == before:
            self._sharers.append(obj)
        return obj, frame and (*frame[:3], obj)

    def _begin(self, value: Any, steps: Any) -> tuple[Any, Frame | None]:
        return value, (steps, 0, STEPS, value) if resume(steps, None) else None

    def _class(self) -> tuple[str, Any]:
        """Read the name and version of a class. Old files contain no versions, so the version is 0."""
        raw = self.stream.string()
        version = _version(raw)
        if version is None:
            return text(raw), 0
        return text(self.stream.string()), version

    def _function(self, code: int, index: int | None) -> tuple[Any, Frame | None]:
        function = LuaFunction(self.stream.string(), type_code=code)
        if index is not None:
            self.register(index, function)
        self._sharers.append(function)
        return self._begin(function, _OneValue(function, "upvalues"))

    def _storage(self, index: int, class_name: str) -> LuaStorage:
        storage = self.stream.storage(class_name)
        self.register(index, storage)
        self.storages.append(storage)
        return storage

    def _tensor(self, index: int, class_name: str) -> LuaTensor:
        stream = self.stream
        ndim = stream.int()
        if not 0 <= ndim <= MAX_DIMENSIONS:
            raise StreamError(f"{class_name} of {ndim} dimensions")
        longs = stream.longs(ndim), stream.longs(ndim), stream.long()
        tensor = LuaTensor(class_name, longs[0], longs[1], longs[2] - 1, None)
        self.register(index, tensor)
        tensor.storage = self._storage_of(tensor)
        check_view(tensor)
        return tensor

    def _storage_of(self, tensor: LuaTensor) -> LuaStorage | None:
        stream = self.stream
        code = stream.int()
        if code == NIL:
            return None
        if code != TORCH:
            raise StreamError(f"the storage of a {tensor.class_name} has type code {code}")
        index = stream.int()
        storage = self.memo.get(index)
        if storage is None:
            class_name, _ = self._class()
            dtype = element_dtype(class_name)
            if dtype is None or dtype != tensor.dtype or not class_name.endswith("Storage"):
                raise StreamError(f"the storage of a {tensor.class_name} is a {class_name!r}")
            return self._storage(index, class_name)
        if not isinstance(storage, LuaStorage) or storage.dtype != tensor.dtype:
            raise StreamError(f"the storage of a {tensor.class_name} is {storage!r}")
        return storage

    def _raise_misread(self, message: str) -> NoReturn:
        """Raise an error for bytes that are no value; name the class that may have its own ``write`` method."""
        if self._last_class:
            message += (
                f" (the last object is a {self._last_class!r}; if this class has its own write method, "
                "register a serializer with dpnn_bridge.loaders.register_serializer)"
            )
        raise StreamError(message)


@functools.lru_cache(maxsize=64)
def _version(raw: bytes) -> int | float | None:
    match = re.fullmatch(rb"V ([0-9.]{1,15})", raw)
    try:
        return number(float(match[1])) if match else None
    except ValueError:
        return None


def table_key(value: Any) -> Any:
    """Return the key for ``value`` in :attr:`LuaTable.entries`."""
    if value is None or value != value:
        raise StreamError("a table key is nil or nan")
    return BOOLEAN_KEYS[value] if isinstance(value, bool) else value


def store(entries: dict[Any, Any], key: Any, value: Any) -> None:
    """Set ``table[key] = value``; nil removes the key."""
    if value is None:
        entries.pop(key, None)
    else:
        entries[key] = value


def resume(steps: Any, value: Any) -> bool:
    """Send a value to the generator of a serializer; return whether it reads another value."""
    try:
        steps.send(value)
    except StopIteration:
        return False
    return True


def check_view(tensor: LuaTensor) -> None:
    """Raise an error if a tensor has elements outside its storage."""
    shape, stride, offset, storage = tensor.shape, tensor.stride, tensor.offset, tensor.storage
    if not shape:
        return
    if min(shape) < 0 or min(stride) < 0 or max(stride) > _MAX_STRIDE:
        raise StreamError(f"{tensor.class_name} with sizes {shape} and strides {stride}")
    available = storage.size if storage is not None else 0
    if math.prod(n or 1 for n in shape) > max(available, MAX_REPEATED):
        raise LimitError(f"{tensor.class_name} with sizes {shape} over a storage of {available} elements")
    last = offset + last_offset(shape, stride)
    if min(shape) and (offset < 0 or last >= available):
        raise StreamError(
            f"{tensor.class_name} with sizes {shape}, strides {stride} and offset {offset} reaches beyond its storage "
            f"of {available} elements"
        )


def path_of(stack: list[Frame]) -> str:
    """Return the path of the current object: ``model.modules[3].weight``."""
    parts = []
    for _, _, key, owner in stack:
        if key is STEPS:
            if isinstance(owner, LuaFunction):
                parts.append(".upvalues")
        elif key is not NO_KEY and owner is not None:
            parts.append(key_text(key))
    if len(parts) > 60:
        parts[20:-20] = [f" … {len(parts) - 40} more … "]
    return "".join(parts).removeprefix(".")
