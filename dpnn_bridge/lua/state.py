"""Create a Lua state with restricted access to Python, and pass calls and errors between Lua and Python."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.errors import LuaBridgeError, OptionError
from dpnn_bridge.lua.messages import error_text
from dpnn_bridge.lua.mirror import SharedStorages
from dpnn_bridge.lua.tensor import DTYPES, Storage, Tensor, TorchError
from dpnn_bridge.lua.text import for_lua
from dpnn_bridge.torch7.random import Generator

RUNTIMES = ("luajit21", "lua51")
#: codes of results that Lua gets, see `finish` in prelude/tensor.lua
_VALUE, _ERROR, _OBJECT, _NOTHING, _SEVERAL = 0, -1, -2, -3, -4
#: bytes of new tensors after which Lua collects garbage, few enough that memory is reused while it is in the CPU cache.
#: With a large Lua heap, which each collection traverses, up to _MAX_FACTOR times as many
_COLLECT_AFTER, _MAX_FACTOR = 128 << 20, 4
#: bytes from which on a copy is lazy: copied when one of both is written
_LAZY_COPY_FROM = 1 << 18
#: returns a lazy copy; a private operation of PyTorch, without which the copy is made immediately
_lazy_clone = getattr(torch.ops.aten, "_lazy_clone", torch.clone)


def check_runtime(name: str, sandbox: bool) -> None:
    """Raise :class:`OptionError` if there is no runtime of this name, or a sandbox cannot confine it."""
    if name not in ("auto", *RUNTIMES):
        raise OptionError(f"runtime must be 'auto', 'luajit21' or 'lua51', not {name!r}")
    if sandbox and name == "luajit21":
        raise OptionError("a sandbox needs runtime='lua51': LuaJIT's ffi and JIT cannot be confined")


def _import_runtime(name: str) -> tuple[Any, str]:
    """Return the lupa module and the name of a Lua runtime; for "auto", of the first that is available."""
    problem: ImportError | None = None
    for candidate in RUNTIMES if name == "auto" else (name,):
        try:
            return importlib.import_module(f"lupa.{candidate}"), candidate
        except ImportError as error:
            problem = error
    assert problem is not None
    what = f"the Lua runtime {name!r} (on platforms whose lupa has no LuaJIT use runtime='lua51')"
    raise missing_package(what, "lua", problem, ["lupa"]) from problem


class Host:
    """Services for Lua in a sandbox: output, and the Lua files of ``require``. Other bridges use this base class."""

    def write(self, text: str) -> None:
        """Write the output of ``io.write`` and ``print`` in a sandbox."""

    def module(self, name: Any) -> tuple[str | None, str] | None:
        """Return the path and text of the Lua file that ``require(name)`` loads in a sandbox, or None and an error."""
        return None


def _deny(_object: Any, _name: Any, _setting: bool) -> Any:
    raise AttributeError("Lua cannot access the attributes of Python objects")


def pointer(handle: Any) -> int:
    """Return the number that Lua uses as the pointer of an object."""
    return handle.pointer if isinstance(handle, (Tensor, Storage)) else id(handle)


def padded(code: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Append None, Lua's nil, for arguments without a default that are missing; the code then reports them."""
    function = getattr(code, "__code__", None)  # classes have none
    if function is None:
        return args
    required = function.co_argcount - len(code.__defaults__ or ()) - isinstance(code, MethodType)  # type: ignore[attr-defined]
    return (*args, *[None] * (required - len(args)))


def encode(result: Any, args: tuple[Any, ...]) -> Any:
    """Encode the result of a function for Lua; a result that is an argument is encoded as the argument's position."""
    if type(result) is Tensor or hasattr(result, "class_name"):
        for n, arg in enumerate(args, 1):
            if arg is result:
                return n
        return _OBJECT, result, result.class_name
    if type(result) is not tuple:
        return _VALUE, result
    if not result:
        return _NOTHING
    flat: list[Any] = [_SEVERAL]
    for value in result:
        position = next((n for n, arg in enumerate(args, 1) if arg is value), None)
        flat += [None, position] if position else [value, value.class_name]
    return tuple(flat)


@cache
def _prelude(name: str) -> str:
    return (resources.files("dpnn_bridge.lua") / "prelude" / name).read_text(encoding="utf-8")


