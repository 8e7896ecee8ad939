"""Convert values between Python and Lua.

=====================================  ==========================================
Python                                 Lua
=====================================  ==========================================
None, bool, int, float, str            nil, boolean, number, number, string
bytes                                  string; a str beyond Latin-1 is encoded as UTF-8
torch.Tensor                           tensor on the same memory
list, tuple                            table 1, 2, …
dict                                   table
LuaTensor                              tensor on the same memory
LuaObject, LuaTable, LuaStorage, …     the result of writing the value to a .t7 file and loading that
=====================================  ==========================================

Lua tables become lists if their keys are 1, 2, …, otherwise dicts. Tensors become torch.Tensor on the same memory, and
storages become 1-D tensors. Tensors of bool and bfloat16 are copied to ByteTensors and FloatTensors. Objects of Lua
classes and functions remain Lua objects, which Python can call and index. A list, dict or table that a value contains
several times is converted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.tensor import Storage, Tensor, check_passed
from dpnn_bridge.lua.text import as_bytes
from dpnn_bridge.objects import BOOLEAN_KEYS, LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.torch7.random import Generator


@wrap_errors(LuaBridgeError, "passing a value to Lua")
def to_lua(runtime: Runtime, value: Any, copy: bool = False) -> Any:
    """Convert a Python value to a Lua value.

    Args:
        runtime: the Lua state.
        value: see the table above.
        copy: whether Lua gets contiguous copies of PyTorch tensors instead of their memory.
    """
    return _to_lua(runtime, value, copy, {})


#: converted lists, tuples and mappings: ``id`` -> the value, so that it stays alive, and its Lua table
_Tables = dict[int, tuple[Any, Any]]


def _to_lua(runtime: Runtime, value: Any, copy: bool, tables: _Tables) -> Any:
    if runtime.lua_type(value) is not None:
        return value
    if isinstance(value, str):
        return as_bytes(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, torch.Tensor):
        check_passed(value)
        if value.device.type != "cpu":
            raise LuaBridgeError(f"Lua can use CPU memory only, the tensor is on {value.device}: pass tensor.cpu()")
        if copy:
            value = value.detach().clone(memory_format=torch.contiguous_format)
        tensor = Tensor.wrap(value)
        if copy:
            runtime.account(value.nbytes)
        else:
            runtime.shared.add(tensor)
        return wrap(runtime, tensor)
    if isinstance(value, (Tensor, Storage, Generator)):
        return wrap(runtime, value)
    if isinstance(value, LuaTensor):
        return wrap(runtime, Tensor.wrap(value.torch()))
    if isinstance(value, (LuaObject, LuaTable, LuaStorage, LuaFunction)):
        return read_object(runtime, value)
    if isinstance(value, (Mapping, list, tuple)):
        if id(value) not in tables:
            tables[id(value)] = value, _table(runtime, value, copy, tables)
        return tables[id(value)][1]
    raise LuaBridgeError(
        f"a {type(value).__name__} cannot be converted to a Lua value: pass numbers, strings, tensors, lists or dicts"
    )


def _table(
    runtime: Runtime, value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], copy: bool, tables: _Tables
) -> Any:
    if isinstance(value, Mapping):
        entries = {_to_lua(runtime, k, copy, tables): _to_lua(runtime, v, copy, tables) for k, v in value.items()}
        return runtime.lua.table_from(entries)
    return runtime.lua.table_from([_to_lua(runtime, v, copy, tables) for v in value])


def wrap(runtime: Runtime, handle: Tensor | Storage | Generator) -> Any:
    return runtime.bridge["wrap"](handle, handle.class_name)


@wrap_errors(LuaBridgeError, "converting a value of Lua")
def to_python(runtime: Runtime, value: Any) -> Any:
    """Convert a Lua value to a Python value; see the table above.

    Raises:
        LuaBridgeError: a table contains itself, or has the keys 1 and true, which are equal in Python.
    """
    if runtime.lua_type(value) != "table":
        return _to_python(runtime, value, {})
    converted: list[Any] = []
    runtime.bridge["locked"](lambda: converted.append(_to_python(runtime, value, {})))
    return converted[0]


def _to_python(runtime: Runtime, value: Any, done: dict[int, Any]) -> Any:
    lua_type = runtime.lua_type(value)
    if lua_type is None:
        return value
    handle = runtime.bridge["handle"](value)
    if isinstance(handle, (Tensor, Storage)):
        runtime.shared.add(handle)
        return handle.t if isinstance(handle, Tensor) else handle.flat
    if handle is not None:
        return handle
    if lua_type != "table" or runtime.bridge["typename"](value) is not None:
        return value
    pointer = runtime.bridge["pointer"](value)
    if pointer not in done:
        done[pointer] = _list_or_dict(runtime, value, done)
    return done[pointer]


def _list_or_dict(runtime: Runtime, value: Any, done: dict[int, Any]) -> list[Any] | dict[Any, Any]:
    """Convert a table to a list or dict; ``done`` maps pointers of tables to those converted before."""
    keys = list(value.keys())
    if sorted(k for k in keys if type(k) is int) == list(range(1, len(keys) + 1)):  # True is an int too
        return [_to_python(runtime, value[k], done) for k in range(1, len(keys) + 1)]
    entries = {_to_python(runtime, k, done): _to_python(runtime, v, done) for k, v in value.items()}
    if len(entries) != len(keys):
        raise LuaBridgeError("a Lua table with the keys 1 and true cannot become a dict: use to_object")
    return entries


def read_object(runtime: Runtime, value: Any) -> Any:
    """Convert a LuaObject, LuaTable, … to a Lua value, as ``torch.load`` does."""
    from dpnn_bridge.loaders.t7_writer import dumps

    data = torch.frombuffer(bytearray(dumps(value)), dtype=torch.int8)
    return runtime.torch["deserializeFromStorage"](wrap(runtime, Storage("Char", flat=data)))


def write_object(runtime: Runtime, value: Any) -> Any:
    """Convert a Lua value to a LuaObject, LuaTable, …, as ``torch.save`` writes it, with sorted entries of tables."""
    from dpnn_bridge.loaders.t7_reader import loads

    storage = runtime.bridge["handle"](runtime.torch["serializeToStorage"](value))
    result = loads(storage.flat.view(torch.uint8).numpy().tobytes())
    _sort_tables(result)
    return result


def _sort_tables(root: Any) -> None:
    """Sort the entries of all tables of an object in place.

    Lua writes them in the order of ``pairs``, which differs between processes.
    """
    queue, seen = [root], set[int]()
    while queue:
        value = queue.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, LuaTable):
            entries = sorted(value.entries.items(), key=lambda entry: (_rank(entry[0]), _rank(entry[1])))
            value.entries = dict(entries)
            queue += [item for entry in entries for item in entry]
        elif isinstance(value, LuaObject):
            queue += [value.payload, *value.header]
        elif isinstance(value, LuaFunction):
            queue.append(value.upvalues)


def _rank(value: Any) -> tuple[int, float, str]:
    """Return a sort key: numbers and boolean values, strings, boolean keys, compound values (all equal)."""
    if isinstance(value, str):
        return 1, 0, value
    if value in BOOLEAN_KEYS.values():
        return 2, value.value, ""
    return (0, value, "") if isinstance(value, (int, float)) else (3, 0, "")
