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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2

from dpnn_bridge.base.checksum import crc32_of
from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.base.writing import open_compared
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.outputs.pt_file import DTYPES

#: alignment of records in bytes, as in files of torch.save, for memory mapping
_ALIGNMENT = 64
#: bytes of a record's header without its name and padding: fixed part, sizes in 64 bits, header of the padding
_HEADER = 30 + 20 + 4
#: bytes of each chunk that is written; a chunk fits into the CPU cache
_CHUNK = 1 << 21
#: dtype -> class of PyTorch that represents the storage in the pickle
_STORAGES = {dtype: getattr(torch, name.removeprefix("torch ")) for name, dtype in DTYPES.items()}

#: key of a storage: id of its memory, bytes, dtype
_Identity = tuple[int, int, torch.dtype]


def _identity_of(tensor: Tensor) -> _Identity:
    """Return the key of a tensor's storage."""
    return storage_id(tensor), tensor.untyped_storage().nbytes(), tensor.dtype


class _Stored:
    """A reference to a storage in the pickle.

    Args:
        pid: its persistent id.
    """

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid


class _Pickler(pickle.Pickler):
    """Pickles tensors as views of storages, which are separate records.

    Attributes:
        storages: key of each storage -> its bytes. The records are numbered from 0, in this order.
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
        comment: function that returns the comment of the archive, or None; called after all records are written.

    Raises:
        ConversionError: the format does not support the dtype of a tensor.
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
        start = end + _HEADER + len(entry.filename)
        padding = -start % _ALIGNMENT
        entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
        entries.append(entry)
        starts.append(start + padding)
        end = start + padding + len(data)
    with open_compared(path, tensors=True) as file, zipfile.ZipFile(file, "w") as archive:
        if sys.platform == "linux":
            with suppress(OSError):  # a full disk is reported when the data is written
                os.posix_fallocate(file.fileno(), 0, end)
        for entry, data, start in zip(entries, records.values(), starts, strict=True):
            file.seek(start)
            entry.CRC = _write_record(data, file)
            file.seek(entry.header_offset)
            file.write(entry.FileHeader(zip64=True))
        archive.filelist += entries
        archive.start_dir = end
        if comment is not None:
            archive.comment = (comment() or "").encode()


def _write_record(data: np.ndarray, file: IO[bytes]) -> int:
    """Write the data of a record in chunks and return its CRC-32."""

    def write() -> Iterator[memoryview]:
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK].data
            file.write(chunk)
            yield chunk

    return crc32_of(write())
