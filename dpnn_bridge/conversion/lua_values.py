"""Convert between Lua values and Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.contiguous import contiguous_strides
from dpnn_bridge.base.graph import dict_items, key_text
from dpnn_bridge.base.storage import own_copy
from dpnn_bridge.conversion.storable import problem_of
from dpnn_bridge.errors import ConversionLimitError, LuaValueError
from dpnn_bridge.objects import ELEMENT_DTYPES, LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype

#: maximum length of a storage that contains sizes of a tensor
MAX_SIZES = 16
#: maximum length of a list of settings, such as the ratios of a pyramid
MOST_SETTINGS = 100

#: fields that contain the results of a module's last call
RESULTS = ("output", "gradInput")


def to_value(value: Any, *, device: str | torch.device = "cpu") -> Any:
    """Convert a Lua input or output to the type that a PyTorch module takes: tensors, lists, dicts, numbers.

    Arrays become lists, other tables dicts. Tensors and storages become copies. An empty tensor has the shape ``(0,)``.

    Raises:
        ConversionLimitError: shared tables or repeated elements make the result far larger than the file.
    """
    return _Values(device).of(value)


def to_expected(value: Any) -> Any:
    """Convert a Lua value as :func:`to_value`, to compare it: tensors that repeat elements remain views that do."""
    return _Values("cpu", views=True).of(value)


#: maximum number of values in nested tables; a shared table counts each time
MAX_VALUES = 100_000
#: maximum bytes of the tensors: a constant, plus an amount per byte of the storages
BYTES, PER_BYTE = 1 << 28, 16


class _Values:
    """Converts one nested Lua value within the limits above."""

    def __init__(self, device: str | torch.device, *, views: bool = False) -> None:
        self.device, self.views, self.count, self.bytes_left = device, views, 0, BYTES
        self.storages: set[int] = set()

    def of(self, value: Any) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise ConversionLimitError(f"a nested table has more than {MAX_VALUES} values, or contains itself")
        if isinstance(value, LuaTable):
            array = value.as_list()
            if len(array) == len(value):
                return [self.of(v) for v in array]
            return {k: self.of(v) for k, v in dict_items(value)}
        if not isinstance(value, (LuaTensor, LuaStorage)):
            return value
        storage = value.storage if isinstance(value, LuaTensor) else value
        if storage is not None and id(storage) not in self.storages:
            self.storages.add(id(storage))
            self.bytes_left += PER_BYTE * storage.size * storage.dtype.itemsize
        self.bytes_left -= value.size * value.dtype.itemsize
        if self.bytes_left < 0:
            raise ConversionLimitError("its tensors repeat their elements so often that they exceed the memory limit")
        return (own_copy(value.torch()) if self.views else value.torch().clone()).to(self.device)


def tensor_type(obj: LuaObject) -> str | None:
    """Return the Lua type of a module's tensors, from ``weight``, ``_type``, or its last results; None if unknown."""
    weight, kind = obj.get("weight"), obj.get("_type")
    if isinstance(weight, LuaTensor):
        return weight.class_name
    if isinstance(kind, str) and element_dtype(kind) is not None:
        return kind
    results = [obj.get(name) for name in RESULTS]  # a criterion's output is a number; `gradInput` may be a table
    results += [tensor for value in results if isinstance(value, LuaTable) for tensor in value.as_list()]
    return next((value.class_name for value in results if isinstance(value, LuaTensor)), None)


def has_weight(obj: LuaObject) -> bool:
    """Return whether an object has a weight and its gradient."""
    weight, gradient = obj.get("weight"), obj.get("gradWeight")
    if not isinstance(weight, LuaTensor) or not isinstance(gradient, LuaTensor):
        return False
    return 0 < weight.size == gradient.size


def numpy_dtype(tensor: Tensor) -> np.dtype:
    """Return the numpy dtype in which a PyTorch tensor is written; float32 for dtypes such as bfloat16.

    Raises:
        LuaValueError: Torch7 has no such element type, for example for complex numbers.
    """
    dtype = in_numpy(torch.empty(0, dtype=tensor.dtype)).dtype
    if dtype not in ELEMENT_DTYPES.values():
        raise _unsupported_dtype(dtype)
    return dtype


def _unsupported_dtype(dtype: np.dtype | torch.dtype, path: str = "") -> LuaValueError:
    number = isinstance(dtype, torch.dtype) or dtype.kind in "biufc"
    cast = "cast it to another dtype" if number else "write it as a list of strings or numbers, tolist()"
    return LuaValueError(f"{_prefix(path)}Torch7 has no tensor of type {dtype}; {cast}")


def _prefix(path: str) -> str:
    return f"{path.removeprefix('.')}: " if path else ""


