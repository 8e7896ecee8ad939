"""Exchange tensors that Lua manages itself: their geometry, and small memory that Lua allocated.

With LuaJIT, ``prelude/ffi`` stores the geometry of tensors in Lua tables and accesses their memory without Python. The
functions in this file pass such tensors between Lua and Python. Python's :class:`~dpnn_bridge.lua.tensor.Tensor`
reports through :data:`~dpnn_bridge.lua.tensor.changes` when it moves a view that Lua knows.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpnn_bridge.lua.tensor import Storage, Tensor, changes

#: so many shared blocks cause no collection
_FEW = 128


class SharedStorages:
    """Memory that Python code outside of the bridge holds too. It may be moved between two calls into Lua.

    Threads need no lock: every access to the dict is one operation of C.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, weakref.ref[Any]] = {}  # those in use, by their number
        self._limit = _FEW

    def add(self, x: Tensor | Storage) -> None:
        """Share the memory of a tensor or storage with Python code."""
        storage = x.storage if isinstance(x, Tensor) else x
        if storage is not None and storage.pointer not in self._blocks:
            number, blocks = storage.pointer, self._blocks
            blocks[number] = weakref.ref(storage.block, lambda _: blocks.pop(number, None))

    @property
    def many(self) -> bool:
        """Whether there are more than twice as many blocks as were in use after the last collection."""
        return len(self._blocks) > self._limit

    def collected(self) -> None:
        """Set the limit of :attr:`many`, Lua having dropped the blocks that it does not use."""
        self._limit = max(_FEW, 2 * len(self._blocks))

    def _in_use(self) -> list[Any]:
        return [block for known in list(self._blocks.values()) if (block := known()) is not None]

    def at(self, address: int) -> list[Any]:
        """Return the blocks that Lua accesses at an address."""
        return [block for block in self._in_use() if block.address == address]

    def stale_blocks(self) -> list[int]:
        """Return the numbers of the blocks whose address in Lua is out of date."""
        return [id(block) for block in self._in_use() if block.is_stale]


def _describe(t: Any) -> Any:
    """Return the type, block and geometry of a tensor: what Lua's table of it holds. Nothing for other objects."""
    if type(t) is not Tensor:
        return None
    t.known = True
    geometry = [v for pair in zip(t.size, t.stride, strict=True) for v in pair]
    if t.storage is None:
        return t.ty, None, t.offset, len(t.size), *geometry
    return t.ty, t.storage.pointer, t.offset, len(t.size), *geometry


def _storage_of(x: Tensor | Storage) -> Storage | None:
    """Return a storage object that keeps the block of a tensor or storage for Lua."""
    storage = x.storage if isinstance(x, Tensor) else x
    return None if storage is None else storage.alias()


def _memory(storage: Storage) -> tuple[int, int]:
    """Return the address and number of elements."""
    return storage.tell(), storage.size


def _pairs(numbers: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    whole = [int(n) for n in numbers]
    return tuple(whole[0::2]), tuple(whole[1::2])


def _tensor(ty: str, storage: Storage | None, offset: float, *geometry: float) -> Tensor:
    """Create Python's object for a tensor of Lua."""
    t = Tensor(ty, storage, int(offset), *_pairs(geometry))
    t.known = True
    return t


def _point(t: Tensor, storage: Storage | None, offset: float, *geometry: float) -> None:
    """Follow a view that Lua moved."""
    t.known = False
    t.geometry(storage, int(offset), *_pairs(geometry))
    t.known = True


def _adopt(ty: str, size: float, address: float) -> tuple[Storage, int]:
    """Return a storage of ``size`` elements copied from ``address``, where Lua has had them, and its own address."""
    storage = Storage(ty, int(size))
    target = storage.tell()
    ctypes.memmove(target, int(address), storage.size * storage.flat.itemsize)
    return storage, target


def mirror_entries(account: Callable[[int], None]) -> dict[str, Any]:
    """Return the functions that ``prelude/ffi`` finds in ``py``; ``account`` is told of bytes that Lua does not see."""

    def resize_storage(storage: Storage, size: float) -> None:
        account((int(size) - storage.size) * storage.flat.itemsize)
        storage.resize(int(size))

    return {
        "resize_storage": resize_storage,
        "changes": ctypes.addressof(changes),
        "describe_tensor": _describe,
        "storage_of": _storage_of,
        "memory": _memory,
        "tensor_on": _tensor,
        "point": _point,
        "adopt": _adopt,
        "libtorch": str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"),
    }
