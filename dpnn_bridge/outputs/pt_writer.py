"""Write ``.pt`` files for ``torch.load`` in less time than ``torch.save``.

A ``.pt`` file is a zip archive of one pickle and one record per storage. This writer allocates the file first, and
computes the checksum of each chunk while the chunk is in the CPU cache. It uses zlib-ng's CRC-32, which is four times
as fast as zlib's. The time saved is used to read the file back (benchmarks/bench_convert.py).
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2
from zlib_ng.zlib_ng import crc32

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.base.writing import open_output
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.outputs.pt_file import DTYPES

#: bytes at whose multiples records begin, as torch.save arranges them for memory mapping
_ALIGNMENT = 64
#: bytes of a record's header beside its name and padding: what each has, its size in 64 bits, the head of the padding
_HEAD = 30 + 20 + 4
#: bytes that are written at once, so that they stay in the CPU cache
_CHUNK = 1 << 21
_STORAGES = {dtype: getattr(torch, name.removeprefix("torch ")) for name, dtype in DTYPES.items()}

#: identifies a storage
_Identity = tuple[int, int, torch.dtype]


def _identity_of(tensor: Tensor) -> _Identity:
    """Identify the storage of a tensor's elements."""
    return storage_id(tensor), tensor.untyped_storage().nbytes(), tensor.dtype


class _Stored:
    """A storage in the pickle."""

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid


class _Pickler(pickle.Pickler):
    """A tensor becomes a view of a storage, which is a record of its own.

    Attributes:
        storages: their bytes; the names of their records count from 0.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=2)
        self.storages: dict[_Identity, Tensor] = {}
        self._keys: dict[_Identity, str] = {}

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _Stored) else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        if obj.dtype not in _STORAGES:
            raise ConversionError(f".pt does not support the dtype {obj.dtype}; select another with dtype= (--dtype)")
        identity = _identity_of(obj)
        key = self._keys.setdefault(identity, str(len(self._keys)))
        if identity not in self.storages:
            storage = torch.empty(0, dtype=torch.uint8, device=obj.device)
            self.storages[identity] = storage.set_(obj.untyped_storage())  # type: ignore[arg-type]
        stored = _Stored(("storage", _STORAGES[obj.dtype], key, "cpu", identity[1] // obj.element_size()))
        view = obj.storage_offset(), tuple(obj.shape), tuple(obj.stride())
        return _rebuild_tensor_v2, (stored, *view, False, OrderedDict())


def save(content: Any, path: Path, comment: Callable[[], str | None] | None = None) -> None:
    """Write plain data and tensors.

    Args:
        content: dicts, lists, tuples, numbers, strings, bytes and tensors.
        path: the file.
        comment: returns the comment of the archive, at the end, or None.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(content)
    small = {
        "data.pkl": pickled.getvalue(),
        ".format_version": b"1",
        ".storage_alignment": str(_ALIGNMENT).encode(),
        "byteorder": sys.byteorder.encode(),
        "version": b"3\n",
    }
    records = {name: np.frombuffer(data, np.uint8) for name, data in small.items()}
    records |= {f"data/{i}": storage.cpu().numpy() for i, storage in enumerate(pickler.storages.values())}
    entries, starts, end = [], [], 0
    for name, data in records.items():
        entry = zipfile.ZipInfo(f"archive/{name}")
        entry.header_offset = end
        entry.file_size = entry.compress_size = len(data)
        start = end + _HEAD + len(entry.filename)
        padding = -start % _ALIGNMENT
        entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
        entries.append(entry)
        starts.append(start + padding)
        end = start + padding + len(data)
    with open_output(path) as file, zipfile.ZipFile(file, "w") as archive:
        if sys.platform == "linux":
            with suppress(OSError):  # where it cannot be done, writing says why
                os.posix_fallocate(file.fileno(), 0, end)
        for entry, data, start in zip(entries, records.values(), starts, strict=True):
            file.seek(start)
            entry.CRC = _written(data, file)
            file.seek(entry.header_offset)
            file.write(entry.FileHeader(zip64=True))
        archive.filelist += entries
        archive.start_dir = end
        if comment is not None:
            archive.comment = (comment() or "").encode()


def _written(data: np.ndarray, file: IO[bytes]) -> int:
    """Write bytes; return their checksum."""
    checksum = 0
    for at in range(0, len(data), _CHUNK):
        part = data[at : at + _CHUNK].data
        checksum = crc32(part, checksum)
        file.write(part)
    return checksum