def in_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a numpy array; as float32 for floating point types that numpy lacks, such as bfloat16.

    Raises:
        LuaValueError: Torch7 has no such element type, for example for complex32 and quantized tensors.
    """
    host = tensor.detach().cpu().resolve_conj()
    try:
        return host.numpy()
    except TypeError:
        if not host.is_floating_point():
            raise _unsupported_dtype(host.dtype) from None
        return host.float().numpy()


def emptied(value: Any, memo: dict[int, Any]) -> LuaTensor | LuaStorage | LuaTable:
    """Return a copy of a temporary buffer without elements, which Torch7 can resize.

    Tables keep their tensors, tables and storages. Storages of sizes keep their elements.

    Args:
        value: a tensor, storage or table.
        memo: ``id`` of a buffer -> its empty copy; a buffer that several fields share stays shared.
    """
    stack = [value]
    while stack:  # no recursion: tables of a file may be nested deeply
        part = stack.pop()
        if isinstance(part, LuaTensor):
            memo.setdefault(id(part), LuaTensor.empty(part.class_name))
        elif isinstance(part, LuaStorage) and id(part) not in memo:
            size = part.size if part.size <= MAX_SIZES else 0
            memo[id(part)] = LuaStorage(part.class_name, size, part.copy(0, size))
        elif isinstance(part, LuaTable):
            kept = [(k, v) for k, v in part.items() if isinstance(v, (LuaTensor, LuaStorage, LuaTable))]
            copy = memo.setdefault(id(part), LuaTable())
            missing = [v for _, v in kept if id(v) not in memo]
            if missing:
                stack += [part, *missing]
                continue
            copy.update((k, memo[id(v)]) for k, v in kept if not isinstance(k, (LuaTensor, LuaStorage, LuaTable)))
    return memo[id(value)]


def fresh(class_name: str, kind: str, *modules: LuaObject, **fields: Any) -> LuaObject:
    """Return a new Lua object of a module class with a type and empty results, like the constructor in Torch7.

    Args:
        class_name: the Lua class.
        kind: Lua class of the module's tensors.
        *modules: modules of a container.
        **fields: the other fields.
    """
    own = {"_type": kind, "output": LuaTensor.empty(kind), "gradInput": LuaTensor.empty(kind)}
    inner = {"modules": LuaTable.from_list(modules)} if modules else {}
    return LuaObject(class_name, LuaTable({**own, **inner, **fields}))


def lua_storage(tensor_class_name: str, value: Tensor) -> LuaStorage:
    """Return a Lua storage that loads the elements of ``value`` in row-major order when they are read."""
    dtype = element_dtype(tensor_class_name)
    assert dtype is not None

    def load() -> np.ndarray:
        return np.array(in_numpy(value), dtype=dtype, order="C").reshape(-1)

    return LuaStorage(tensor_class_name.replace("Tensor", "Storage"), value.numel(), load)


def strided(class_name: str, shape: tuple[int, ...], storage: LuaStorage, start: int = 0) -> LuaTensor:
    """Return a contiguous Lua tensor of a storage's elements; one of an empty storage has no dimensions."""
    if storage.size == 0:
        return LuaTensor.empty(class_name)
    shape = shape or (1,)
    return LuaTensor(class_name, shape, contiguous_strides(shape), start, storage)


def new_tensor(class_name: str, value: Tensor) -> LuaTensor:
    """Return a new contiguous Lua tensor with the elements of ``value``."""
    return strided(class_name, tuple(value.shape), lua_storage(class_name, value.detach()))


@runtime_checkable
class Convertible(Protocol):
    """An object that represents a PyTorch module, such as the objects of ``torch.legacy.nn``."""

    def to_torch(self, **options: Any) -> nn.Module:
        """Return the PyTorch module, with new parameters."""
        ...

    def to_lua(self, memo: dict[str, Any]) -> LuaObject:
        """Return the Lua object. Objects and tensors that are in ``memo`` already are shared."""
        ...


def lua_value(value: Any, module: Callable[[Any], Any] | None = None, path: str = "") -> Any:
    """Convert a nested value of tensors, arrays, numbers and strings to Lua values; keep Lua values.

    Args:
        value: the value.
        module: function that converts a module to a Lua object; by default, modules are kept.
        path: path of the value, for messages.

    Raises:
        LuaValueError: an array is masked, Torch7 has no type for its elements, or two keys of a dict are equal in Lua.
    """
    if isinstance(value, Tensor):
        if reason := problem_of(value):
            raise LuaValueError(f"{_prefix(path)}the tensor is {reason}")
        value = in_numpy(value).copy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        array = value.astype(np.uint8) if value.dtype == np.bool_ else value
        try:
            return LuaTensor.from_numpy(array)
        except KeyError:
            raise _unsupported_dtype(value.dtype, path) from None
        except TypeError as error:
            raise LuaValueError(f"{_prefix(path)}{error}") from None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (list, tuple)):  # None becomes nil
        return LuaTable((i, lua_value(v, module, f"{path}[{i}]")) for i, v in enumerate(value, 1))
    if isinstance(value, dict):
        table = LuaTable()
        for key, inner in value.items():
            name = lua_value(key, path=path)
            if name in table:
                raise LuaValueError(f"{_prefix(path)}two keys of the dict are {name!r} in Lua; rename one of them")
            table[name] = lua_value(inner, module, path + key_text(name))
        return table
    return module(value) if module is not None and isinstance(value, (nn.Module, Convertible)) else value


def is_true(value: Any) -> bool:
    """Return whether Lua takes a value as true: every value but nil and false is, the number 0 too."""
    return value is not None and value is not False


def short_list(value: LuaTable) -> list[Any]:
    """Return the elements of a list of settings. Many modules may share it, so it must be short.

    Raises:
        ValueError: the list has more than :data:`MOST_SETTINGS` elements.
    """
    if len(value) > MOST_SETTINGS:
        raise ValueError(f"expected a list of at most {MOST_SETTINGS} settings, found {len(value):,}")
    return value.as_list()
