"""LuaBridge: a Lua state whose ``torch`` is PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import values
from dpnn_bridge.lua.converted import Converted
from dpnn_bridge.lua.runtime import Runtime

if TYPE_CHECKING:
    from dpnn_bridge.conversion.torch_context import TorchContext
    from dpnn_bridge.lua.module import LuaCriterion, LuaModule
    from dpnn_bridge.objects import LuaObject

StrPath = str | os.PathLike[str]


class LuaBridge:
    """Runs Lua code that was written for Torch7, on PyTorch tensors.

    Classes (``torch.class``), tensors, storages, random numbers, files and ``torch.Tester`` behave as in Torch7.
    Tensors share their memory with Python, both ways. Nothing runs but what the caller names.

    Args:
        lua_path: folders searched by ``require`` before Lua's own ``package.path``: folders of packages, or checkouts
            of torch/nn, dpnn, rnn … With a checkout of nn its own Lua files run; without one, ``require 'nn'`` gives
            the base classes that come with the bridge.
        runtime: "luajit21", "lua51", or "auto" for the first of them that lupa has here.
        sandbox: for code that is not trusted: Lua 5.1 without io, os, package, debug and ffi, with limits.
        max_memory: bytes that Lua may use in a sandbox. Tensors are Python's memory and not counted.
        max_instructions: Lua instructions that one call from Python may take in a sandbox.

    Raises:
        LuaBridgeError: the ``lua`` extra is not installed, or Lua code raised.

    Examples:
        >>> bridge = LuaBridge()
        >>> bridge.execute("return torch.range(1, 3):mul(2)")
        tensor([2., 4., 6.], dtype=torch.float64)
    """

    def __init__(
        self,
        lua_path: StrPath | Sequence[StrPath] = (),
        *,
        runtime: str = "auto",
        sandbox: bool = False,
        max_memory: int = 512 << 20,
        max_instructions: int = 1_000_000_000,
    ) -> None:
        folders = [lua_path] if isinstance(lua_path, (str, os.PathLike)) else list(lua_path)
        for folder in folders:
            if not Path(folder).is_dir():
                raise LuaBridgeError(f"lua_path names {folder}, which is not a folder")
        self._runtime = Runtime(runtime, folders, sandbox, max_memory, max_instructions)
        self._runtime.offer(Converted(self._runtime).entries())

    @classmethod
    def from_files(cls, files: Sequence[StrPath], **options: Any) -> LuaBridge:
        """A bridge that has run Lua files, such as those that define a user's layers.

        Args:
            files: Lua files, in order. Their folders are searched by ``require``.
            **options: as for :class:`LuaBridge`.
        """
        folders = list(dict.fromkeys(Path(f).resolve().parent for f in files))
        bridge = cls([*options.pop("lua_path", ()), *folders], **options)
        for file in files:
            bridge.run_file(file)
        return bridge

    @property
    def runtime(self) -> str:
        """Which Lua runs: "luajit21" or "lua51"."""
        return self._runtime.name

    # ---- running code

    def execute(self, code: str, *args: Any, name: str = "python") -> Any:
        """Run Lua code; ``...`` in it are the arguments.

        Returns:
            What the code returns, several values as a tuple.
        """
        return self._call(lambda: self._runtime.compile(code, f"={name}"), *args)

    def run_file(self, path: StrPath, *args: Any) -> Any:
        """Run a Lua file; ``...`` in it are the arguments."""
        path = Path(path)
        try:
            code = path.read_bytes()
        except OSError as error:
            raise LuaBridgeError(f"cannot read {path}: {error.strerror}") from None
        if code.startswith(b"\x1b"):
            raise LuaBridgeError(f"{path} is compiled Lua code, which is never run: pass its source")
        if code.startswith(b"#"):
            code = b"--" + code
        return self._call(lambda: self._runtime.compile(code.decode("latin-1"), f"@{path}"), *args)

    @property
    def lua_path(self) -> list[Path]:
        """The folders that ``require`` searches first."""
        return self._runtime.lua_path

    def require(self, name: str) -> Any:
        """``require(name)``"""
        return self.call(self._runtime.lua.globals()["require"], name)

    def call(self, function: Any, *args: Any) -> Any:
        """Call a Lua function with Python values and bring its results to Python."""
        return self._call(lambda: function, *args)

    def _call(self, function: Any, *args: Any) -> Any:
        with self.errors():
            results = self.helper("run")(function(), *[self.to_lua(a) for a in args])
        if isinstance(results, tuple):
            return tuple(self.to_python(r) for r in results)
        return self.to_python(results)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Within it errors of Lua are raised as :class:`LuaBridgeError`, and a sandbox counts instructions."""
        with self._runtime.limited():
            try:
                yield
            except self._runtime.error_types as error:
                raise LuaBridgeError(
                    str(error).rstrip() or "Lua ran out of the memory that max_memory allows"
                ) from error

    # ---- values

    def to_lua(self, value: Any) -> Any:
        """A Python value as a Lua value; tensors keep their memory."""
        return values.to_lua(self._runtime, value)

    def to_python(self, value: Any) -> Any:
        """A Lua value as a Python value; tensors keep their memory."""
        return values.to_python(self._runtime, value)

    def to_object(self, value: Any) -> Any:
        """The inert object of a Lua value, as :func:`dpnn_bridge.read_t7` would give it."""
        with self.errors():
            return values.write_object(self._runtime, self.to_lua(value))

    # ---- classes

    def has_class(self, name: str) -> bool:
        """Whether ``torch.class`` or ``torch.newmetatable`` made the class."""
        return self._runtime.torch["getmetatable"](name) is not None

    def helper(self, name: str) -> Any:
        """A Lua function of the bridge's own, see prelude/modules.lua."""
        return self._runtime.bridge[name]

    def type_of(self, value: Any) -> str:
        """``torch.type(value)``"""
        return self._runtime.torch["type"](value)

    def new(self, class_name: str, *args: Any) -> Any:
        """Construct an object of a Lua class, as ``nn.Linear(3, 4)`` does in Lua."""
        find = self._runtime.torch["getconstructortable"]
        if find(class_name) is None and self._runtime.bridge["define_converted"] is not None:
            self._runtime.bridge["define_converted"](class_name)  # nn's base is loaded, the class may be converted
        constructor = find(class_name)
        if constructor is None:
            raise LuaBridgeError(f"no Lua class is called {class_name}: run or require the file that defines it first")
        with self.errors():
            return constructor(*[self.to_lua(a) for a in args])

    def module(self, class_name: str, *args: Any) -> LuaModule:
        """Construct an object of a Lua module class and wrap it as a :class:`torch.nn.Module`."""
        return self.wrap(self.new(class_name, *args))

    def criterion(self, class_name: str, *args: Any) -> LuaCriterion:
        """Construct a Lua criterion and wrap it as a :class:`torch.nn.Module`."""
        from dpnn_bridge.lua.module import LuaCriterion

        return LuaCriterion(self, self.new(class_name, *args))

    def wrap(self, obj: Any) -> LuaModule:
        """A Lua module as a :class:`torch.nn.Module` with autograd."""
        from dpnn_bridge.lua.module import LuaModule

        return LuaModule(self, obj)

    def convert(self, obj: LuaObject, ctx: TorchContext | None = None) -> LuaModule | None:
        """What :func:`dpnn_bridge.load` calls for classes that only Lua knows.

        Returns:
            The object, alive in Lua, as a module; None when Lua does not know the class either.
        """
        if not self.has_class(obj.class_name):
            return None
        with self.errors():
            live = self.to_lua(obj)
        if live["updateOutput"] is None or live["parameters"] is None:
            return None
        module = self.wrap(live)
        module.training = obj.get("train") is not False
        return module

    # ---- random numbers

    def manual_seed(self, seed: int) -> None:
        """``torch.manualSeed(seed)``"""
        self._runtime.generator.manual_seed(seed)

    def default_dtype(self, dtype: torch.dtype) -> None:
        """``torch.setdefaulttensortype``"""
        from dpnn_bridge.lua.tensor import TYPE_OF_DTYPE

        self._runtime.torch["setdefaulttensortype"](f"torch.{TYPE_OF_DTYPE[dtype]}Tensor")
