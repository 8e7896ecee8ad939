"""Represent the content of a .t7 file: tables, objects, functions, tensors and storages. Needs only numpy.

Lua value            Python value
-----------------    ---------------------------------------------------------------------------
nil                  ``None``
number               ``int`` when integral and exactly representable, else ``float`` (-0.0, nan, inf kept)
boolean              ``bool``
string               ``str``; bytes that are not UTF-8 become surrogates (``surrogateescape``)
table                :class:`LuaTable`
function             :class:`LuaFunction`, which cannot be called
torch object         :class:`LuaObject`
torch.*Tensor        :class:`LuaTensor`
torch.*Storage       :class:`LuaStorage`

All compound values compare by identity, as in Lua, and may therefore be table keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from dpnn_bridge.base.display import printable
from dpnn_bridge.base.elements import Elements, require_unmasked
from dpnn_bridge.base.exclusive import Exclusive

if TYPE_CHECKING:
    import torch

_ELEMENT_TYPES = {
    "Byte": np.uint8,
    "Char": np.int8,
    "Short": np.int16,
    "Int": np.int32,
    "Long": np.int64,
    "Half": np.float16,
    "Float": np.float32,
    "Double": np.float64,
}

#: tensor or storage class -> numpy dtype. "torch.CudaTensor" means 32-bit float; other Cuda classes name their type.
ELEMENT_DTYPES: dict[str, np.dtype] = {
    f"torch.{prefix}{suffix}": np.dtype(t)
    for name, t in _ELEMENT_TYPES.items()
    for prefix in (name, "Cuda" if name == "Float" else f"Cuda{name}")
    for suffix in ("Tensor", "Storage")
}
_CPU_PREFIX = {np.dtype(t): f"torch.{name}" for name, t in _ELEMENT_TYPES.items()}
_CUDA_PREFIX = {d: "torch.Cuda" if d == np.float32 else p.replace(".", ".Cuda") for d, p in _CPU_PREFIX.items()}


def element_dtype(class_name: str) -> np.dtype | None:
    """Return the numpy dtype of a tensor or storage class, or None for other classes."""
    return ELEMENT_DTYPES.get(class_name)


def tensor_class(dtype: np.dtype | type, *, cuda: bool = False) -> str:
    """Return the tensor class of a numpy dtype: ``float32`` -> ``torch.FloatTensor``, on a GPU ``torch.CudaTensor``."""
    return (_CUDA_PREFIX if cuda else _CPU_PREFIX)[np.dtype(dtype)] + "Tensor"


ORIGINS = count()  # numbers for LuaStorage.origin; LuaStorage.replaces is the number of the storage that it replaces


class _BooleanKey:
    """``true`` or ``false`` as a table key, because ``True == 1`` in Python but not in Lua."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _boolean_key, (self.value,)


def _boolean_key(value: bool) -> _BooleanKey:
    return BOOLEAN_KEYS[value]


BOOLEAN_KEYS = {False: _BooleanKey(False), True: _BooleanKey(True)}


class LuaTable(MutableMapping):
    """A Lua table: a mapping with Lua's keys, in the order of the file.

    ``table[1]`` and ``table[1.0]`` are the same entry, but ``table[True]`` is a different entry. Compound keys compare
    by identity. A missing key raises ``KeyError``; use ``table.get(key)`` for Lua's nil. Storing None removes the key.
    """

    __slots__ = ("entries",)

    def __init__(self, items: MutableMapping | Iterable[tuple[Any, Any]] = ()) -> None:
        #: the dict, in which boolean keys are wrapped; readers and writers use it directly for speed
        self.entries: dict[Any, Any] = {}
        self.update(items)

    @classmethod
    def from_list(cls, values: Iterable[Any]) -> LuaTable:
        """Return a table with keys 1, 2, …; None is a gap."""
        return cls(enumerate(values, 1))

    def as_list(self) -> list[Any]:
        """Return the values of the keys 1, 2, … up to the first missing key, as Lua's ``ipairs``."""
        entries, values, i = self.entries, [], 1
        while i in entries:
            values.append(entries[i])
            i += 1
        return values

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.entries[BOOLEAN_KEYS[key] if isinstance(key, bool) else key]
        except KeyError:
            raise KeyError(key) from None

    def __setitem__(self, key: Any, value: Any) -> None:
        key = BOOLEAN_KEYS[key] if isinstance(key, bool) else key
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.entries[BOOLEAN_KEYS[key] if isinstance(key, bool) else key]

    def __iter__(self) -> Iterator[Any]:
        return (k.value if type(k) is _BooleanKey else k for k in self.entries)

    def __len__(self) -> int:
        """Return the number of all entries. Lua's ``#``, which counts only 1, 2, …, is ``len(table.as_list())``."""
        return len(self.entries)

    def __contains__(self, key: Any) -> bool:
        return (BOOLEAN_KEYS[key] if isinstance(key, bool) else key) in self.entries

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"LuaTable({_shown_keys(self)})"


