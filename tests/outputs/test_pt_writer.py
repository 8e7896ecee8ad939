"""What is written as torch.save writes it: torch.load reads it, and every zip program finds it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.outputs import pt_file, pt_writer


def content() -> dict[str, Any]:
    flat = torch.arange(12.0)
    tensors = {str(dtype): torch.arange(5).to(dtype) for dtype in pt_file.DTYPES.values()}
    views = {
        "rows": flat[2:8].view(2, 3),
        "transposed": flat.view(3, 4).t(),
        "again": flat,
        "expanded": flat[:1].expand(4),
    }
    empty = {f"no {dtype}": torch.empty(0, 3, dtype=dtype) for dtype in (torch.float32, torch.int64)}
    plain = {"list": [1, 2.5, None, True, "a", b"\0\xff", ("nested", {"a": flat[5]})], "scalar": torch.tensor(3)}
    return {**tensors, **views, **empty, **plain}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_load_reads_it(tmp_path: Path, mmap: bool) -> None:
    path, written = tmp_path / "a.pt", content()
    pt_writer.save(written, path)
    read = torch.load(path, weights_only=True, mmap=mmap)
    assert same(written, read)
    assert same(written, pt_file.read(path))
    assert read["rows"].untyped_storage().data_ptr() == read["again"].untyped_storage().data_ptr()


def test_records_are_whole_aligned_and_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    pt_writer.save(content(), path, lambda: "comment")
    with ZipFile(path) as archive:
        assert (archive.testzip(), archive.comment) == (None, b"comment")
    records = pt_file.records(path, FileSource(path))
    assert {r.start % 64 for r in records.values()} == {0}


def test_a_record_of_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt_writer, "_CHUNK", 1000)
    written = {"a": torch.randn(1001), "b": torch.arange(3003).to(torch.uint8)}
    pt_writer.save(written, tmp_path / "a.pt")
    assert same(written, torch.load(tmp_path / "a.pt", weights_only=True))


def test_a_type_that_the_format_lacks_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"does not support the dtype torch\.float8"):
        pt_writer.save({"a": torch.zeros(3).to(torch.float8_e5m2)}, tmp_path / "a.pt")
