"""Exchange tensors that Lua manages itself: their geometry, and small blocks of memory that Lua allocated.

With LuaJIT, ``prelude/ffi`` stores the geometry of tensors in Lua tables and accesses their memory without Python. The
functions in this file pass such tensors between Lua and Python. When Python changes a view that Lua has cached, it
increments the counter :data:`~dpnn_bridge.lua.tensor.changes`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpnn_bridge.lua.tensor import Storage, Tensor, changes

#: number of shared blocks up to which Lua is not asked to collect garbage
_MIN_BLOCKS = 128


class SharedStorages:
    """Memory that Python code outside the bridge also uses, and may move between two calls into Lua.

    No lock is needed for threads: every access to the dict is a single C operation.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, weakref.ref[Any]] = {}  # the blocks that are in use, by ID
        self._limit = _MIN_BLOCKS

    def add(self, x: Tensor | Storage) -> None:
        """Register the memory of a tensor or storage as shared with Python code."""
        storage = x.storage if isinstance(x, Tensor) else x
        if storage is not None and storage.pointer not in self._blocks:
            block_id, blocks = storage.pointer, self._blocks
            blocks[block_id] = weakref.ref(storage.block, lambda _: blocks.pop(block_id, None))

    @property
    def many(self) -> bool:
        """Whether there are more than :data:`_MIN_BLOCKS` blocks, and twice as many as after the last collection."""
        return len(self._blocks) > self._limit

    def collected(self) -> None:
        """Reset the limit of :attr:`many` after Lua has released the blocks that it does not use."""
        self._limit = max(_MIN_BLOCKS, 2 * len(self._blocks))

    def _in_use(self) -> list[Any]:
        return [block for reference in list(self._blocks.values()) if (block := reference()) is not None]

    def at(self, address: int) -> list[Any]:
        """Return the blocks whose address in Lua is ``address``."""
        return [block for block in self._in_use() if block.address == address]

    def stale_blocks(self) -> list[int]:
        """Return the IDs of the blocks whose address in Lua is out of date."""
        return [id(b) for b in self._in_use() if (known := b.address) is not None and known != b.flat.data_ptr()]


def _describe(t: Any) -> Any:
    """Return the type, block and geometry of a tensor, which Lua caches in a table; None for other objects."""
    if type(t) is not Tensor:
        return None
    t.is_cached = True
    geometry = [v for pair in zip(t.size, t.stride, strict=True) for v in pair]
    if t.storage is None:
        return t.ty, None, t.offset, len(t.size), *geometry
    return t.ty, t.storage.pointer, t.offset, len(t.size), *geometry


def _storage_of(x: Tensor | Storage) -> Storage | None:
    """Return a new storage object on the block of a tensor or storage, which keeps the block alive for Lua."""
    storage = x.storage if isinstance(x, Tensor) else x
    return None if storage is None else storage.alias()


def _memory(storage: Storage) -> tuple[int, int]:
    """Return the address and the number of elements of a storage."""
    return storage.tell(), storage.size


def _pairs(numbers: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sizes and the strides from alternating sizes and strides."""
    integers = [int(n) for n in numbers]
    return tuple(integers[0::2]), tuple(integers[1::2])


def _tensor(ty: str, storage: Storage | None, offset: float, *geometry: float) -> Tensor:
    """Create the Python object for a tensor that Lua created."""
    t = Tensor(ty, storage, int(offset), *_pairs(geometry))
    t.is_cached = True
    return t


def _point(t: Tensor, storage: Storage | None, offset: float, *geometry: float) -> None:
    """Update the Python object of a tensor whose view Lua changed."""
    t.is_cached = False
    t.geometry(storage, int(offset), *_pairs(geometry))
    t.is_cached = True


def _adopt(ty: str, size: float, address: float) -> tuple[Storage, int]:
    """Copy ``size`` elements that Lua allocated at ``address`` to a new storage; return it and its address."""
    storage = Storage(ty, int(size))
    target = storage.tell()
    ctypes.memmove(target, int(address), storage.size * storage.flat.itemsize)
    return storage, target


def mirror_entries(account: Callable[[int], None]) -> dict[str, Any]:
    """Return the functions that ``prelude/ffi`` finds in ``py``.

    Args:
        account: is called with the number of bytes of new memory, which Lua's garbage collector does not count.
    """

    def resize_storage(storage: Storage, size: float) -> None:
        account((int(size) - storage.size) * storage.flat.itemsize)
        storage.resize(int(size))

    return {  # libtorch has another name outside Linux; Lua then uses loops and Python instead of the library
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
