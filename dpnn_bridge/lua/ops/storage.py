"""Implement the methods of storages."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.arguments import as_number, check_int, check_real, check_string, describe
from dpnn_bridge.lua.tensor import DTYPES, Storage, TorchError, cast_number, cast_tensor
from dpnn_bridge.lua.text import to_system

#: name -> code; storages of all element types have these methods, except ``string``: Char and Byte only
STORAGE_METHODS: dict[str, Callable[..., Any]] = {}


def _method(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(code: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            STORAGE_METHODS[name] = code
        return code

    return register


def new_storage(ty: str, *args: Any) -> Storage:
    """Return ``torch.*Storage(...)`` for a size, a list of numbers, or a part of another storage."""
    if args and isinstance(args[0], list):
        numbers = []
        for n, value in enumerate(args[0], 1):
            number = as_number(value)
            if number is None:
                raise TorchError(f"element at index {n} is not a number")
            numbers.append(cast_number(number, ty))
        return Storage(ty, flat=torch.tensor(numbers, dtype=DTYPES[ty]))
    if args and isinstance(args[0], Storage):
        source = args[0]
        if source.ty != ty:
            raise TorchError(f"bad argument #1 (torch.{ty}Storage expected, got {describe(source)})")
        offset = check_int(args[1], 2) - 1 if len(args) > 1 else 0
        if not 0 <= offset < source.size:
            raise TorchError("offset out of bounds")
        count = check_int(args[2], 3) if len(args) > 2 else source.size - offset
        if not 0 < count <= source.size - offset:
            raise TorchError("size out of bounds")
        source.block.pinned = True  # the new storage shares the memory
        return Storage(ty, flat=source.flat[offset : offset + count])
    if args and args[0] is not None:
        size = check_int(args[0], 1)
        if size < 0:
            raise TorchError("bad argument #1 (size must not be negative)")
        return Storage(ty, size)
    return Storage(ty)


def mapped_storage(ty: str, name: str, shared: Any = False, count: Any = 0, in_memory: Any = False, *_: Any) -> Storage:
    """Map a file into memory. With ``in_memory``, the file is in shared memory and is removed with the storage."""
    path = to_system(f"/dev/shm/{name}" if in_memory else name)
    size = check_int(count, 3) if count else 0
    try:
        size = size or os.path.getsize(path) // DTYPES[ty].itemsize
        storage = Storage(ty, flat=torch.from_file(path, shared=bool(shared), size=size, dtype=DTYPES[ty]))
    except (OSError, RuntimeError) as error:
        raise TorchError(f"unable to map file <{name}>: {error}") from None
    if in_memory:
        weakref.finalize(storage.block, _remove, path)
    return storage


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


@_method("size", "__len__")
def size(s: Storage, *_: Any) -> int:
    return s.size


@_method("resize")
def resize(s: Storage, count: Any, *_: Any) -> Storage:
    size = check_int(count, 2)
    if size < 0:
        raise TorchError("bad argument #2 (size must not be negative)")
    s.resize(size)
    return s


@_method("fill")
def fill(s: Storage, value: Any, *_: Any) -> Storage:
    s.flat.fill_(check_real(value, 2, s.ty))
    return s


@_method("copy")
def copy(s: Storage, source: Any, *_: Any) -> Storage:
    if not isinstance(source, Storage):
        raise TorchError(f"bad argument #2 (torch.*Storage expected, got {describe(source)})")
    if source.size != s.size:
        raise TorchError("bad argument #2 (size mismatch)")
    s.flat.copy_(cast_tensor(source.flat, s.ty))
    return s


@_method("string")
def string(s: Storage, text: Any = None, *_: Any) -> Storage | str:
    if describe(text) in ("string", "number"):
        data = check_string(text, 2).encode("latin-1")
        s.resize(len(data))
        s.flat.view(torch.uint8).copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8)) if data else None
        return s
    return s.flat.view(torch.uint8).numpy().tobytes().decode("latin-1")


@_method("retain", "free")
def retain(s: Storage, *_: Any) -> tuple[()]:
    return ()


def get(s: Storage, index: Any) -> float:
    at = check_int(index, 2) - 1
    if not 0 <= at < s.size:
        raise TorchError("bad argument #2 (out of bounds)")
    return s.flat[at].item()


def put(s: Storage, index: Any, value: Any) -> None:
    at, number = check_int(index, 2) - 1, check_real(value, 3, s.ty)
    if not 0 <= at < s.size:
        raise TorchError("bad argument #2 (out of bounds)")
    s.flat[at] = number