class LuaState:
    """A Lua state and the calls between it and Python, without the torch package.

    Args:
        name: "auto" (LuaJIT if lupa contains it, else Lua 5.1), "luajit21" or "lua51".
        lua_path: folders that ``require`` searches first.
        sandbox: run untrusted code: Lua 5.1 without io, os, package, debug; see docs/lua.md.
        max_memory: bytes that Lua may use in a sandbox, without tensors, whose memory belongs to Python.
        max_instructions: Lua instructions that one call from Python may take in a sandbox.
        host: services for Lua in a sandbox.
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
        check_runtime(name, sandbox)
        module, self.name = _import_runtime("lua51" if sandbox else name)
        self.sandbox = sandbox
        self.lua_path = [Path(p) for p in lua_path]
        self.max_instructions = max_instructions
        self.memory_error: type[Exception] = module.LuaMemoryError
        self.error_types: tuple[type[Exception], ...] = (module.LuaError, self.memory_error)
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
        self._fresh_bytes = self._lua_bytes = 0
        self.shared = SharedStorages()
        self.default_type: str | None = "Double"
        self.generator = Generator()
        self.bridge = self.lua.table()
        self._api = self.lua.table()
        self._api["negative_zero"] = module.as_attrgetter(-0.0)  # passed as a number, it would become the integer 0

    def run_prelude(self, name: str) -> Any:
        """Run a Lua file of the folder ``prelude``."""
        code = _prelude(name)
        chunk = self.lua.compile(code, name=f"=dpnn_bridge/{name}".encode())
        return chunk(self.bridge, self._api)

    @property
    def torch(self) -> Any:
        """The table ``torch`` of Lua."""
        return self.bridge["torch"]

    def compile(self, code: str, name: str) -> Any:
        """Compile Lua source to a function. Bytecode is an error, because Lua does not verify it."""
        if code.startswith("\x1b"):
            raise LuaBridgeError("this is compiled Lua code, which is never run: pass the source")
        return self.lua.compile(code, name=name.encode("latin-1"))

    def register_builtins(self, entries: Mapping[str, Any]) -> None:
        """Add functions to the table that the prelude calls ``py``."""
        for name, value in entries.items():
            self._api[name] = value

    def sync_moved(self) -> None:
        """Update the addresses in Lua of memory that Python code outside the bridge has moved.

        All shared blocks are checked. If there are many, Lua collects garbage first, to release unused blocks.
        """
        if self.shared.many:
            self._collect()
        for block in self.shared.stale_blocks():
            self.bridge["memory_moved"](block)

    def copy_of(self, t: torch.Tensor) -> torch.Tensor:
        """Copy a tensor of Lua; a large tensor is copied only when Python writes it or Lua accesses it."""
        memory = t.untyped_storage()
        if t.nbytes < _LAZY_COPY_FROM or t.nbytes < memory.nbytes() or not t.is_contiguous() or not memory.resizable():
            return t.clone()
        prepare, blocks = self.bridge["prepare_lazy_copy"], self.shared.at(memory.data_ptr())
        if any(block.pinned or not (prepare is None or prepare(id(block))) for block in blocks):
            return t.clone()
        for block in blocks:
            block.address = None
        return _lazy_clone(t)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Limit the number of Lua instructions inside the ``with`` block to ``max_instructions``, in a sandbox."""
        if not self.sandbox or self._counting:
            yield
            return
        self.bridge["start_counting"](self.max_instructions)
        self._counting = True
        try:
            yield
        finally:
            self.bridge["stop_counting"]()
            self._counting = False

    def account(self, size: int) -> None:
        """Count ``size`` bytes of new tensors, which Lua does not count; collect garbage in Lua after enough bytes."""
        self._fresh_bytes += size
        if self._fresh_bytes > max(_COLLECT_AFTER, min(16 * self._lua_bytes, _MAX_FACTOR * _COLLECT_AFTER)):
            self._collect()

    def _collect(self) -> None:
        self._fresh_bytes = 0
        self._lua_bytes = 1024 * self.bridge["collect"]()
        self.shared.collected()

    # ---- binding Python code

    def guard(self, code: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function for Lua: its result is encoded, and an exception is returned as text."""

        def call(*args: Any) -> Any:
            try:
                result = code(*padded(code, args))
                encoded = encode(result, args)
                if type(result) is Tensor and type(encoded) is tuple:  # a new tensor, not an argument
                    self.account(result.numel * DTYPES[result.ty].itemsize)
                return encoded
            except TorchError as error:
                return _ERROR, for_lua(str(error))
            except Exception as error:
                return _ERROR, for_lua(error_text(error))

        return call

    def guarded(self, table: Mapping[str, Callable[..., Any]]) -> Any:
        """Return a Lua table of functions, each wrapped by :meth:`guard`."""
        return self.lua.table_from({name: self.guard(code) for name, code in table.items()})