def _shown_keys(table: LuaTable) -> str:
    keys = [printable(str(k)) if isinstance(k, (str, int, float)) else type(k).__name__ for k in islice(table, 8)]
    return ", ".join(keys) + (", …" if len(table) > 8 else "")


class LuaObject(MutableMapping):
    """An object of a Lua class, a mapping of its fields: ``obj["weight"]``, ``"bias" in obj``.

    Attributes:
        class_name: Lua class, such as ``nn.Linear``.
        version: version of the class in the file, 0 if the file contains none.
        payload: content of the object: a :class:`LuaTable` for nearly all classes, otherwise the value of a class with
            its own serializer (bytes of ``torch.Generator``, ``None`` for ``torch.Timer``).
        header: values that the class writes before its table (``nn.GPU``, ``nn.DataParallelTable``), otherwise ().
    """

    __slots__ = ("class_name", "header", "payload", "version")

    def __init__(self, class_name: str, payload: Any = ..., *, version: int = 1, header: tuple = ()) -> None:
        self.class_name, self.version, self.header = class_name, version, header
        self.payload = LuaTable() if payload is ... else payload

    def changed(self, changes: Mapping[Any, Any] | None = None, /, **fields: Any) -> LuaObject:
        """Return a copy with changed fields, and the same class, version and header. Values are not copied.

        Args:
            changes: field -> value, for names that are not Python identifiers; None removes the field.
            **fields: further fields and values.
        """
        payload = LuaTable(self.payload) if isinstance(self.payload, LuaTable) else self.payload
        copy = LuaObject(self.class_name, payload, version=self.version, header=self.header)
        for name, value in {**(changes or {}), **fields}.items():
            copy[name] = value
        return copy

    @property
    def fields(self) -> LuaTable:
        """The table of fields; an empty table if the payload is not a table."""
        return self.payload if isinstance(self.payload, LuaTable) else LuaTable()

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.fields[key]
        except KeyError:
            raise KeyError(f"{self.class_name} has no field {key!r}") from None

    def __setitem__(self, key: Any, value: Any) -> None:
        self.payload[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.payload[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __contains__(self, key: Any) -> bool:
        return key in self.fields

    def __bool__(self) -> bool:
        return True

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"<{printable(self.class_name)} with {_shown_keys(self.fields) or 'no fields'}>"


class LuaFunction:
    """A serialized Lua function, which is stored and exported but never run.

    Attributes:
        bytecode: the output of ``string.dump``.
        upvalues: the upvalues, a Lua value.
        type_code: type code in the file: 6, 7 or 8.
    """

    __slots__ = ("bytecode", "type_code", "upvalues")

    def __init__(self, bytecode: bytes, upvalues: Any = None, *, type_code: int = 8) -> None:
        self.bytecode, self.upvalues, self.type_code = bytecode, upvalues, type_code

    def __repr__(self) -> str:
        return f"<Lua function, {len(self.bytecode)} bytes of bytecode>"


class LuaStorage(Elements):
    """A 1-D block of elements, loaded at their first use.

    Attributes:
        class_name: Lua class, such as ``torch.FloatStorage``.
        size, given: number of elements, and whether the file contains them: they count in limits that depend on it.
        dtype: numpy dtype in native byte order.

    Args:
        load: the elements, or a function that reads them into a new array at each call.
        load_range: ``load_range(start, stop)`` reads some of the elements into a new array; None if that is not faster.
    """

    __slots__ = "_array", "_load", "_load_range", "_torch", "class_name", "dtype", "given", "origin", "replaces", "size"

    def __init__(
        self,
        class_name: str,
        size: int,
        load: Callable[[], np.ndarray] | np.ndarray,
        load_range: Callable[[int, int], np.ndarray] | None = None,
    ) -> None:
        dtype = element_dtype(class_name)
        if dtype is None:
            raise ValueError(f"{class_name} is not a storage class")
        self.class_name, self.size, self.dtype = class_name, size, dtype
        self._array: np.ndarray | None = load if isinstance(load, np.ndarray) else None
        self._load = None if isinstance(load, np.ndarray) else load
        self._load_range = load_range
        self._torch: Any = None
        self.origin, self.replaces, self.given = next(ORIGINS), -1, True  # see dpnn_bridge.loaders.relink

    @property
    def loaded(self) -> bool:
        """Whether the elements are in memory."""
        return self._array is not None

    def numpy(self) -> np.ndarray:
        """Return the elements as an aligned, writable array of shape ``(size,)``. All calls return the same array."""
        if self._array is None:
            with Exclusive(self):
                if self._load is not None:
                    self._array, self._load = self._load(), None
        assert self._array is not None
        return self._array

    def copy(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a writable copy of the elements from ``start`` to ``stop``.

        If the elements are not in memory, only the copy is read from the file if possible.
        """
        stop = self.size if stop is None else stop
        load = self._load  # another thread may load the elements and reset the attribute
        if self._array is None and self._load_range is not None:
            return self._load_range(start, stop)
        if self._array is None and load is not None and stop - start == self.size:
            return load()
        return self.numpy()[start:stop].copy()

    def torch(self) -> torch.Tensor:
        """Return the elements as a 1-D torch tensor that shares memory with :meth:`numpy`, always the same tensor."""
        if self._torch is None:
            import torch

            with Exclusive(self):
                if self._torch is None:
                    self._torch = torch.from_numpy(self.numpy())
        return self._torch

    def __reduce__(self) -> tuple[Any, ...]:
        return LuaStorage, (self.class_name, self.size, self.copy())

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{self.class_name} of {self.size}>"


class LuaTensor(Elements):
    """A strided view of a storage. Tensors of one storage share memory, in numpy and in torch.

    Attributes:
        class_name: Lua class, such as ``torch.FloatTensor`` or ``torch.CudaTensor``.
        shape: sizes; ``()`` is Torch7's tensor without dimensions, which is empty and not a scalar.
        stride: strides in elements.
        offset: index of the first element in the storage, from 0.
        storage: the :class:`LuaStorage`, or None for an empty tensor without storage.
    """

    __slots__ = ("class_name", "offset", "shape", "storage", "stride")

    def __init__(
        self, class_name: str, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, storage: LuaStorage | None
    ) -> None:
        self.class_name, self.shape, self.stride, self.offset, self.storage = class_name, shape, stride, offset, storage

    @classmethod
    def from_numpy(cls, array: np.ndarray, class_name: str | None = None) -> LuaTensor:
        """Create a contiguous tensor, which shares memory with a contiguous array.

        A scalar gets shape ``(1,)``. An array without elements becomes a tensor without dimensions.

        Raises:
            TypeError: ``class_name`` has another dtype, or the array is masked.
            KeyError: no tensor class has the dtype of the array.
        """
        array = np.asarray(require_unmasked(array))
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        name = class_name or tensor_class(array.dtype)
        expected = element_dtype(name)
        if expected is not None and array.dtype != expected:
            raise TypeError(f"{name} contains {expected}, the array {array.dtype}: use array.astype({expected})")
        if array.size == 0:
            return cls.empty(name)
        storage = LuaStorage(name.replace("Tensor", "Storage"), array.size, array.reshape(-1))
        strides = tuple(s // array.itemsize for s in array.strides)
        return cls(name, array.shape, strides, 0, storage)

    @classmethod
    def empty(cls, class_name: str = "torch.FloatTensor") -> LuaTensor:
        """Create Torch7's tensor without dimensions, ``torch.Tensor()``."""
        return cls(class_name, (), (), 0, None)

    @property
    def dtype(self) -> np.dtype:
        return ELEMENT_DTYPES[self.class_name]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements; 0 for a tensor without dimensions."""
        return math.prod(self.shape) if self.shape else 0

    def numpy(self) -> np.ndarray:
        """Return a writable numpy view of the storage; shape ``(0,)`` for a tensor without dimensions."""
        if self.size == 0 or self.storage is None:
            return np.empty(self.shape or (0,), self.dtype)
        base = self.storage.numpy()[self.offset :]
        strides = tuple(s * base.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(base, self.shape, strides)

    def torch(self) -> torch.Tensor:
        """Return a torch view of the storage; shape ``(0,)`` for a tensor without dimensions."""
        import torch

        if self.size == 0 or self.storage is None:
            return torch.from_numpy(np.empty(self.shape or (0,), self.dtype))
        return torch.as_strided(self.storage.torch(), self.shape, self.stride, self.offset)

    def __repr__(self) -> str:
        return f"<{self.class_name} {'x'.join(map(str, self.shape)) or 'empty'}>"


def elements(storage: LuaStorage) -> np.ndarray:
    """Return the elements of a storage; elements that are not in memory are read without caching them."""
    return storage.numpy() if storage.loaded else storage.copy()
