"""Bind the functions of tensors and storages to a Lua state. The prelude finds them in its table ``py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.base.contiguous import last_offset
from dpnn_bridge.lua import ops  # noqa: F401  (importing ops fills FUNCTIONS and NATIVE)
from dpnn_bridge.lua.arguments import describe, element_type
from dpnn_bridge.lua.dispatch import FUNCTIONS, NATIVE
from dpnn_bridge.lua.environment import Allocator
from dpnn_bridge.lua.ops import construct, indexing
from dpnn_bridge.lua.ops.storage import STORAGE_METHODS, get, mapped_storage, new_storage, put
from dpnn_bridge.lua.printing import print_storage, print_tensor
from dpnn_bridge.lua.state import LuaState, padded, pointer
from dpnn_bridge.lua.tensor import DTYPES, Storage, Tensor, TorchError
from dpnn_bridge.lua.thnn import KERNELS, check_types, explain_failure
from dpnn_bridge.lua.visit import visitor


def _example(description: str) -> Any:
    """Return an argument that fits a description: ``number``, ``boolean``, a letter, or ``Double2``, a 2-D tensor."""
    if description in ("number", "boolean"):
        return 1 if description == "number" else True
    if len(description) == 1:
        return description
    ones = (1,) * int(description[-1])
    return Tensor(description[:-1], None, 0, ones, ones)


def builtin_entries(state: LuaState) -> dict[str, Any]:
    """Return all functions by the names that the prelude uses."""
    return (
        {
            "list": lambda *values: list(values),
            "append": lambda target, value: target.append(value),
            "same": lambda a, b: pointer(a) == pointer(b),
            "pointer": pointer,
            "address": _address,
            "half_bits": lambda storage: Storage("Short", flat=storage.flat.view(torch.int16)),
            "print_tensor": print_tensor,
            "print_storage": print_storage,
            "thnn_kernels": lambda ty: state.lua.table_from({name: _kernel(state, name, ty) for name in KERNELS}),
        }
        | _method_entries(state)
        | _constructor_entries(state)
        | _element_entries(state)
    )


def _method_entries(state: LuaState) -> dict[str, Any]:
    """Return the methods of each type and the functions of ``torch``."""
    table_from = state.lua.table_from

    def methods(ty: str) -> Any:
        table = {n: _method(state, n, ty) for n, f in FUNCTIONS.items() if ty in f.method_types}
        table |= {n: _native(state, n, ty) for n, (_, types) in NATIVE.items() if ty in types}
        return table_from(table)

    def functions_of(ty: str) -> Any:
        return table_from({n: _typed_function(state, n, ty) for n, f in FUNCTIONS.items() if ty in f.function_types})

    def storage_methods(ty: str) -> Any:
        skip = () if ty in ("Char", "Byte") else ("string",)
        size = DTYPES[ty].itemsize  # also called on the class: torch.LongStorage.elementSize()
        methods = {n: c for n, c in STORAGE_METHODS.items() if n not in skip}
        return state.guarded(methods | {"elementSize": lambda *_: size})

    def loops() -> Any:
        """Return what LuaJIT computes itself: name -> types with a loop for the method, whether torch.name has one."""
        rows = {}
        for name, f in FUNCTIONS.items():
            types = [ty for ty in f.method_types if f.has_loops(ty, True)]
            function = any(f.has_loops(ty, False) for ty in f.function_types)
            if types or function:
                rows[name] = table_from({"types": table_from(types), "function": function})
        return table_from(rows)

    def plan(name: str, ty: str | None, *descriptions: str) -> Any:
        """Return how LuaJIT calls a method of type ``ty``, or ``torch.name``, with arguments of these descriptions."""
        values = tuple(map(_example, descriptions))
        planned = FUNCTIONS[name].plan(ty or _dispatch_type(state, values)[0], values, ty is not None)
        if planned is None:
            return None
        small, slots = planned
        return table_from(
            {"family": small[0], "needs": list(small[1:]), "slots": [slot._asdict() for slot in slots]}, recursive=True
        )

    def set_default_type(ty: str | None = None) -> None:
        state.default_type = ty

    return {
        "methods": methods,
        "functions": lambda: table_from({n: _function(state, n) for n, f in FUNCTIONS.items() if f.function_types}),
        "functions_of": functions_of,
        "storage_methods": storage_methods,
        "loops": loops,
        "plan": plan,
        "set_default_type": set_default_type,
    }


def _constructor_entries(state: LuaState) -> dict[str, Any]:
    def numbers(table: Any) -> list[float]:
        return list(table.values())

    def tensor_of_numbers(ty: str) -> Callable[..., Any]:
        def create(flat: Any, sizes: Any) -> Tensor:
            return construct.tensor_of_numbers(ty, numbers(flat), [int(n) for n in numbers(sizes)])

        return state.guard(create)

    def create_storage(ty: str, *args: Any) -> Storage:
        if args and isinstance(args[0], Allocator):
            args = args[1:]
        named = bool(args) and isinstance(args[0], str) and not state.sandbox
        return (mapped_storage if named else new_storage)(ty, *args)

    return {
        "new_tensor": lambda ty: state.guard(lambda *args: construct.new_tensor(ty, *args)),
        "new_storage": lambda ty: state.guard(lambda *args: create_storage(ty, *args)),
        "tensor_of_numbers": tensor_of_numbers,
    }


def _element_entries(state: LuaState) -> dict[str, Any]:
    """Return the functions that read and write elements and geometry."""
    table_from = state.lua.table_from

    def set_geometry(t: Tensor, storage: Any, offset: float, size: Storage, stride: Storage) -> tuple[()]:
        sizes, strides, first = tuple(size.flat.tolist()), tuple(stride.flat.tolist()), int(offset) - 1
        if storage is not None and not (isinstance(storage, Storage) and storage.ty == t.ty):
            raise TorchError(f"torch.{t.ty}Storage expected, got {describe(storage)}")
        count = 0 if storage is None else storage.size
        inside = first >= 0 and min((*sizes, 1)) > 0 and min((*strides, 0)) >= 0
        if not inside or (sizes and first + last_offset(sizes, strides) >= count):
            raise TorchError(f"the file is corrupt: a tensor extends beyond its storage of {count} elements")
        t.geometry(storage, first, sizes, strides)
        return ()

    def totable(x: Tensor | Storage) -> Any:
        values = x.flat if isinstance(x, Storage) else x.t
        return table_from(values.tolist(), recursive=True)

    return {
        "get_number": state.guard(indexing.get_number),
        "put_number": state.guard(indexing.put_number),
        "get_table": state.guard(indexing.get_table),
        "put_table": state.guard(indexing.put_table),
        "get_object": state.guard(indexing.get_object),
        "put_object": state.guard(indexing.put_object),
        "storage_get": state.guard(get),
        "storage_put": state.guard(put),
        "totable": totable,
        "visitor": visitor,
        "set_geometry": state.guard(set_geometry),
    }


def _address(x: Tensor | Storage) -> int | None:
    """Return the address of the first element; Lua code may keep it, so the memory is pinned."""
    storage = x.storage if isinstance(x, Tensor) else x
    if storage is None:
        return None
    storage.block.pinned = True
    return x.t.data_ptr() if isinstance(x, Tensor) else storage.flat.data_ptr() or None


def _method(state: LuaState, name: str, ty: str) -> Callable[..., Any]:
    function, generator = FUNCTIONS[name], state.generator

    def call(*args: Any) -> Any:
        return function.run(ty, args, generator, True)

    return state.guard(call)


def _native(state: LuaState, name: str, ty: str) -> Callable[..., Any]:
    code = NATIVE[name][0]
    is_operator = name.startswith("__") and name != "__len__"  # the tensor may be the second operand

    def call(*args: Any) -> Any:
        self_ = args[0] if args else None
        if not is_operator and (type(self_) is not Tensor or self_.ty != ty):
            raise TorchError(f"bad argument #1 to '{name}' (torch.{ty}Tensor expected, got {describe(self_)})")
        return code(*padded(code, args))

    return state.guard(call)


def _function(state: LuaState, name: str) -> Callable[..., Any]:
    function, generator = FUNCTIONS[name], state.generator

    def call(*args: Any) -> Any:
        ty, args = _dispatch_type(state, args)
        if ty not in function.function_types:
            raise TorchError(f"torch.{ty}Tensor does not implement the torch.{name}() function")
        return function.run(ty, args, generator, False)

    return state.guard(call)


def _typed_function(state: LuaState, name: str, ty: str) -> Callable[..., Any]:
    function, generator = FUNCTIONS[name], state.generator
    return state.guard(lambda *args: function.run(ty, args, generator, False))


def _kernel(state: LuaState, name: str, ty: str) -> Callable[..., Any]:
    code = KERNELS[name]

    def call(*args: Any) -> tuple[()]:
        check_types(name, ty, args)
        known = (Tensor, bool, int, float, str, type(None))
        try:
            code(*[arg if isinstance(arg, known) else state.generator for arg in args])  # others are generators
        except (AttributeError, TypeError):
            explain_failure(name, ty, args)
            raise
        return ()

    return state.guard(call)


def _dispatch_type(state: LuaState, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Return the element type of a call, and its arguments without a class name at the end.

    The type is that of a tensor among the first two arguments, of a list of tensors as the first argument, of a class
    name such as ``torch.FloatTensor`` at the end, or the default type.
    """
    for arg in args[:2]:
        if type(arg) is Tensor:
            return arg.ty, args
    if args:
        if isinstance(args[0], list) and args[0] and type(args[0][0]) is Tensor:
            return args[0][0].ty, args
        if (named := element_type(args[-1])) is not None:
            return named, args[:-1]
    if state.default_type not in DTYPES:
        raise TorchError("internal error: the default tensor type does not seem to be an actual tensor")
    return state.default_type, args
