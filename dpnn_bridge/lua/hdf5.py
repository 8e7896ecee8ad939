"""Implement the package ``hdf5`` with h5py. The Lua part is ``prelude/packages/hdf5.lua``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.extras import install_advice
from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.text import from_system, to_file, to_system

#: (kind, bytes) of an HDF5 type -> tensor type, as in torch-hdf5: integers are signed except those of one byte
_TENSOR_TYPES = {
    ("i", 1): "uint8",
    ("i", 2): "int16",
    ("i", 4): "int32",
    ("i", 8): "int64",
    ("f", 4): "float32",
    ("f", 8): "float64",
}
#: filters that HDF5 and h5py contain: deflate, shuffle, checksum, szip, n-bit, scale-offset, lzf
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
#: limits for one path: soft links, as in HDF5, and groups
_MAX_LINKS, _MAX_GROUPS = 16, 200
#: steps from group to group for each 2 bytes of a file: a name 200 groups deep takes more than 80 bytes
_STEPS_OF_2_BYTES = 5


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise TorchError(f"hdf5 needs h5py, which is not installed: {install_advice('hdf5')}") from None
    return h5py


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Hide HDF5's plugin folders: for a filter that HDF5 lacks, of a data set or a group, it loads all their libraries.

    The folders belong to the process. The lock of h5py keeps other threads from reading without them.
    """
    h5py = _h5py()
    with h5py._objects.phil:
        folders = [h5py.h5pl.get(i) for i in range(h5py.h5pl.size())]
        for _ in folders:
            h5py.h5pl.remove(0)
        try:
            yield
        finally:
            for folder in folders:
                h5py.h5pl.append(folder)


#: number of chunks of a data set that is always read, and the least bytes of the file for each other, its address; HDF5
#: takes 4 KB of memory for a chunk, also for one that is not stored
_FEW_CHUNKS, _CHUNK_BYTES = 10_000, 8


