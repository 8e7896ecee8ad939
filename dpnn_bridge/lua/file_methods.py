"""Bind the methods of torch.File and its subclasses to the classes of :mod:`dpnn_bridge.lua.files`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.arguments import as_number, check_int, describe
from dpnn_bridge.lua.files import File
from dpnn_bridge.lua.tensor import DTYPES, Storage, TorchError, cast_number


def _reader(ty: str) -> Callable[..., Any]:
    def read(f: File, target: Any = ..., *_: Any) -> Any:
        if target is ...:
            return f.read_number(ty)
        if isinstance(target, Storage):
            if target.ty != ty:
                raise TorchError(f"nothing, number, or {ty}Storage expected, got {describe(target)}")
            values = f.read(ty, target.size)
            target.flat[: len(values)] = torch.from_numpy(values)
            return len(values)
        return Storage(ty, flat=torch.from_numpy(f.read(ty, check_int(target, 2))))

    return read


def _writer(ty: str) -> Callable[..., Any]:
    def write(f: File, value: Any, *_: Any) -> Any:
        if isinstance(value, Storage):
            if value.ty != ty:
                raise TorchError(f"number, or {ty}Storage expected, got {describe(value)}")
            return f.write(ty, value.flat.numpy())
        number = as_number(value)
        if number is None:
            raise TorchError(f"number, or {ty}Storage expected, got {describe(value)}")
        f.write_number(ty, cast_number(number, ty))
        return ()

    return write


def _setter(name: str, value: Any) -> Callable[..., File]:
    def change(f: File, *_: Any) -> File:
        setattr(f, name, value)
        return f

    return change


def _returning_file(run: Callable[[File], Any]) -> Callable[..., File]:
    def call(f: File, *_: Any) -> File:
        run(f)
        return f

    return call


def _seek(f: File, position: Any = None, *_: Any) -> File:
    f.seek(position)
    return f


def _if_open(method: Callable[..., File]) -> Callable[..., File]:
    """Wrap a method that raises an error on a closed file, although it does not read or write."""

    def call(f: File, *args: Any) -> File:
        f.opened()
        return method(f, *args)

    return call


def _long_size(f: File, size: Any = None, *_: Any) -> File:
    n = check_int(size, 2)
    if n not in (0, 4, 8):
        raise TorchError("bad argument #1 (Invalid long size specified)")
    f.long_size = n or 8
    return f


FILE_METHODS: dict[str, Callable[..., Any]] = {
    "isQuiet": lambda f, *_: f.quiet,
    "isReadable": lambda f, *_: f.readable,
    "isWritable": lambda f, *_: f.writable,
    "isBinary": lambda f, *_: f.binary,
    "isAutoSpacing": lambda f, *_: f.auto_spacing,
    "hasError": lambda f, *_: f.has_error,
    "binary": _setter("binary", True),
    "ascii": _setter("binary", False),
    "autoSpacing": _setter("auto_spacing", True),
    "noAutoSpacing": _setter("auto_spacing", False),
    "quiet": _setter("quiet", True),
    "pedantic": _setter("quiet", False),
    "clearError": _setter("has_error", False),
    "synchronize": _returning_file(lambda f: f.synchronize()),
    "seek": _seek,
    "seekEnd": _returning_file(lambda f: f.opened().seek(0, io.SEEK_END)),
    "position": lambda f, *_: f.opened().tell() + 1,
    "close": _returning_file(lambda f: f.close()),
    "readString": lambda f, how=None, *_: f.read_string(how),
    "writeString": lambda f, text, *_: f.write_string(text),
    "__tostring__": lambda f, *_: f.describe(),
    **{f"read{ty}": _reader(ty) for ty in DTYPES if ty != "Half"},
    **{f"write{ty}": _writer(ty) for ty in DTYPES if ty != "Half"},
}
MEMORY_METHODS: dict[str, Callable[..., Any]] = {"storage": lambda f, *_: f.storage(), "longSize": _long_size}
DISK_METHODS: dict[str, Callable[..., Any]] = {
    "isLittleEndianCPU": lambda *_: sys.byteorder == "little",
    "isBigEndianCPU": lambda *_: sys.byteorder == "big",
    "nativeEndianEncoding": _if_open(_setter("byte_order", "=")),
    "littleEndianEncoding": _if_open(_setter("byte_order", "<")),
    "bigEndianEncoding": _if_open(_setter("byte_order", ">")),
    "longSize": _if_open(_long_size),
    "noBuffer": _if_open(lambda f, *_: f),
}
