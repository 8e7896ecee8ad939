"""``.pt``: the project's own format, see :mod:`dpnn_bridge.outputs.container`."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import PatientFile
from dpnn_bridge.compare.bits import CHUNK, byte_array, same_bits
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.outputs import Job, container, pt_file
from dpnn_bridge.outputs.verification import need_whole_zip


def write(module: nn.Module, path: Path, job: Job) -> None:
    job.options["content"] = container.pack(module, job.metadata)
    with PatientFile(path) as file:
        torch.save(job.options["content"], file)  # type: ignore[arg-type]
    if job.origin is not None:
        with ZipFile(path, "a") as archive:
            archive.comment = job.origin().encode()


def verify(module: nn.Module, path: Path, job: Job) -> None:
    written = job.options["content"]
    read = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if any(not _same(read[name], written[name]) for name in ("graph", "constants", "metadata")):
        raise VerificationError(f"{path}: the object graph differs after reading back")
    if _forms(read["state_dict"]) != _forms(written["state_dict"]):
        raise VerificationError(f"{path}: read back other names, shapes or types than were written")
    positions, file = _positions(path), FileSource(path)

    def same(item: tuple[str, Tensor]) -> bool:
        name, tensor = item
        if not tensor.is_contiguous():
            return same_bits(read["state_dict"][name], tensor)
        record, offset = positions[name]
        return _same_in_file(tensor, file, record + offset * tensor.element_size())

    with ThreadPoolExecutor() as pool:
        for name, equal in zip(written["state_dict"], pool.map(same, written["state_dict"].items()), strict=True):
            if not equal:
                raise VerificationError(f"{path}: {name} differs after reading back; the disk may be full or failing")


def origin(path: Path) -> str | None:
    need_whole_zip(path)
    with ZipFile(path) as archive:
        if archive.comment:
            return archive.comment.decode()
    return pt_file.read(path)["metadata"].get("origin")  # as older files have it


def _forms(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: (t.dtype, t.shape, t.stride()) for name, t in tensors.items()}


def _same_in_file(tensor: Tensor, file: FileSource, position: int) -> bool:
    """Whether the bytes at ``position`` are those of a contiguous tensor.

    They are read and not mapped, since mapped pages stay in memory as long as the mapping.
    """
    data = byte_array(tensor)
    for start in range(0, len(data), CHUNK):
        part = data[start : start + CHUNK]
        if not np.array_equal(file.load(position + start * data.itemsize, data.dtype, len(part)), part):
            return False
    return True


class _Positions(pickle.Unpickler):
    """Reads the ``data.pkl`` of a file that :func:`torch.save` wrote.

    Tensors become the position of their storage in the file and that of their first element in the storage.
    """

    def __init__(self, file: Any, reader: Any) -> None:
        super().__init__(file)
        self._reader = reader

    def persistent_load(self, pid: Any) -> int:
        _, _, key, *_ = pid
        return self._reader.get_record_offset(f"data/{key}")

    def find_class(self, module: str, name: str) -> Any:
        if name == "OrderedDict":
            return dict
        if name == "_rebuild_tensor_v2":
            return lambda record, offset, *rest: (record, offset)
        return name


def _positions(path: Path) -> dict[str, tuple[int, int]]:
    """Where the tensors of the state_dict are: position of the storage in the file, first element in the storage."""
    reader = torch._C.PyTorchFileReader(str(path))
    with ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            return _Positions(file, reader).load()["state_dict"]


def _same(a: Any, b: Any, done: set[tuple[int, int]] | None = None) -> bool:
    done = set() if done is None else done
    if isinstance(a, (dict, list, tuple)):
        if (id(a), id(b)) in done:
            return True
        done.add((id(a), id(b)))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same_bits(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(v, b[k], done) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(_same(x, y, done) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a != a)
