"""Implement the C parts of the Lua packages ``paths``, ``sys``, ``lfs`` and ``cjson`` in Python."""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import json
import os
import platform
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dpnn_bridge.lua.arguments import check_number, check_string
from dpnn_bridge.lua.hdf5 import Files
from dpnn_bridge.lua.images import image_luminance, load_image, save_image, scale_image
from dpnn_bridge.lua.state import LuaState
from dpnn_bridge.lua.tensor import TorchError
from dpnn_bridge.lua.text import from_system, on_paths, with_errors_for_lua

#: number of arguments that are strings, of functions with arguments that are numbers
_PATHS = {"usleep": 0, "touch": 1}


def _lua_result(code: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function to return true, or nil, a message and an error number on an OSError, like Lua's io library."""

    @functools.wraps(code)
    def call(*args: Any) -> Any:
        try:
            code(*args)
        except OSError as error:
            return None, f"{args[0] if args else ''}: {error.strerror}", error.errno
        return True

    return call


def _checked(code: Callable[..., Any], strings: int | None) -> Callable[..., Any]:
    """Wrap a function to raise Lua's error unless its required arguments are strings or, after ``strings``, numbers."""
    parameters = inspect.signature(code).parameters.values()
    required = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)

    def call(*args: Any) -> Any:
        for n in range(max(required, len(args) if variadic else 0)):
            expected, check = ("string", check_string) if strings is None or n < strings else ("number", check_number)
            if n >= len(args):
                raise TorchError(f"bad argument #{n + 1} ({expected} expected, got no value)")
            check(args[n], n + 1)
        return code(*args)

    return call


def _concat(*parts: str) -> str:
    path = os.path.normpath(os.path.join(os.getcwd(), *parts))
    return "/" + path.lstrip("/") if path.startswith("/") else path  # normpath keeps two leading slashes


def _basename(path: str, suffix: str | None = None) -> str:
    name = os.path.basename(path.rstrip("/"))
    suffix = (suffix or "").removeprefix(".")
    return name.removesuffix(f".{suffix}") if suffix else name


def _dirname(path: str) -> str:
    path = path.replace(os.sep, "/")
    last = path.rstrip("/").rfind("/")
    if last < 0:
        return path if path.startswith("/") else "."
    return path[: max(last, 1)]


def _extname(path: str) -> str | None:
    _, dot, extension = path.rpartition(".")
    return extension if dot else None


def _is_file(path: str) -> bool:
    return os.path.exists(path) and not os.path.isdir(path)


def _listing(runtime: LuaState, folder: str) -> Any:
    return runtime.lua.table_from([".", "..", *map(from_system, sorted(os.listdir(folder)))])


def _temporary() -> str:
    """Return a path that does not exist. A file at this path is removed at exit, as in Torch7."""
    path = os.path.join(tempfile.gettempdir(), f"luatmp{uuid.uuid4().hex[:12]}")
    atexit.register(_remove, path)
    return path


def _remove(path: str) -> None:
    with suppress(OSError):
        os.remove(path)


def _no_registry(*_: Any) -> None:
    raise TorchError("This function exists only on windows")


def path_entries(runtime: LuaState) -> dict[str, Callable[..., Any]]:
    """Return the functions of ``libpaths`` and ``libsys``."""

    def names(folder: str = ".") -> Any:
        try:
            return _listing(runtime, folder)
        except OSError:
            return None

    system = platform.uname()
    return {
        "concat": _concat,
        "filep": _is_file,
        "dirp": os.path.isdir,
        "basename": _basename,
        "dirname": _dirname,
        "extname": _extname,
        "cwd": os.getcwd,
        "dir": names,
        "mkdir": _lua_result(os.makedirs),
        "rmdir": _lua_result(os.rmdir),
        "execdir": lambda: os.path.dirname(sys.executable),
        "tmpname": _temporary,
        "uname": lambda: (system.system, system.node, system.machine),
        "getregistryvalue": _no_registry,
        "usleep": lambda microseconds: time.sleep(float(microseconds) / 1e6),
    }


