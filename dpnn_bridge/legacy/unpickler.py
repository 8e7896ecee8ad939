"""Unpickle files of ``torch.legacy.nn`` as data: no class or function of a pickle is imported or called."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from dpnn_bridge.base.contiguous import last_offset
from dpnn_bridge.base.display import described, shortened, summarized
from dpnn_bridge.errors import NotT7Error, T7FormatError
from dpnn_bridge.legacy.fields import only_pytorch
from dpnn_bridge.loaders.file_part import FilePart
from dpnn_bridge.loaders.hash_flood import SAFE, Memo
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS, MAX_REPEATED
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.objects import LuaStorage, LuaTensor, element_dtype

#: modules that define classes of ``torch.legacy.nn``
LEGACY_MODULES = ("torch.legacy.nn", "dpnn_bridge.legacy")


class InertObject:
    """An object of ``torch.legacy.nn`` without methods. Its fields are attributes.

    Attributes:
        class_name: name of the class of ``torch.legacy.nn`` that defines the fields.
        lua_class: Lua class.
    """

    class_name = lua_class = ""


class UniqueDict(dict):
    """The equivalent of ``hashable_uniq_dict``: a dict that may be a key and is compared by identity."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]
    __eq__, __ne__ = object.__eq__, object.__ne__


class Size(tuple):
    """The equivalent of ``torch.Size``, a plain tuple."""


def _size(sizes: Any = ()) -> Size:
    return Size(n if n == -1 else _check_size(n) for n in _check_dimensions(sizes))


#: rejected opcodes, which models do not use
_EXTENSIONS = (pickle.EXT1, pickle.EXT2, pickle.EXT4)
_SETS = (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
#: rejected opcodes that allocate memory before they read data, or create integers that are slow to hash
_LARGE = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.LONG4)


