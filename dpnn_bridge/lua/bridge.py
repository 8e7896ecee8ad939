"""Define :class:`LuaBridge`, a Lua state whose ``torch`` package is PyTorch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.conversion.registry import mappings_of
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import values
from dpnn_bridge.lua.calls import OF_USER, methods_called
from dpnn_bridge.lua.converted import ConvertedModules
from dpnn_bridge.lua.environment import StrPath, folders, in_package, paths, read_source
from dpnn_bridge.lua.messages import explained
from dpnn_bridge.lua.module import LuaCriterion, LuaModule
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.tensor import NEW_MEMORY, TYPE_OF_DTYPE
from dpnn_bridge.lua.text import as_bytes, from_system, readable, to_system
from dpnn_bridge.objects import LuaObject

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import TorchContext
    from dpnn_bridge.torch7.random import Generator

#: types of the values that lupa converts -> their types in Lua
_LUA_TYPES = {type(None): "nil", bool: "boolean", int: "number", float: "number", str: "string"}
#: fields with work buffers of THNN's convolutions, which the bridge's kernels do not change, see lua/thnn/layer.py
_WORK_BUFFERS = ("finput", "fgradInput", "columns", "ones")
#: Lua code that redirects output to stderr
_TO_STDERR = Path(__file__).with_name("prelude") / "to_stderr.lua"


def _is_expanded(tensor: torch.Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


class LuaBridge:
    """Runs Lua code that was written for Torch7, on PyTorch tensors.

    Classes (``torch.class``), tensors, storages, random numbers, files and ``torch.Tester`` behave as in Torch7.
    Tensors share their memory with Python, in both directions. Only code that the caller passes or names runs.

    Args:
        lua_path: folders searched by ``require`` before Lua's own ``package.path``: folders of packages, or checkouts
            of torch/nn, dpnn, rnn … With a checkout of nn its own Lua files run; without one, ``require 'nn'`` loads
            the base classes that are part of the bridge.
        runtime: "luajit21", "lua51", or "auto": the first of the two that the installed lupa contains.
        sandbox: True runs untrusted code: Lua 5.1 without io, os, package, debug and ffi, in a separate process that
            the kernel restricts to computation, see docs/lua.md. Tensors are copied into and out of the process.
            "partial" continues with a warning if the kernel cannot restrict the process; with True that is an error.
        max_memory: bytes that Lua and its tensors may use in a sandbox.
        max_instructions: Lua instructions that one call from Python may take in a sandbox.
        max_seconds: wall-clock seconds that one call from Python may take in a sandbox; then the process is killed.

    Raises:
        MissingPackageError: the ``lua`` extra is not installed.
        OptionError: there is no such runtime.
        LuaBridgeError: ``lua_path`` contains a path that is not a folder, a sandbox cannot start, or a limit is not
            positive.

    Examples:
        >>> bridge = LuaBridge()
        >>> bridge.execute("return torch.range(1, 3):mul(2)")
        tensor([2., 4., 6.], dtype=torch.float64)
    """

    @checks_arguments
    def __init__(
        self,
        lua_path: StrPath | Sequence[StrPath] = (),
        *,
        runtime: str = "auto",
        sandbox: bool | Literal["partial"] = False,
        max_memory: float = 2 << 30,
        max_instructions: float = 1_000_000_000,
        max_seconds: float = 60,
    ) -> None:
        if sandbox:
            raise LuaBridgeError(f"{type(self).__name__} is a subclass of LuaBridge and has no sandbox: use LuaBridge")
        self._start(Runtime(runtime, folders(lua_path)))

    def __new__(cls, *args: Any, sandbox: bool | Literal["partial"] = False, **options: Any) -> LuaBridge:
        if sandbox and cls is LuaBridge:
            subclass: Any = importlib.import_module("dpnn_bridge.lua.sandboxed_bridge")  # which imports this module
            return super().__new__(subclass.SandboxedBridge)
        return super().__new__(cls)

    def _start(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._chunks: set[str] = set()  # names of the code that the caller ran
        runtime.register_builtins(ConvertedModules(runtime).entries())

    @classmethod
    def from_runtime(cls, runtime: Runtime) -> LuaBridge:
        """Return a bridge to an existing Lua state."""
        bridge = super().__new__(cls)
        bridge._start(runtime)
        return bridge

    @classmethod
    def from_files(cls, files: StrPath | Sequence[StrPath], *, to_stderr: bool = False, **options: Any) -> LuaBridge:
        """Create a bridge and run Lua files in it, such as the definitions of a user's layers.

        Args:
            files: a Lua file, or several in order. ``require`` searches their folders too.
            to_stderr: redirect the output of Lua to stderr.
            **options: as for :class:`LuaBridge`.
        """
        named = paths(files, "lua= (--lua)")
        parents = list(dict.fromkeys(Path(os.path.realpath(f)).parent for f in named))
        bridge = cls([*folders(options.pop("lua_path", ())), *parents], **options)
        if to_stderr:
            bridge.print_to_stderr()
        for file in named:
            bridge.run_file(file)
        return bridge

    def print_to_stderr(self) -> None:
        """Redirect the output of Lua to stderr from now on."""
        self.execute(_TO_STDERR.read_text(encoding="utf-8"))

    @property
    def runtime(self) -> str:
        """Name of the Lua runtime: "luajit21" or "lua51"."""
        return self._runtime.name

    @property
    def sandboxed(self) -> bool:
        """Whether Lua runs in a separate process that can only compute."""
        return False

    # ---- running code

    @checks_arguments
    def execute(self, code: str, *args: Any, name: str = "python") -> Any:
        """Run Lua code.

        Args:
            code: Lua source.
            *args: Python values, which the code gets as ``...``.
            name: name of the code in error messages.

        Returns:
            The return value of the code; a tuple of several return values.
        """
        return self.run_source(as_bytes(code), f"={from_system(name)}", *args)

    @checks_arguments
    def run_file(self, path: StrPath, *args: Any) -> Any:
        """Run a Lua file, which gets the arguments as ``...``."""
        return self.run_source(read_source(Path(path)), f"@{from_system(path)}", *args)

    def run_source(self, code: str, name: str, *args: Any) -> Any:
        """Run Lua code under a chunk name, such as ``@file.lua``."""
        self._chunks.add(name)
        return self._call(lambda: self._runtime.compile(code, name), *args)

    @property
    def lua_path(self) -> list[Path]:
        """The folders that ``require`` searches first."""
        return self._runtime.lua_path

    def require(self, name: str) -> Any:
        """Call ``require(name)``."""
        return self.call(self._runtime.lua.globals()["require"], name)

    def call(self, function: Any, *args: Any) -> Any:
        """Call a Lua function with Python values and return its results as Python values."""
        return self._call(lambda: function, *args)

    def method(self, obj: Any, name: str, *args: Any) -> Any:
        """Call ``obj:name(...)``."""
        return self.call(self.helper("method"), obj, name, *args)

    def _call(self, function: Any, *args: Any) -> Any:
        self._runtime.sync_moved()
        return self._run(function, *args)

    def _run(self, function: Any, *args: Any) -> Any:
        """Call a Lua function after another, between which no code of the user has moved memory."""
        with self._caught():
            results = self.helper("run")(function(), *[self.to_lua(a) for a in args])
        if isinstance(results, tuple):
            return tuple(self.to_python(r) for r in results)
        return self.to_python(results)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise Lua errors as :class:`LuaBridgeError`, and count instructions in a sandbox."""
        self._runtime.sync_moved()
        with self._caught():
            yield

    @contextmanager
    def _caught(self) -> Iterator[None]:
        with self._runtime.limited():
            try:
                yield
            except self._runtime.error_types as error:
                if self._runtime.sandbox and isinstance(error, self._runtime.memory_error):
                    raise LuaBridgeError("Lua exceeded max_memory") from error
                raise LuaBridgeError(explained(readable(str(error)))) from error

    # ---- values

    def to_lua(self, value: Any) -> Any:
        """Convert a Python value to a Lua value; tensors share their memory."""
        return values.to_lua(self._runtime, value)

    def copy_to_lua(self, value: Any) -> Any:
        """Convert a Python value to a Lua value with copies of its tensors, which Lua may keep and overwrite.

        The copies are contiguous, as most Lua code expects; gradients from PyTorch often are not.
        """
        return values.to_lua(self._runtime, value, copy=True)

    def copy_from_lua(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor from :meth:`to_python`, so that Lua does not overwrite it."""
        return self._runtime.copy_of(tensor)

    def to_python(self, value: Any) -> Any:
        """Convert a Lua value to a Python value; tensors share their memory."""
        return values.to_python(self._runtime, value)

    def to_object(self, value: Any) -> Any:
        """Convert a Lua value to what :func:`dpnn_bridge.read_t7` returns for it: LuaObject, LuaTable, …"""
        with self.errors():
            return values.write_object(self._runtime, self.to_lua(value))

    # ---- classes

    def has_class(self, name: str) -> bool:
        """Return whether the class exists, created by ``torch.class`` or ``torch.newmetatable``."""
        return self._runtime.torch["getmetatable"](name) is not None

    def definition(self, name: str, method: str | None = None) -> str:
        """Return the name of the user's file that defines a class or the methods that a model calls, or one method.

        Empty if only packages such as nn define them.
        """
        sources = [(s, Path(to_system(s[1:]))) for s in self.helper("sources_of")(name, method).values()]
        users = (path for s, path in sources if s in self._chunks or not in_package(path, self.lua_path))
        return next((path.name or "Lua code" for path in users), "")

    def defines(self, name: str) -> bool:
        """Return whether the user's code, not only packages such as nn, defines the class."""
        return self.definition(name) != ""

    def helper(self, name: str) -> Any:
        """Return a Lua function of the bridge by name, see prelude/modules.lua."""
        return self._runtime.bridge[name]

    def type_of(self, value: Any) -> str:
        """Return ``torch.type(value)``."""
        return self._runtime.torch["type"](value)

    def kind_of(self, value: Any) -> str:
        """Return Lua's ``type(value)``."""
        return self._runtime.lua_type(value) or _LUA_TYPES.get(type(value), "userdata")

    def new(self, class_name: str, *args: Any) -> Any:
        """Construct an object of a Lua class, as ``nn.Linear(3, 4)`` does in Lua."""
        with self.errors():
            find, define = self._runtime.torch["getconstructortable"], self.helper("define_converted")
            if find(class_name) is None and define is not None:
                define(class_name)  # exists once nn's base is loaded; defines a class that has a mapping
            if (constructor := find(class_name)) is not None:
                return self.helper("run")(constructor, *[self.to_lua(a) for a in args])
        raise LuaBridgeError(f"no Lua class is called {class_name}: run or require the file that defines it first")

    def module(self, class_name: str, *args: Any) -> LuaModule:
        """Construct an object of a Lua module class and wrap it as a :class:`torch.nn.Module`."""
        return self.wrap(self.new(class_name, *args))

    def criterion(self, class_name: str, *args: Any) -> LuaCriterion:
        """Construct a Lua criterion and wrap it as a :class:`torch.nn.Module`."""
        return LuaCriterion(self, self.new(class_name, *args))

    def wrap(self, obj: Any, methods: tuple[str, str] = OF_USER) -> LuaModule:
        """Wrap a Lua module as a :class:`torch.nn.Module` with autograd, which calls these methods of the object."""
        module = LuaModule(self, obj, methods)
        module.training = obj["train"] is not False
        return module

    def convert(self, obj: LuaObject, ctx: TorchContext | None = None) -> LuaModule | LuaCriterion | None:
        """Convert an object of a class without a mapping for :func:`dpnn_bridge.load`.

        Returns:
            A module that runs the object in Lua; None if the class is not defined in Lua, or is neither a module class
            nor a criterion.
        """
        if not self.has_class(obj.class_name):
            return None
        with self.errors():
            live = self.to_lua(obj)
        if live["updateOutput"] is None:
            return None
        methods = methods_called([outer.class_name for outer in ctx.active.values()][:-1] if ctx else ())
        if live["parameters"] is not None:
            return self.wrap(live, methods)
        return None if live["updateGradInput"] is None else LuaCriterion(self, live, methods)

    def state_of(self, obj: Any) -> tuple[list[str], list[torch.Tensor], list[int], list[tuple[str, Any]]]:
        """Return names of parameters, parameters, their order, and (name, tensor) pairs of the other state.

        The order contains the number of each parameter, from 1, as often as ``obj:parameters()`` lists it.

        Expanded tensors are views of other state, or are computed in each call. They are no state, because PyTorch
        cannot copy values into them.
        """
        names, weights, order = self.call(self.helper("parameters"), obj)
        buffers = self.call(self.helper("buffers"), obj)
        return names, weights, order, [(name, value) for name, value in buffers if not _is_expanded(value)]

    def followed(self, obj: Any, fields: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Return the tensors that Lua has put in the place of others, as in ``self.m = self.m * 2``, by their index.

        A tensor of another size or type does not take the place, so that a ``state_dict`` fits a new model. A sandbox
        has sent them with the results of the last call.

        Args:
            obj: the object.
            fields: names of the buffers among ``tensors``; empty for parameters.
            tensors: parameters and buffers of :meth:`state_of`.
        """
        if not tensors:
            return {}
        weights, replaced = self._run(lambda: self.helper("current"), obj, any(fields))
        count, buffers = fields.count(""), dict(replaced)
        now = [*(weights if len(weights) == count else [None] * count), *map(buffers.get, fields[count:])]
        return {
            i: value.contiguous() if _is_expanded(value) else value
            for i, (value, old) in enumerate(zip(now, tensors, strict=True))
            if isinstance(value, torch.Tensor)
            and (value.shape, value.dtype) == (old.shape, old.dtype)
            and value.data_ptr() != old.data_ptr()
        }

    def temporary(self, obj: Any) -> list[str]:
        """Return the names of fields, as in :meth:`state_of`, that are temporary memory of nn's code.

        These are the fields that the mappings of the object's class and base classes drop, and THNN's work buffers.
        PyTorch computes without this memory.
        """
        found = []
        for path, *names in self.call(self.helper("classes"), obj):
            mappings = [mapping for name in names for mapping in mappings_of(name)]
            work = _WORK_BUFFERS if any("Convolution" in base for base in names[1:]) else ()
            fields = dict.fromkeys([*work, *(field for mapping in mappings for field in mapping.scratch)])
            found += [f"{path}{field}" for field in fields]
        return found

    def push(self, obj: Any, tensors: Sequence[torch.Tensor | None]) -> None:
        """Copy changed tensors of :meth:`state_of` to a sandbox; does nothing here, where the memory is shared."""

    def pull(self, obj: Any, tensors: Sequence[torch.Tensor | None]) -> None:
        """Copy what a method of ``obj`` has changed from a sandbox to ``tensors``; does nothing here either."""

    def forward(self, obj: Any, method: str, input: Any, tensors: Sequence[torch.Tensor | None]) -> Any:
        """Return ``obj:method(input)``; ``tensors`` are those of :meth:`state_of`, which the call may change."""
        return self.method(obj, method, input)

    def backward(
        self, obj: Any, method: str, tensors: Sequence[torch.Tensor | None], *values: Any
    ) -> tuple[Any, list[torch.Tensor]]:
        """Return the gradients of the input and of the parameters in this backward pass, see prelude/modules.lua."""
        return self.call(self.helper("backward"), obj, method, *values)

    @property
    def generator(self) -> Generator | None:
        """The generator of ``torch.manualSeed``; None in a sandbox, which has it in its process."""
        return self._runtime.generator

    def manual_seed(self, seed: int) -> None:
        """Call ``torch.manualSeed(seed)``."""
        self._runtime.generator.manual_seed(seed)

    def fill_new_memory(self, value: float | None) -> float | None:
        """Fill the memory of new tensors with a number, or None: leave it uninitialized. Return the value before."""
        before = NEW_MEMORY.get()
        NEW_MEMORY.set(value)
        self.helper("fill_new_memory")(value)
        return before

    def default_dtype(self, dtype: torch.dtype) -> None:
        """Call ``torch.setdefaulttensortype`` with the Lua type of a dtype.

        Raises:
            LuaBridgeError: there is no Lua type.
        """
        if dtype not in TYPE_OF_DTYPE:
            raise LuaBridgeError(f"no type of tensors in Lua has the dtype {dtype}")
        self._runtime.torch["setdefaulttensortype"](f"torch.{TYPE_OF_DTYPE[dtype]}Tensor")