def _attributes(runtime: LuaState, follow: bool) -> Callable[..., Any]:
    types = {
        0o10: "file",
        0o04: "directory",
        0o12: "link",
        0o02: "char device",
        0o06: "block device",
        0o01: "named pipe",
    }

    def attributes(path: str, name: Any = None) -> Any:
        try:
            status = os.stat(path, follow_symlinks=follow)
        except OSError as error:
            return None, f"cannot obtain information from file '{path}': {error.strerror}", error.errno
        values = {
            "mode": types.get(status.st_mode >> 12, "other"),
            "permissions": stat.filemode(status.st_mode)[1:],
            "size": status.st_size,
            "modification": int(status.st_mtime),
            "access": int(status.st_atime),
            "change": int(status.st_ctime),
            "ino": status.st_ino,
            "dev": status.st_dev,
            "nlink": status.st_nlink,
            "uid": status.st_uid,
            "gid": status.st_gid,
        }
        values |= {key: getattr(status, f"st_{key}", 0) for key in ("rdev", "blocks", "blksize")}  # not on Windows
        if isinstance(name, str):
            if name not in values:
                raise TorchError(f"bad argument #2 to 'attributes' (invalid option '{name}')")
            return values[name]
        return runtime.lua.table_from(values)

    return attributes


def lfs_entries(runtime: LuaState) -> dict[str, Callable[..., Any]]:
    """Return the functions of LuaFileSystem."""

    def listing(folder: str) -> Any:
        try:
            return _listing(runtime, folder)
        except OSError as error:
            return f"cannot open {folder}: {error.strerror}"

    def touch(path: str, accessed: str | None = None, modified: str | None = None) -> None:
        first = time.time() if accessed is None else float(accessed)
        os.utime(path, (first, first if modified is None else float(modified)))

    return {
        "attributes": _attributes(runtime, follow=True),
        "symlinkattributes": _attributes(runtime, follow=False),
        "listing": listing,
        "currentdir": os.getcwd,
        "chdir": _lua_result(os.chdir),
        "mkdir": _lua_result(os.mkdir),
        "rmdir": _lua_result(os.rmdir),
        "touch": _lua_result(touch),
        "link": _lua_result(lambda old, new, symbolic=None: (os.symlink if symbolic else os.link)(old, new)),
    }


# ---- JSON


def _quote(text: str) -> str:
    """Return a Lua string as JSON, with the escapes of lua-cjson."""
    quoted = json.dumps(text.encode("latin-1").decode("utf-8", "surrogateescape"), ensure_ascii=False)
    quoted = quoted.replace("/", "\\/").replace("\x7f", "\\u007f")
    return quoted.encode("utf-8", "surrogateescape").decode("latin-1")


def json_entries(runtime: LuaState) -> dict[str, Callable[..., Any]]:
    """Return the functions of ``cjson``. Python parses the text and quotes strings; Lua traverses tables."""
    lua = runtime.lua

    def decode(text: str, null: Any, deepest: float, invalid: bool) -> Any:
        def build(value: Any, depth: int = 1) -> Any:
            if value is None:
                return null
            if isinstance(value, str):
                return value.encode("utf-8", "surrogateescape").decode("latin-1")
            if isinstance(value, (list, dict)) and depth > deepest:
                raise ValueError(f"Found too many nested data structures ({depth})")
            if isinstance(value, list):
                return lua.table_from([build(v, depth + 1) for v in value])
            if isinstance(value, dict):
                return lua.table_from({build(k): build(v, depth + 1) for k, v in value.items()})
            return value

        def constant(name: str) -> float:
            if not invalid:
                raise ValueError(f"Expected value but found invalid number {name}")
            return float(name)

        try:
            decoded = text.encode("latin-1").decode("utf-8", "surrogateescape")
            # Lua has floats only, and lua-cjson accepts control characters in strings
            return build(json.loads(decoded, parse_int=float, parse_constant=constant, strict=False))
        except (ValueError, RecursionError) as error:
            return None, f"{error}"

    return {"decode": decode, "quote": _quote}


def system_entries(runtime: LuaState) -> dict[str, Any]:
    """Return the functions that the packages of the prelude find in ``py``; an empty dict in a sandbox."""
    if runtime.sandbox:
        return {}
    files = Files(runtime.lua.table_from)

    def on_files(entries: dict[str, Callable[..., Any]]) -> Any:
        counts = {name: _PATHS.get(name) for name in entries}
        return runtime.lua.table_from({n: on_paths(_checked(f, counts[n]), counts[n]) for n, f in entries.items()})

    return {
        "libpaths": on_files(path_entries(runtime)),
        "lfs": on_files(lfs_entries(runtime)),
        "json": runtime.lua.table_from(json_entries(runtime)),
        "md5": lambda text=None: hashlib.md5(
            check_string(text, 1).encode("latin-1"), usedforsecurity=False
        ).hexdigest(),
        "hdf5": runtime.guarded(files.entries()),
        "hdf5_lists": runtime.lua.table_from({n: with_errors_for_lua(f) for n, f in files.lists().items()}),
        "image_load": runtime.guard(load_image),
        "image_save": runtime.guard(save_image),
        "image_luminance": runtime.guard(image_luminance),
        "image_scale": runtime.guard(scale_image),
    }
