"""Provide the environment of Lua scripts: generators, files, timers, threads, paths, modules."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpnn_bridge.base.display import described
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.errors import LuaBridgeError, NotT7Error, OptionError
from dpnn_bridge.lua import file_methods, files
from dpnn_bridge.lua.arguments import as_long, as_number, check_int
from dpnn_bridge.lua.checkouts import find_module
from dpnn_bridge.lua.messages import package_advice
from dpnn_bridge.lua.state import LuaState
from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.text import from_system, on_paths
from dpnn_bridge.torch7.random import Generator

StrPath = str | os.PathLike[str]


class Timer:
    """``torch.Timer``: wall, user and system seconds."""

    class_name = "torch.Timer"

    def __init__(self, *_: Any) -> None:
        self.reset()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times = os.times()
        return time.perf_counter(), times.user, times.system

    def describe(self, *_: Any) -> str:
        return f"torch.Timer [status: {'running' if self._running else 'stopped'}]"

    def reset(self, *_: Any) -> Timer:
        self._start, self._passed, self._running = self._now(), (0.0, 0.0, 0.0), True
        return self

    def read(self) -> tuple[float, float, float]:
        if not self._running:
            return self._passed
        a, b, c = (p + n - s for p, n, s in zip(self._passed, self._now(), self._start, strict=True))
        return a, b, c

    def stop(self, *_: Any) -> Timer:
        self._passed, self._running = self.read(), False
        return self

    def resume(self, *_: Any) -> Timer:
        if not self._running:
            self._start, self._running = self._now(), True
        return self


class Allocator:
    """``torch.Allocator``; storages accept it and ignore it."""

    class_name = "torch.Allocator"

    def __init__(self, *_: Any) -> None:
        pass


def _byte_tensor(args: tuple[Any, ...]) -> Tensor:
    """Return the only argument of a function, after an optional generator, which must be a ByteTensor."""
    if len(args) != 1 or not isinstance(args[0], Tensor) or args[0].ty != "Byte":
        raise TorchError("invalid arguments: expected [Generator] ByteTensor")
    return args[0]


def random_entries(runtime: LuaState) -> dict[str, Any]:
    """Return the functions for random generators, seeds and states."""

    def pick(args: tuple[Any, ...]) -> tuple[Generator, tuple[Any, ...]]:
        return (args[0], args[1:]) if args and isinstance(args[0], Generator) else (runtime.generator, args)

    def manual_seed(*args: Any) -> tuple[()]:
        g, rest = pick(args)
        seed = as_number(rest[0]) if len(rest) == 1 else None
        if seed is None:
            raise TorchError("invalid arguments: expected [Generator] number")
        g.manual_seed(as_long(seed))
        return ()

    def get_state(*args: Any) -> Tensor:
        g, rest = pick(args)
        target = _byte_tensor(rest) if rest else Tensor("Byte")
        target.assign(torch.frombuffer(bytearray(g.get_state()), dtype=torch.uint8))
        return target

    def set_state(*args: Any) -> Tensor:
        g, rest = pick(args)
        state = _byte_tensor(rest)
        try:
            g.set_state(bytes(state.t.reshape(-1).tolist()))
        except ValueError as error:
            raise TorchError(str(error)) from None
        return state

    return {
        "default_generator": runtime.generator,
        "generator_memory": ctypes.addressof(runtime.generator.memory),
        "new_generator": runtime.guard(lambda *_: Generator()),
        "manualSeed": runtime.guard(manual_seed),
        "seed": runtime.guard(lambda *args: pick(args)[0].seed()),
        "initialSeed": runtime.guard(lambda *args: pick(args)[0].initial_seed),
        "getRNGState": runtime.guard(get_state),
        "setRNGState": runtime.guard(set_state),
    }


def file_entries(runtime: LuaState) -> dict[str, Any]:
    """Return the constructors of file classes, and their methods."""

    def read_string(f: files.File) -> str:
        return f.read("Char", int(f.read_number("Int"))).tobytes().decode("latin-1")

    def write_string(f: files.File, text: str) -> tuple[()]:
        data = text.encode("latin-1")
        f.write_number("Int", len(data))
        f.write("Char", np.frombuffer(data, np.int8))
        return ()

    def opener(file_class: type[files.DiskFile]) -> Callable[..., Any]:
        def create(name: Any = None, mode: Any = None, quiet: Any = False, *_: Any) -> Any:
            try:
                return file_class(name, mode)
            except files.CannotOpenError:
                if quiet:
                    return None
                raise

        return runtime.guard(create)

    entries: dict[str, Any] = {
        "read_string": runtime.guard(read_string),
        "window": lambda f, most, text: f.window(most, text) if isinstance(f, files.File) else None,
        "leave_window": lambda f, position: f.leave_window(position),
        "output_format": lambda f, text: f.output_format(text) if isinstance(f, files.File) else None,
        "put_bytes": runtime.guard(lambda f, address, count: (f.put_bytes(address, count), ())[1]),
        "write_string": runtime.guard(write_string),
        "file_methods": runtime.guarded(file_methods.FILE_METHODS),
        "new_MemoryFile": runtime.guard(files.MemoryFile),
        "MemoryFile_methods": runtime.guarded(file_methods.MEMORY_METHODS),
    }
    if not runtime.sandbox:
        entries |= {
            "new_DiskFile": opener(files.DiskFile),
            "new_PipeFile": opener(files.PipeFile),
            "new_saved": runtime.guard(files.SavedFile),
            "discard_saved": runtime.guard(lambda file: (file.discard(), ())[1]),
            "DiskFile_methods": runtime.guarded(file_methods.DISK_METHODS),
            "PipeFile_methods": runtime.guarded({}),
        }
    return entries


def paths(named: StrPath | Iterable[StrPath], option: str) -> list[Path]:
    """Return one path or several paths as a list.

    Args:
        named: value of an argument.
        option: name of the argument, for the error.

    Raises:
        OptionError: the value, or one of several values, is not a path.
    """
    found: list[Any] = [named]
    if isinstance(named, Iterable) and not isinstance(named, (str, bytes, os.PathLike)):
        found = list(named)
    for path in found:
        if not isinstance(path, (str, os.PathLike)):
            raise OptionError(f"{option}: expected a path or several paths, found {described(path)}")
    return [Path(path) for path in found]


def folders(lua_path: StrPath | Sequence[StrPath]) -> list[Path]:
    """Return the folders of ``lua_path`` as a list.

    Raises:
        LuaBridgeError: a path is not a folder.
        OptionError: a value is not a path.
    """
    named = paths(lua_path, "lua_path= (--lua-path)")
    for folder in named:
        if not os.path.isdir(folder):
            raise LuaBridgeError(f"lua_path= (--lua-path) contains {folder}, which is not a folder")
    return named


#: packages with Torch7's classes, which have mappings
PACKAGES = {"cudnn", "cunn", "dpnn", "fbcunn", "fbnn", "graph", "inn", "nn", "nngraph", "nnx", "rnn", "stn", "torchx"}


def in_package(path: Path, roots: Sequence[Path]) -> bool:
    """Return whether a Lua file in the folders ``roots`` belongs to one of :data:`PACKAGES`."""
    containing = [root for root in roots if path.is_relative_to(root)]
    return any(root.name in PACKAGES or path.relative_to(root).parts[0] in PACKAGES for root in containing)


def read_source(path: Path) -> str:
    """Return the text of a Lua file.

    Raises:
        LuaBridgeError: the file cannot be read, or is compiled code.
    """
    try:
        code = read_file(path)
    except NotT7Error as error:
        raise LuaBridgeError(str(error)) from None
    if code.startswith(b"\x1b"):
        raise LuaBridgeError(f"{path} is compiled Lua code, which is never run: pass its source")
    return ("--" if code.startswith(b"#") else "") + code.decode("latin-1")


def environment_entries(runtime: LuaState) -> dict[str, Any]:
    """Return the functions of timers, threads and paths, and the helpers of ``require``."""

    max_threads = torch.get_num_threads() if runtime.sandbox else max(64, os.cpu_count() or 1)  # a huge number crashes

    def is_terminal(descriptor: float) -> bool:
        stream = (sys.stdin, sys.stdout, sys.stderr)[int(descriptor)]
        return stream is not None and stream.isatty()

    def set_threads(n: Any = None, *_: Any) -> tuple[()]:
        torch.set_num_threads(max(1, min(check_int(n, 1), max_threads)))
        return ()

    entries: dict[str, Any] = {
        "run_prelude": runtime.run_prelude,
        "sandbox": runtime.sandbox,
        "advice": package_advice,
        "find_module": on_paths(lambda name, any_case=False: find_module(runtime.lua_path, name, any_case=any_case)),
        "module_source": lambda name: runtime.host.module(name) or (None, None),
        "write": runtime.host.write,
        "new_timer": runtime.guard(Timer),
        "timer_read": lambda timer: timer.read(),
        "timer_methods": runtime.guarded(
            {"reset": Timer.reset, "stop": Timer.stop, "resume": Timer.resume, "__tostring__": Timer.describe}
        ),
        "seconds": runtime.guard(lambda *_: time.time()),
        "setnumthreads": runtime.guard(set_threads),
        "getnumthreads": runtime.guard(lambda *_: torch.get_num_threads()),
        "isatty": runtime.guard(is_terminal),
        "new_allocator": runtime.guard(Allocator),
        "getnumcores": runtime.guard(lambda *_: os.cpu_count() or 1),
    }
    if runtime.sandbox:
        return entries
    return entries | {
        "exists": on_paths(os.path.isfile),
        "prelude": from_system(Path(__file__).parent / "prelude"),
    }
