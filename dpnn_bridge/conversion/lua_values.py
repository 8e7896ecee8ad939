"""Convert between Lua values and Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.contiguous import contiguous_strides
from dpnn_bridge.base.graph import dict_items, key_text
from dpnn_bridge.conversion.storable import of_tensor
from dpnn_bridge.errors import ConversionLimitError, LuaValueError
from dpnn_bridge.objects import ELEMENT_DTYPES, LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype

#: the longest storage of sizes
MAX_SIZES = 16

#: fields that contain the results of the last call
RESULTS = ("output", "gradInput")


def to_value(value: Any, *, device: str | torch.device = "cpu") -> Any:
    """Return a Lua input or output as Python passes it to a module: tensors, lists (dicts for other keys), numbers.

    Tensors are copies; a tensor without dimensions becomes one of shape ``(0,)``.
    """
    return _Values(device).of(value)


#: values of nested tables, one in several places counted each time; bytes of their tensors beyond those of
#: the storages, which count :data:`PER_BYTE` times
MAX_VALUES, BYTES, PER_BYTE = 100_000, 1 << 28, 16


class _Values:
    def __init__(self, device: str | torch.device) -> None:
        self.device, self.count, self.bytes_left = device, 0, BYTES
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
            raise ConversionLimitError("its tensors repeat their elements too often for memory")
        return value.torch().clone().to(self.device)


def tensor_type(obj: LuaObject) -> str | None:
    """Return the Lua type of a module's tensors: from ``weight``, ``_type``, or its last results."""
    weight, kind = obj.get("weight"), obj.get("_type")
    if isinstance(weight, LuaTensor):
        return weight.class_name
    if isinstance(kind, str) and element_dtype(kind) is not None:
        return kind
    results = [obj.get(name) for name in RESULTS]  # a criterion's output is a number, the gradient for a pair a table
    results += [tensor for value in results if isinstance(value, LuaTable) for tensor in value.as_list()]
    return next((value.class_name for value in results if isinstance(value, LuaTensor)), None)


def numpy_dtype(tensor: Tensor) -> np.dtype:
    """Return the numpy dtype for a torch tensor; float32 for dtypes that Torch7 lacks, such as bfloat16.

    Raises:
        LuaValueError: its elements are no numbers of Torch7, such as complex ones.
    """
    dtype = in_numpy(torch.empty(0, dtype=tensor.dtype)).dtype
    if dtype not in ELEMENT_DTYPES.values():
        raise _no_tensor_of(dtype)
    return dtype


def _no_tensor_of(dtype: np.dtype | torch.dtype, path: str = "") -> LuaValueError:
    number = isinstance(dtype, torch.dtype) or dtype.kind in "biufc"
    cast = "cast it to another dtype" if number else "write it as a list of strings or numbers, tolist()"
    return LuaValueError(f"{_place(path)}Torch7 has no tensor of type {dtype}; {cast}")


def _place(path: str) -> str:
    return f"{path.removeprefix('.')}: " if path else ""


def in_numpy(tensor: Tensor) -> np.ndarray:
    """Return the elements of a tensor, as float32 where numpy lacks their type, such as bfloat16.

    Raises:
        LuaValueError: they are no numbers of Torch7, such as those of complex32 and quantized tensors.
    """
    host = tensor.detach().cpu().resolve_conj()
    try:
        return host.numpy()
    except TypeError:
        if not host.is_floating_point():
            raise _no_tensor_of(host.dtype) from None
        return host.float().numpy()


def emptied(value: Any, memo: dict[int, Any]) -> LuaTensor | LuaStorage | LuaTable:
    """Empty a buffer in the form that Torch7 resizes: tables keep their tensors, size storages their length.

    Args:
        value: a tensor, storage or table.
        memo: ``id`` of emptied values -> their result; fields that are one buffer in Torch7 remain one.
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
    """Return a new Lua object of a module class, as its constructor leaves one: with a type and empty results.

    Args:
        class_name: the Lua class.
        kind: class of its tensors.
        *modules: modules of a container.
        **fields: its other fields.
    """
    own = {"_type": kind, "output": LuaTensor.empty(kind), "gradInput": LuaTensor.empty(kind)}
    inner = {"modules": LuaTable.from_list(modules)} if modules else {}
    return LuaObject(class_name, LuaTable({**own, **inner, **fields}))


def lua_storage(tensor_class_name: str, value: Tensor) -> LuaStorage:
    """Return a lazy Lua storage with the elements of ``value`` in row-major order."""
    dtype = element_dtype(tensor_class_name)
    assert dtype is not None

    def load() -> np.ndarray:
        return np.array(in_numpy(value), dtype=dtype, order="C").reshape(-1)

    return LuaStorage(tensor_class_name.replace("Tensor", "Storage"), value.numel(), load)


def strided(class_name: str, shape: tuple[int, ...], storage: LuaStorage) -> LuaTensor:
    """Return a contiguous Lua tensor over a whole storage; one without elements has no dimensions."""
    if storage.size == 0:
        return LuaTensor.empty(class_name)
    shape = shape or (1,)
    return LuaTensor(class_name, shape, contiguous_strides(shape), 0, storage)


@runtime_checkable
class Convertible(Protocol):
    """An object that is not a PyTorch module but represents one, such as those of ``torch.legacy.nn``."""

    def to_torch(self, **options: Any) -> nn.Module:
        """Return the module, with parameters of its own."""
        ...

    def to_lua(self, memo: dict[str, Any]) -> LuaObject:
        """Return the Lua object. Objects and tensors in ``memo`` are the same ones again."""
        ...


def lua_value(value: Any, module: Callable[[Any], Any] | None = None, path: str = "") -> Any:
    """Convert a nested value of tensors, arrays, numbers and strings to Lua values; keep Lua values.

    Args:
        value: the value.
        module: turns a module into a Lua object, where there may be some.
        path: its place, for messages.

    Raises:
        LuaValueError: an array is masked or has elements that Torch7 knows no type for, or two keys of a dict are one
            in Lua.
    """
    if isinstance(value, Tensor):
        if reason := of_tensor(value):
            raise LuaValueError(f"{_place(path)}the tensor is {reason}")
        value = in_numpy(value).copy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        array = value.astype(np.uint8) if value.dtype == np.bool_ else value
        try:
            return LuaTensor.from_numpy(array)
        except KeyError:
            raise _no_tensor_of(value.dtype, path) from None
        except TypeError as error:
            raise LuaValueError(f"{_place(path)}{error}") from None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (list, tuple)):  # None leaves a gap, as nil
        return LuaTable((i, lua_value(v, module, f"{path}[{i}]")) for i, v in enumerate(value, 1))
    if isinstance(value, dict):
        table = LuaTable()
        for key, inner in value.items():
            name = lua_value(key, path=path)
            if name in table:
                raise LuaValueError(f"{_place(path)}two keys of the dict are {name!r} in Lua; rename one of them")
            table[name] = lua_value(inner, module, path + key_text(name))
        return table
    return module(value) if module is not None and isinstance(value, (nn.Module, Convertible)) else value