def _object(opened: Any, path: str) -> Any:
    """Return the group or data set at a path, or None.

    Raises:
        TorchError: a link on the path leads to another file, or the data set stores its elements in another file,
            which an untrusted file could use to read any file, or needs a plugin of HDF5. Or a group contains itself,
            so that reading all of its content would not end.
    """
    h5py = _h5py()
    current, names, links, visited = opened["/"], path.encode("latin-1").split(b"/"), 0, set[int]()
    while names:
        name = names.pop(0)
        if name in (b"", b"."):
            continue
        try:
            link_type = current.id.links.get_info(name).type
        except (AttributeError, KeyError, RuntimeError):  # current is a data set, or has no such child
            return None
        if link_type == h5py.h5l.TYPE_SOFT:
            target = current.id.links.get_val(name)
            current = opened["/"] if target.startswith(b"/") else current
            names, links, visited = target.split(b"/") + names, links + 1, set()
            if links > _MAX_LINKS:
                return None
        elif link_type == h5py.h5l.TYPE_HARD:
            current = current[name]
            address = h5py.h5o.get_info(current.id).addr
            if address in visited or len(visited) > _MAX_GROUPS:
                raise TorchError(f"hdf5: {shortened(path)} of {opened.filename} contains itself, or is too deep")
            visited.add(address)
        else:
            raise TorchError(f"hdf5: {path} of {opened.filename} is a link to another file; open that file")
    if isinstance(current, h5py.Dataset) and (current.external or current.is_virtual):
        raise TorchError(
            f"hdf5: {path} of {opened.filename} stores its elements in other files; write a file that contains them"
        )
    if isinstance(current, h5py.Datatype) or (isinstance(current, h5py.Dataset) and current.shape is None):
        raise TorchError(f"hdf5: {path} of {opened.filename} has no elements: it is a type or an empty data set")
    if isinstance(current, h5py.Dataset):
        count = math.prod(-(-n // c) for n, c in zip(current.shape, current.chunks or current.shape, strict=True) if c)
        if count > max(_FEW_CHUNKS, opened.id.get_filesize() // _CHUNK_BYTES):
            raise TorchError(
                f"hdf5: {path} of {opened.filename} has {count:,} chunks, more than the file stores; write all of "
                "them, or larger ones"
            )
        made = current.id.get_create_plist()
        used = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
        if other := used - _FILTERS:
            raise TorchError(
                f"hdf5: {path} of {opened.filename} is compressed with the filter {min(other)}, which needs a plugin; "
                "write a file without it, or with gzip"
            )
    return current


class Files:
    """The open files by number. A Lua object of a group or data set has the number of its file, and a path.

    Args:
        table: converts a list to a Lua table.
    """

    def __init__(self, table: Callable[[list[Any]], Any]) -> None:
        self._files: dict[int, Any] = {}
        self._table = table

    def open(self, path: str, mode: str) -> int:
        name = to_file(path)
        try:
            opened = _h5py().File(name, mode)
        except (OSError, ValueError) as error:
            raise TorchError(f"hdf5: {path} cannot be opened: {error}") from None
        number = max(self._files, default=0) + 1
        self._files[number] = opened
        return number

    def close(self, number: float) -> tuple[()]:
        opened = self._files.pop(int(number), None)
        if opened is not None:
            opened.close()
        return ()

    def _opened(self, number: float) -> Any:
        opened = self._files.get(int(number))
        if opened is None:
            raise TorchError("hdf5: this file was closed")
        return opened

    def _find(self, number: float, path: str) -> Any:
        opened = self._opened(number)
        child = _object(opened, path)
        if child is None:
            raise TorchError(f"HDF5Group:read() - no such child '{path}' in {opened.filename}")
        return child

    def is_group(self, number: float, path: str) -> bool:
        return isinstance(self._find(number, path), _h5py().Group)

    def names(self, number: float, path: str) -> Any:
        """Return the names of a group's children."""
        return self._table([from_system(name) for name in self._find(number, path)])

    def most_steps(self, number: float) -> int:
        """Return more than the number of steps from group to group that lead to all names of a file."""
        return int(self._opened(number).id.get_filesize()) * _STEPS_OF_2_BYTES // 2

    def size(self, number: float, path: str) -> Any:
        return self._table(list(self._find(number, path).shape))

    def read(self, number: float, path: str, *ranges: float) -> Tensor:
        """Return a data set, or a part of it: the first and last index of each dimension, counted from 1."""
        data = self._find(number, path)
        if ranges and len(ranges) != 2 * len(data.shape):
            count = len(ranges) // 2
            raise TorchError(
                f"HDF5DataSet:partial() - dimension mismatch. Expected {len(data.shape)} but {count} were given."
            )
        bounds = [(int(a), int(b)) for a, b in zip(ranges[::2], ranges[1::2], strict=True)]
        for (first, last), n in zip(bounds, data.shape, strict=False):
            if not 1 <= first <= last <= n:
                raise TorchError(f"hdf5: {path} has no indices {first} to {last} in a dimension of {n}")
        dtype = _TENSOR_TYPES.get(("i" if data.dtype.kind in "iub" else data.dtype.kind, data.dtype.itemsize))
        if dtype is None:
            raise TorchError(f"hdf5: {path} has the type {data.dtype}, for which there is no tensor type")
        values = np.ascontiguousarray(data[tuple(slice(first - 1, last) for first, last in bounds)])
        values = values.astype(values.dtype.newbyteorder("=")).view(dtype)
        return Tensor.fresh(torch.from_numpy(values.reshape(data.shape or 1) if not bounds else values))

    def write(self, number: float, path: str, data: Tensor, level: float | None, *chunks: float) -> tuple[()]:
        opened = self._opened(number)
        options: dict[str, Any] = {}
        if chunks:
            if len(chunks) != data.dim:
                raise TorchError(f"Chunk size has {len(chunks)} dimensions; data has {data.dim}")
            options["chunks"] = tuple(min(int(c), n) for c, n in zip(chunks, data.size, strict=True))
            options["maxshape"] = (None, *data.size[1:])
        if level is not None:
            options |= {"compression": "gzip", "compression_opts": int(level)}
        if _object(opened, path) is not None:
            raise TorchError(f"HDF5Group: error writing '{path}': it exists already")
        opened.create_dataset(to_system(path), data=data.t.numpy(), **options)
        return ()

    def append(self, number: float, path: str, data: Tensor) -> tuple[()]:
        target = self._find(number, path)
        if target.maxshape[0] is not None:
            raise TorchError(f"hdf5: {path} was written without setChunked, so it cannot grow")
        if not data.dim or data.size[1:] != target.shape[1:]:  # h5py would broadcast
            raise TorchError(f"hdf5: {path} has rows of {target.shape[1:]}, the tensor has {data.size[1:]}")
        target.resize(target.shape[0] + data.size[0], axis=0)
        target[-data.size[0] :] = data.t.numpy()
        return ()

    def write_part(self, number: float, path: str, data: Tensor, *first: float) -> tuple[()]:
        """Write a tensor into a part of a data set that begins at the indices ``first``, counted from 1."""
        target = self._find(number, path)
        for count in (data.dim, len(target.shape)):
            if len(first) != count:
                raise TorchError(
                    f"HDF5DataSet:write() - dimension mismatch. Expected {count} but {len(first)} were given."
                )
        bounds = [(int(start) - 1, int(start) - 1 + n) for start, n in zip(first, data.size, strict=True)]
        for (start, end), n in zip(bounds, target.shape, strict=True):
            if not 0 <= start < end <= n:
                raise TorchError(f"hdf5: {path} has no indices {start + 1} to {end} in a dimension of {n}")
        target[tuple(slice(*bound) for bound in bounds)] = data.t.numpy()
        return ()

    def entries(self) -> dict[str, Callable[..., Any]]:
        names = ("open", "close", "is_group", "most_steps", "read", "write", "write_part", "append")
        return {name: _without_plugins()(getattr(self, name)) for name in names}

    def lists(self) -> dict[str, Callable[..., Any]]:
        """Return the functions whose result is a Lua table."""
        return {name: _without_plugins()(getattr(self, name)) for name in ("names", "size")}