_TUPLES = (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
#: minimum number of bytes of the file for each list, dict and tuple on average; torch.save writes 5 or more by default
BYTES_PER_CONTAINER = 4


class _ClassName(str):
    """The name of a class of PyTorch that a pickle refers to but that is not called."""


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return the function of an opcode that creates a list, dict or tuple, which is counted."""

    def counted(unpickler: InertUnpickler) -> None:
        unpickler.count_container()
        load(unpickler)

    return counted


class InertUnpickler(pickle._Unpickler):  # the version in Python, whose memo allocates no memory for unused ids
    """Unpickler that does not import or call the classes and functions in a pickle.

    Args:
        file: the pickle.
        source: the file with the elements of storages.
        offsets: key of a storage -> offset of its first byte in ``source``; filled before elements are read.
    """

    dispatch: Any = dict(pickle._Unpickler.dispatch)
    stack: Any

    def __init__(self, file: FilePart, source: FileSource, offsets: dict[str, int]) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.memo = Memo()
        self._source, self._offsets = source, offsets
        self._classes: dict[str, type[InertObject]] = {}
        self.storages: dict[str, LuaStorage] = {}
        self._other_keys = self._pairs = self._containers = 0
        ordered, unordered = self._mappings = self._mapping(OrderedDict), self._mapping(UniqueDict)
        self._callable: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): ordered,
            ("torch", "Size"): _size,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._thnn.utils", "_unpickle_backend"): lambda name: None,
            ("torch.utils.serialization.read_lua_file", "hashable_uniq_dict"): unordered,
            ("dpnn_bridge.legacy.decoding", "hashable_uniq_dict"): unordered,
            ("dpnn_bridge.legacy.decoding", "_made"): self._made,
        }

    def refuse(self, what: str) -> NotT7Error:
        return NotT7Error(
            f"{self._source.name}: the pickle contains {shortened(what)}, which is not supported. "
            "Save a file that contains only objects of torch.legacy.nn, tensors and plain data"
        )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._callable:
            return self._callable[module, name]
        if module.startswith(LEGACY_MODULES) and name.isidentifier():
            return self._class(name, f"nn.{name}")
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return self._new
        if module in ("torch", "torch.cuda", "__builtin__", "builtins") and (
            name.endswith("Storage") or name == "object"
        ):
            return _ClassName(name)
        raise self.refuse(f"{module}.{name}")

    def _class(self, class_name: str, lua_class: str) -> type[InertObject]:
        if lua_class not in self._classes:
            body = {"class_name": class_name, "lua_class": lua_class}
            self._classes[lua_class] = type(class_name, (InertObject,), body)
        return self._classes[lua_class]

    def _made(self, lua_class: Any, base: Any) -> InertObject:
        """Create an object of a Lua class that ``torch.legacy.nn`` did not have, which :func:`load_lua` created."""
        if not isinstance(lua_class, str) or not (isinstance(base, type) and issubclass(base, InertObject)):
            raise self.refuse(f"an object of {described(lua_class)}")
        is_general = base.class_name in ("Module", "Container", "Criterion")
        return self._class(lua_class.rpartition(".")[2] if is_general else base.class_name, lua_class)()

    def _new(self, cls: Any, *_: Any) -> Any:
        if cls in self._mappings:
            return cls()
        if isinstance(cls, type) and issubclass(cls, InertObject):
            return cls()
        raise self.refuse(f"an object of {described(cls)}")

    def persistent_load(self, pid: Any) -> LuaStorage:
        if not isinstance(pid, tuple):  # the length of others has no limit, and each use of one id copies it
            raise self.refuse(f"a storage whose id is {described(pid)}")
        self._check_arguments(pid)
        tag, name, key, _, count, *view = pid
        dtype = element_dtype(f"torch.{name.replace('Bool', 'Byte')}") if isinstance(name, _ClassName) else None
        if tag != "storage" or dtype is None or not isinstance(key, str):
            raise self.refuse(f"a storage of {described(name)}")
        if key not in self.storages:
            offsets, size = self._offsets, _check_size(count)
            self.storages[key] = LuaStorage(
                f"torch.{name.replace('Bool', 'Byte')}",
                size,
                lambda: self._source.load(offsets[key], dtype.newbyteorder("<"), size),
                lambda start, stop: self._source.load(
                    offsets[key] + start * dtype.itemsize, dtype.newbyteorder("<"), stop - start
                ),
            )
        if not view or view[0] is None:
            return self.storages[key]
        raise self.refuse("a storage that is a view of another storage")

    def bytes_of(self, key: Any, count: int) -> int:
        """Check the number of elements of a storage, and return its size in bytes."""
        storage = self.storages[key]
        size = storage.size * storage.dtype.itemsize
        if count != storage.size or self._offsets[key] + size > self._source.size:
            raise T7FormatError(f"the storage {shortened(key)!r} is truncated", source=self._source.name)
        return size

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> LuaTensor:
        if not isinstance(storage, LuaStorage) or len(size) != len(stride):
            raise ValueError("expected a tensor of a storage, sizes and strides")
        class_name = storage.class_name.replace("Storage", "Tensor")
        size = [*map(_check_size, _check_dimensions(size))] or [1]
        stride = [*map(_check_size, _check_dimensions(stride))] or [1]
        offset = _check_size(offset)
        if not math.prod(size):
            return LuaTensor.empty(class_name)
        if offset + last_offset(size, stride) >= storage.size:
            raise ValueError("a tensor has elements outside its storage")
        if math.prod(size) > max(storage.size, MAX_REPEATED):
            raise ValueError(f"a tensor expands its storage to {math.prod(size):,} elements")
        return LuaTensor(class_name, tuple(size), tuple(stride), offset, storage)

    def _mapping(self, mapping_type: type[dict]) -> Callable[..., Any]:
        def make(pairs: Any = ()) -> dict[Any, Any]:
            items = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
            self._check_pairs(len(items))
            self._check_keys([key for key, _ in items])
            return mapping_type(items)

        return make

    def _check_keys(self, keys: list[Any]) -> None:
        """Limit the number of keys that are not strings, whose hashes may collide, which takes quadratic time.

        Tuples are rejected, because hashing a nested tuple can take exponential time and unlimited recursion.
        """
        if any(isinstance(key, tuple) for key in keys):
            raise self.refuse("a key that is a tuple")
        self._other_keys += sum(type(key) is not str for key in keys)
        if self._other_keys > SAFE:
            raise self.refuse(f"more than {SAFE:,} keys that are not strings")

    def _check_pairs(self, count: int) -> None:
        """Limit the number of copied pairs, because a small file can copy the same dict very often."""
        self._pairs += count
        if self._pairs > self._source.size:
            raise self.refuse("more copies of a dict than any model")

    def _check_arguments(self, arguments: Any) -> None:
        """Limit the number of arguments, which each call with the same tuple copies."""
        if isinstance(arguments, tuple) and len(arguments) > MAX_DIMENSIONS:
            raise self.refuse(f"a call with {summarized(arguments)}")

    def count_container(self, count: int = 1) -> None:
        """Limit the number of lists, dicts and tuples: one byte creates one, which needs a kilobyte as a table.

        An object counts as two: a few bytes create one, which gets the constants of its class.
        """
        self._containers += count
        if self._containers > self._source.size // BYTES_PER_CONTAINER + SAFE:
            raise self.refuse("more lists, dicts and tuples than a model of its size")

    # ------------------------------------------------------------------ opcodes that call functions or set values
    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        self._check_arguments(arguments)
        if function not in (*self._callable.values(), self._new) or not isinstance(arguments, tuple):
            raise self.refuse("a call")
        self.count_container(2)
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack[-1]
        self._check_arguments(arguments)
        if cls is _size and isinstance(arguments, tuple):  # as PyTorch 0.1 to 1.0 pickled sizes
            self.stack[-1] = _size(*arguments)
        elif arguments != ():
            raise self.refuse("an object with constructor arguments")
        else:
            self.count_container(2)
            self.stack[-1] = self._new(cls)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        fields = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        if isinstance(target, InertObject) and isinstance(fields, dict):
            self._check_pairs(len(fields))
            target.__dict__.update((k, v) for k, v in fields.items() if isinstance(k, str))
            class_name = type(target).class_name  # not target.class_name, which a field may replace
            if only_pytorch(class_name, target.__dict__):
                raise self.refuse(f"a {class_name} with settings that Torch7's nn.{class_name} does not have")
        elif not isinstance(target, OrderedDict):  # a state_dict has attributes with metadata
            raise self.refuse("the state of an object of another type")

    def load_setitem(self) -> None:
        self._check_keys([self.stack[-2]])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])  # the values above the mark
        super().load_setitems()  # type: ignore[misc]

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()  # type: ignore[misc]

    def load_refused(self) -> None:
        raise self.refuse("an opcode that creates objects")

    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.BUILD[0]: load_build}
    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict}
    for _code in (pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.LIST, pickle.DICT, pickle.TUPLE, *_TUPLES):
        dispatch[_code[0]] = _counted(dispatch[_code[0]])
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID, *_EXTENSIONS, *_SETS, *_LARGE):
        dispatch[_code[0]] = load_refused


def _check_size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"expected a size, found {described(value)}")
    return value


def _check_dimensions(sizes: Any) -> Any:
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(sizes):,} dimensions")
    return sizes
