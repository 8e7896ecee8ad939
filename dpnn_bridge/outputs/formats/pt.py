"""Write ``.pt``, the format of this package, see :mod:`dpnn_bridge.outputs.container`, or data."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import reading_back
from dpnn_bridge.base.reading import open_zip
from dpnn_bridge.base.writing import not_as_written
from dpnn_bridge.compare.bits import same_bits, same_in_file
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.outputs import container, data, pt_file, pt_writer
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.verification import check_zip, utf8_name


def _layouts(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: (t.dtype, t.shape, t.stride()) for name, t in tensors.items()}


class _Positions(pickle.Unpickler):
    """Reads the ``data.pkl`` of a ``.pt`` file.

    Each tensor is read as a tuple: position of its storage in the file, position of its first element in the storage.
    """

    def __init__(self, file: Any, records: dict[str, pt_file.Record]) -> None:
        super().__init__(file)
        self._records = records

    def persistent_load(self, pid: Any) -> int:
        _, _, key, *_ = pid
        return self._records[f"data/{key}"].start

    def find_class(self, module: str, name: str) -> Any:
        if name == "_rebuild_tensor_v2":
            return lambda record, offset, *rest: (record, offset)
        return dict if name == "OrderedDict" else lambda *args: None


def _positions(path: Path) -> dict[str, tuple[int, int]]:
    """Return for each tensor of the ``state_dict``: file offset of its storage, first element in the storage."""
    source = FileSource(path)
    records = pt_file.records(path, source)
    return _Positions(io.BytesIO(source.read(*records["data.pkl"])), records).load()["state_dict"]


def _same(a: Any, b: Any, done: set[tuple[int, int]] | None = None) -> bool:
    """Return whether two nested values are equal, with equal types and bits.

    Args:
        a, b: the values.
        done: pairs of ids of values that were compared before.
    """
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
    return type(a) is type(b) and (repr(a) == repr(b) if isinstance(a, float) else a == b)


class Pt(Format):
    """The format ``.pt``: a model with its graph of Lua objects, or data."""

    suffix = ".pt"
    data = True
    loads = rebuilt = True
    origin_beside = False

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        content = context.written = container.pack(module, context.metadata)
        pt_writer.save(content, path, context.origin)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        written = context.written
        with utf8_name(path) as name:
            read = torch.load(name, map_location="cpu", weights_only=True, mmap=True)
        if any(not _same(read[name], written[name]) for name in ("graph", "constants", "metadata")):
            raise not_as_written(path, "the object graph differs")
        if _layouts(read["state_dict"]) != _layouts(written["state_dict"]):
            raise not_as_written(path, "names, shapes or types differ")
        positions, file = _positions(path), FileSource(path)
        for name, tensor in written["state_dict"].items():
            record, offset = positions[name]
            if tensor.is_contiguous():
                same = same_in_file(tensor, file, record + offset * tensor.element_size())
            else:
                same = same_bits(read["state_dict"][name], tensor)
            if not same:
                raise not_as_written(path, f"{name} differs")

        container.check(read, module)

    def load(self, path: Path, name: str) -> Any:
        return pt_file.read(path, name)

    def origin(self, path: Path) -> str | None:
        check_zip(path)
        with open_zip(path) as archive:
            return archive.comment.decode() or None

    def same_content(self, one: Path, other: Path) -> bool:
        """Return whether two files contain equal data or models; the metadata of models is ignored."""
        for path in (one, other):
            check_zip(path)
        a, b = pt_file.read(one), pt_file.read(other)
        if isinstance(a, dict) and isinstance(b, dict) and a.get("format") == container.FORMAT:
            a, b = ({k: v for k, v in content.items() if k != "metadata"} for content in (a, b))
        return _same(a, b)

    def read_data(self, path: Path) -> Any:
        check_zip(path)
        return pt_file.read(path)

    def write_data(self, found: data.Data, path: Path) -> None:
        plain = data.cleaned(found, lambda array: torch.from_numpy(np.array(array)))
        pt_writer.save(plain, path)
        with reading_back(path), utf8_name(path) as name:
            read = torch.load(name, weights_only=True)
        if not _same(read, plain):
            raise not_as_written(path, "the data differ")


FORMAT = Pt()
