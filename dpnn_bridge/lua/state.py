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

from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.errors import LuaBridgeError, OptionError
from dpnn_bridge.lua.mirror import SharedStorages
from dpnn_bridge.lua.tensor import DTYPES, Storage, Tensor, TorchError
from dpnn_bridge.lua.text import for_lua
from dpnn_bridge.torch7.random import Generator

RUNTIMES = ("luajit21", "lua51")
#: answers to Lua, see `finish` in prelude/tensor.lua
_PLAIN, _ERROR, _OBJECT, _NOTHING, _SEVERAL = 0, -1, -2, -3, -4
#: bytes of new tensors between two forced collections: at least so many, so that their memory stays in the cache, and
#: up to _SPARSE times as many where Lua itself uses much, which each collection traverses
_COLLECT_AFTER, _SPARSE = 128 << 20, 4
#: bytes from which on a copy is made when it is needed
_LARGE = 1 << 18
#: returns a copy that is made when one of both is written; private to PyTorch, without it the copy is made at once
_lazy_clone = getattr(torch.ops.aten, "_lazy_clone", torch.clone)


def check_runtime(name: str, sandbox: bool) -> None:
    """Raise :class:`OptionError` unless the name is that of a Lua runtime, in a sandbox of one that can be confined."""
    if name not in ("auto", *RUNTIMES):
        raise OptionError(f"runtime must be 'auto', 'luajit21' or 'lua51', not {name!r}")
    if sandbox and name == "luajit21":
        raise OptionError("a sandbox needs runtime='lua51': LuaJIT's ffi and JIT cannot be confined")


def _import_runtime(name: str) -> tuple[Any, str]:
    """Return the lupa module of a Lua, or of the first one that is available."""
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
    """The services that Lua calls: output of text, and in a sandbox the Lua files on its path."""

    def write(self, text: str) -> None:
        """Write the output of ``io.write`` and ``print`` in a sandbox."""

    def module(self, name: Any) -> tuple[str, str] | None:
        """Return the path and text of the Lua file that ``require(name)`` loads in a sandbox."""
        return None


def _deny(_object: Any, _name: Any, _setting: bool) -> Any:
    raise AttributeError("Python attributes are out of reach of Lua")


def pointer(handle: Any) -> int:
    """Return the number that Lua uses as the C pointer of an object."""
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


class LuaState:
    """A Lua state and the calls between it and Python, without the torch package.

    Args:
        name: "auto" (LuaJIT where there is one, else Lua 5.1), "luajit21" or "lua51".
        lua_path: folders whose packages ``require`` finds first.
        sandbox: run code that is not trusted: Lua 5.1 without io, os, package, debug; see docs/lua.md.
        max_memory: bytes that Lua may use in a sandbox (tensors are Python's and not counted).
        max_instructions: Lua instructions that one call from Python may take in a sandbox.
        host: what a sandbox asks.
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
        self._fresh_bytes = self._lua_bytes = 0
        self.shared = SharedStorages()
        self.default_type: str | None = "Double"
        self.generator = Generator()
        self.bridge = self.lua.table()
        self._api = self.lua.table()
        self._api["negative_zero"] = module.as_attrgetter(-0.0)  # as a number it would arrive as the integer 0

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
        """Tell Lua about memory that Python code outside has moved.

        All shared memory is looked at, so Lua collects first what it does not use, when there is much of it.
        """
        if self.shared.many:
            self._collect()
        for block in self.shared.stale_blocks():
            self.bridge["moved"](block)

    def copy_of(self, t: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor of Lua; large memory is copied when Python writes it or Lua accesses it."""
        memory = t.untyped_storage()
        if t.nbytes < _LARGE or t.nbytes < memory.nbytes() or not t.is_contiguous() or not memory.resizable():
            return t.clone()
        lend, blocks = self.bridge["lend"], self.shared.at(memory.data_ptr())
        if any(block.pinned or not (lend is None or lend(id(block))) for block in blocks):
            return t.clone()
        for block in blocks:
            block.address = None
        return _lazy_clone(t)

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

    def account(self, size: int) -> None:
        """Have Lua collect after so many bytes of new tensors, which it does not see as its own memory."""
        self._fresh_bytes += size
        if self._fresh_bytes > max(_COLLECT_AFTER, min(16 * self._lua_bytes, _SPARSE * _COLLECT_AFTER)):
            self._collect()

    def _collect(self) -> None:
        self._fresh_bytes = 0
        self._lua_bytes = 1024 * self.bridge["collect"]()
        self.shared.collected()

    # ---- binding Python code

    def guard(self, code: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function for Lua: answers are encoded, errors become text."""

        def call(*args: Any) -> Any:
            try:
                answer = code(*args)
                if type(answer) is Tensor:
                    self.account(answer.numel * DTYPES[answer.ty].itemsize)
                return encode(answer, args)
            except TorchError as error:
                return _ERROR, for_lua(str(error))
            except Exception as error:
                return _ERROR, for_lua(f"{type(error).__name__}: {error}")

        return call

    def guarded(self, table: Mapping[str, Callable[..., Any]]) -> Any:
        return self.lua.table_from({name: self.guard(code) for name, code in table.items()})
