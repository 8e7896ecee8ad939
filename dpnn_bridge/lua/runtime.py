"""Create a Lua state with limited rights, and pass calls and errors between Lua and Python."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from dpnn_bridge.base.extras import install_advice
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import ops  # noqa: F401  (ops registers what FUNCTIONS and NATIVE contain)
from dpnn_bridge.lua.dispatch import FUNCTIONS, NATIVE, describe
from dpnn_bridge.lua.environment import Allocator, environment_entries, file_entries, random_entries
from dpnn_bridge.lua.mirror import Shared, mirror_entries
from dpnn_bridge.lua.ops import construct, indexing
from dpnn_bridge.lua.ops.storage import STORAGE_METHODS, get, mapped_storage, new_storage, put
from dpnn_bridge.lua.printing import print_storage, print_tensor
from dpnn_bridge.lua.system import system_entries
from dpnn_bridge.lua.tensor import DTYPES, Storage, Tensor, TorchError, cast_number
from dpnn_bridge.lua.text import for_lua
from dpnn_bridge.lua.thnn import KERNELS
from dpnn_bridge.torch7.random import Generator

RUNTIMES = ("luajit21", "lua51")
#: answers to Lua, see `finish` in prelude/tensor.lua
_PLAIN, _ERROR, _OBJECT, _NOTHING, _SEVERAL = 0, -1, -2, -3, -4


#: parts of the prelude that LuaJIT's ffi allows
_WITH_FFI = (
    *("ffi/state", "ffi/views", "ffi/elements", "ffi/loops", "ffi/arithmetic", "ffi/compare", "ffi/along"),
    *("ffi/indexing", "ffi/apply", "ffi/order", "ffi/products", "ffi/kernels", "ffi/random"),
)
#: bytes of tensors passed to Lua between two forced collections
_COLLECT_AFTER = 512 << 20


def _import_runtime(name: str) -> tuple[Any, str]:
    """Return the lupa module of a Lua, or of the first one that is available."""
    if name not in ("auto", *RUNTIMES):
        raise ValueError(f"runtime must be 'auto', 'luajit21' or 'lua51', not {name!r}")
    problem: ImportError | None = None
    for candidate in RUNTIMES if name == "auto" else (name,):
        try:
            return importlib.import_module(f"lupa.{candidate}"), candidate
        except ImportError as error:
            problem = error
    raise LuaBridgeError(
        f"the Lua runtime {name!r} is not available ({problem}). Install it: {install_advice('lua')}; "
        "on platforms whose lupa has no LuaJIT use runtime='lua51'"
    ) from problem


class Host:
    """The services that Lua calls: output of text, and in a sandbox the Lua files on its path."""

    def write(self, text: str) -> None:
        """Write the output of ``io.write`` and ``print`` in a sandbox."""

    def module(self, name: Any) -> tuple[str, str] | None:
        """Return the path and text of the Lua file that ``require(name)`` loads in a sandbox."""
        return None


def _deny(_object: Any, _name: Any, _setting: bool) -> Any:
    raise AttributeError("Python attributes are out of reach of Lua")


def _pointer(handle: Any) -> int:
    """Represent the C pointer of an object."""
    return handle.pointer if isinstance(handle, (Tensor, Storage)) else id(handle)


def encode(answer: Any, args: tuple[Any, ...]) -> Any:
    """Encode an answer for Lua; a returned argument is encoded as its number."""
    kind = type(answer)
    if kind is Tensor or hasattr(answer, "class_name"):
        for n, arg in enumerate(args, 1):
            if arg is answer:
                return n
        return _OBJECT, answer, answer.class_name
    if kind is not tuple:
        return _PLAIN, answer
    if not answer:
        return _NOTHING
    flat: list[Any] = [_SEVERAL]
    for value in answer:
        position = next((n for n, arg in enumerate(args, 1) if arg is value), None)
        flat += [None, position] if position else [value, value.class_name]
    return tuple(flat)


@cache
def _prelude(name: str) -> str:
    return (resources.files("dpnn_bridge.lua") / "prelude" / name).read_text(encoding="utf-8")


class Runtime:
    """A Lua state with the torch package over PyTorch.

    Args:
        name: "auto" (LuaJIT where there is one, else Lua 5.1), "luajit21" or "lua51".
        lua_path: folders whose packages ``require`` finds first.
        sandbox: run code that is not trusted: Lua 5.1 without io, os, package, debug; see docs/lua.md.
        max_memory: bytes that Lua may use in a sandbox (tensors are Python's and not counted).
        max_instructions: Lua instructions that one call from Python may take in a sandbox.
        host: services for a sandbox.
    """

    def __init__(
        self,
        name: str = "auto",
        lua_path: Sequence[str | os.PathLike[str]] = (),
        sandbox: bool = False,
        max_memory: int = 0,
        max_instructions: int = 0,
        host: Host | None = None,
    ) -> None:
        self.host = host or Host()
        if sandbox and name == "luajit21":
            raise ValueError("a sandbox needs runtime='lua51': LuaJIT's ffi and JIT cannot be confined")
        module, self.name = _import_runtime("lua51" if sandbox else name)
        self.sandbox = sandbox
        self.lua_path = [Path(p) for p in lua_path]
        self.max_instructions = max_instructions
        self.error_types: tuple[type[Exception], ...] = (module.LuaError, module.LuaMemoryError)
        limits = {"max_memory": max_memory} if sandbox else {}
        self.lua = module.LuaRuntime(
            encoding="latin-1",
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_deny,
            **limits,
        )
        self.lua_type: Callable[[Any], str | None] = module.lua_type
        self._counting = False
        self._fresh_bytes = 0
        self.shared = Shared()
        self.default_type = "Double"
        self.generator = Generator()
        self.bridge = self.lua.table()
        self._api = self.lua.table_from(self._api_entries())
        self.run_prelude("setup.lua")
        for part in (
            "classes",
            "tensor",
            "methods",
            *(_WITH_FFI if self.bridge["ffi"] else ()),
            "file",
            "tester",
            "cmdline",
            "environment",
            "packages",
            "thnn",
            "modules",
            "sandbox",
        ):
            self.run_prelude(f"{part}.lua")

    def run_prelude(self, name: str) -> Any:
        """Run one of the package's own Lua files."""
        code = _prelude(name)
        chunk = self.lua.compile(code, name=f"=dpnn_bridge/{name}".encode())
        return chunk(self.bridge, self._api)

    @property
    def torch(self) -> Any:
        """Lua's ``torch`` table."""
        return self.bridge["torch"]

    def compile(self, code: str, name: str) -> Any:
        """Return the Lua source as a function. Compiled code is refused, since Lua does not check it."""
        if code.startswith("\x1b"):
            raise LuaBridgeError("compiled Lua code is never run: pass the source")
        return self.lua.compile(code, name=name.encode("latin-1"))

    def register_builtins(self, entries: Mapping[str, Any]) -> None:
        """Add functions to what the prelude finds in `py`."""
        for name, value in entries.items():
            self._api[name] = value

    def sync_moved(self) -> None:
        """Tell Lua about memory that Python code outside has moved."""
        for block in self.shared.is_stale():
            self.bridge["moved"](block)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Count the Lua instructions inside the ``with`` block, in a sandbox."""
        if not self.sandbox or self._counting:
            yield
            return
        self._counting = True
        self.bridge["start_counting"](self.max_instructions)
        try:
            yield
        finally:
            self.bridge["stop_counting"]()
            self._counting = False

    def _account(self, answer: Tensor) -> None:
        """Have Lua collect after so many bytes of new tensors, which it does not see as its own memory."""
        self._fresh_bytes += answer.numel * DTYPES[answer.ty].itemsize
        if self._fresh_bytes > _COLLECT_AFTER:
            self._fresh_bytes = 0
            self.bridge["collect"]()

    # ---- binding Python code

    def guard(self, code: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function for Lua: answers are encoded, errors become text."""

        def call(*args: Any) -> Any:
            try:
                answer = code(*args)
                if type(answer) is Tensor:
                    self._account(answer)
                return encode(answer, args)
            except TorchError as error:
                return _ERROR, for_lua(str(error))
            except Exception as error:
                return _ERROR, for_lua(f"{type(error).__name__}: {error}")

        return call

    def guarded(self, table: Mapping[str, Callable[..., Any]]) -> Any:
        return self.lua.table_from({name: self.guard(code) for name, code in table.items()})

    def _method(self, name: str, ty: str) -> Callable[..., Any]:
        function, generator = FUNCTIONS[name], self.generator

        def call(*args: Any) -> Any:
            return function.run(ty, args, generator, True)

        return self.guard(call)

    def _native(self, name: str, ty: str) -> Callable[..., Any]:
        code = NATIVE[name][0]
        if name.startswith("__") and name != "__len__":  # an operator: either operand may be the tensor
            return self.guard(code)

        def call(*args: Any) -> Any:
            self_ = args[0] if args else None
            if type(self_) is not Tensor or self_.ty != ty:
                raise TorchError(f"bad argument #1 to '{name}' (torch.{ty}Tensor expected, got {describe(self_)})")
            return code(*args)

        return self.guard(call)

    def _function(self, name: str) -> Callable[..., Any]:
        function, generator = FUNCTIONS[name], self.generator

        def call(*args: Any) -> Any:
            ty, args = self._dispatch_type(args)
            if ty not in function.function_types:
                raise TorchError(f"torch.{ty}Tensor does not implement the torch.{name}() function")
            return function.run(ty, args, generator, False)

        return self.guard(call)

    def _typed_function(self, name: str, ty: str) -> Callable[..., Any]:
        function, generator = FUNCTIONS[name], self.generator
        return self.guard(lambda *args: function.run(ty, args, generator, False))

    def _kernel(self, code: Callable[..., None]) -> Callable[..., Any]:
        def is_plain(arg: Any) -> bool:
            return arg is None or isinstance(arg, (Tensor, bool, int, float, str))

        def call(*args: Any) -> tuple[()]:
            code(*[arg if is_plain(arg) else self.generator for arg in args])
            return ()

        return self.guard(call)

    def _dispatch_type(self, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """Return the first argument that is a tensor decides, then a list of tensors, then a type name at the end."""
        for arg in args[:2]:
            if type(arg) is Tensor:
                return arg.ty, args
        if args:
            if isinstance(args[0], list) and args[0] and type(args[0][0]) is Tensor:
                return args[0][0].ty, args
            last = args[-1]
            if isinstance(last, str) and last.startswith("torch.") and last[6:-6] in DTYPES:
                return last[6:-6], args[:-1]
        return self.default_type, args

    # ---- what the prelude finds in `py`

    def _api_entries(self) -> dict[str, Any]:
        lua = self.lua

        def methods(ty: str) -> Any:
            table = {n: self._method(n, ty) for n, f in FUNCTIONS.items() if ty in f.method_types}
            table |= {n: self._native(n, ty) for n, (_, types) in NATIVE.items() if ty in types}
            return lua.table_from(table)

        def functions_of(ty: str) -> Any:
            return lua.table_from(
                {n: self._typed_function(n, ty) for n, f in FUNCTIONS.items() if ty in f.function_types}
            )

        def storage_methods(ty: str) -> Any:
            skip = () if ty in ("Char", "Byte") else ("string",)
            size = DTYPES[ty].itemsize  # asked of the class too: torch.LongStorage.elementSize()
            methods = {n: c for n, c in STORAGE_METHODS.items() if n not in skip}
            return self.guarded(methods | {"elementSize": lambda *_: size})

        def set_default_type(ty: str) -> None:
            self.default_type = ty

        def numbers(table: Any) -> list[float]:
            return list(table.values())

        def set_geometry(t: Tensor, storage: Storage | None, offset: float, size: Storage, stride: Storage) -> None:
            t.geometry(storage, int(offset) - 1, tuple(size.flat.tolist()), tuple(stride.flat.tolist()))

        def set_elements(t: Tensor, values: Any) -> None:
            if t.numel:
                cast = [cast_number(v, t.ty) for v in values.values()]
                t.write(torch.tensor(cast, dtype=DTYPES[t.ty]))

        def address(x: Tensor | Storage) -> int | None:
            if isinstance(x, Storage):
                return x.flat.data_ptr() or None
            return x.t.data_ptr() if x.storage is not None else None

        def totable(x: Tensor | Storage) -> Any:
            values = x.flat if isinstance(x, Storage) else x.t
            return lua.table_from(values.tolist(), recursive=True)

        def tensor_of_numbers(ty: str) -> Callable[..., Any]:
            def create(flat: Any, sizes: Any) -> Tensor:
                return construct.tensor_of_numbers(ty, numbers(flat), [int(n) for n in numbers(sizes)])

            return self.guard(create)

        def create_storage(ty: str, *args: Any) -> Storage:
            if args and isinstance(args[0], Allocator):
                args = args[1:]
            named = bool(args) and isinstance(args[0], str) and not self.sandbox
            return (mapped_storage if named else new_storage)(ty, *args)

        def half_bits(storage: Storage) -> Any:
            return Storage("Short", flat=storage.flat.view(torch.int16))

        entries: dict[str, Any] = {
            "list": lambda *values: list(values),
            "append": lambda target, value: target.append(value),
            "same": lambda a, b: _pointer(a) == _pointer(b),
            "pointer": _pointer,
            "methods": methods,
            "functions": lambda: lua.table_from(
                {n: self._function(n) for n, f in FUNCTIONS.items() if f.function_types}
            ),
            "functions_of": functions_of,
            "storage_methods": storage_methods,
            "new_tensor": lambda ty: self.guard(lambda *args: construct.new_tensor(ty, *args)),
            "new_storage": lambda ty: self.guard(lambda *args: create_storage(ty, *args)),
            "tensor_of_numbers": tensor_of_numbers,
            "get_number": self.guard(indexing.get_number),
            "put_number": self.guard(indexing.put_number),
            "get_table": self.guard(indexing.get_table),
            "put_table": self.guard(indexing.put_table),
            "get_object": self.guard(indexing.get_object),
            "put_object": self.guard(indexing.put_object),
            "storage_get": self.guard(get),
            "storage_put": self.guard(put),
            "totable": totable,
            "elements": lambda t: lua.table_from(t.t.reshape(-1).tolist()),
            "set_elements": set_elements,
            "address": address,
            "set_geometry": set_geometry,
            "half_bits": lambda s: half_bits(s),
            "print_tensor": print_tensor,
            "print_storage": print_storage,
            "thnn_kernels": lambda: lua.table_from({n: self._kernel(c) for n, c in KERNELS.items()}),
            "set_default_type": set_default_type,
        }
        return (
            entries
            | mirror_entries()
            | system_entries(self)
            | random_entries(self)
            | file_entries(self)
            | environment_entries(self)
        )
