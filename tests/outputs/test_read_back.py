"""What a file holds is compared with what was to be written, every part of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.base import writing
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.outputs import format_of, pt_writer


@pytest.mark.parametrize("part", ["graph", "constants", "metadata", "state_dict"])
def test_another_part_is_noticed(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pt_writer.save
    others = {
        "graph": lambda value: value.replace("nn.Linear", "nn.Linaer"),
        "constants": lambda value: [*value, torch.zeros(1)],
        "metadata": lambda value: {**value, "source": "another file"},
        "state_dict": lambda value: {name: tensor + 1 for name, tensor in value.items()},
    }

    def save(content: Any, *args: Any) -> None:
        assert content[part] != others[part](content[part]) if part != "state_dict" else True
        real({**content, part: others[part](content[part])}, *args)

    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(3, 2)))
    dpnn_bridge.save(tmp_path / "right.pt", model)
    monkeypatch.setattr(pt_writer, "save", save)
    with pytest.raises(VerificationError, match=r"differs? after reading back"):
        dpnn_bridge.save(tmp_path / "out.pt", model)
    assert not (tmp_path / "out.pt").exists()


#: bytes of a file that no comparison of its model finds -> formats
BESIDE = {
    b"sha256:": ("npz", "pt", "pt2", "py"),  # the provenance
    b"load_file(path)": ("py",),  # code that does not run when the file is read back
    b"nn.modules.linear": ("onnx",),  # the layer of an operation
    b"PK\x03\x04": ("pt", "npz"),
}


@pytest.mark.parametrize(("suffix", "part"), [(suffix, part) for part in BESIDE for suffix in BESIDE[part]])
def test_a_disk_that_changes_bytes_beside_the_weights(
    suffix: str, part: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These files appeared, with code that does not run or as outputs of another input."""
    pytest.importorskip({"onnx": "onnxscript"}.get(suffix, "torch"), reason="optional extra is not installed")
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(3, 2))
    options: dict[str, Any] = {"input": torch.ones(1, 3)} if suffix in ("onnx", "pt2") else {"checksum": True}
    real = writing.WrittenBytes.compare

    def compare(self: Any, path: Path) -> None:
        data = path.read_bytes()
        assert part in data
        path.write_bytes(data.replace(part, bytes([part[0] ^ 1]) + part[1:]))
        real(self, path)

    monkeypatch.setattr(writing.WrittenBytes, "compare", compare)
    with pytest.raises(VerificationError, match=rf"out\.{suffix}: the content differs after reading back"):
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / f"out.{suffix}", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.t7"]


def test_writes_that_overlap_are_compared_once(tmp_path: Path) -> None:
    """Archives write the header of a file again when its size is known."""
    with writing.open_compared(tmp_path / "x") as file:
        for start, text in ((0, b"aaaaaaaa"), (16, b"bbbb"), (8, b"cccccccc"), (2, b"dd"), (18, b"eeee")):
            file.seek(start)
            file.write(text)
            file.flush()
    assert (tmp_path / "x").read_bytes() == b"aaddaaaaccccccccbbeeee"


@pytest.mark.parametrize("tensors", [False, True])
def test_large_writes_are_compared_unless_the_caller_does(tensors: bool, tmp_path: Path) -> None:
    def write() -> None:
        with writing.open_compared(tmp_path / "x", tensors=tensors) as file:
            file.write(bytes(3_000_000))
            file.flush()
            (tmp_path / "x").write_bytes(bytes(2_999_999) + b"x")

    if tensors:
        write()
    else:
        with pytest.raises(VerificationError, match="x: the content differs"):
            write()


def test_a_damaged_program_is_one_error_and_no_log_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.export.load`` logs the first error with its traceback, and raises a later one."""
    logger = logging.getLogger("torch.export")

    def load(name: str) -> None:
        try:
            raise RuntimeError("a record is damaged")
        except RuntimeError:
            logger.warning("Ran into the following error when deserializing", exc_info=True)
        raise BadZipFile("check the warnings above")

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    monkeypatch.setattr(torch.export, "load", load)
    try:
        with pytest.raises(RuntimeError, match="a record is damaged"):
            format_of(tmp_path / "m.pt2").open(tmp_path / "m.pt2", nn.Tanh())
    finally:
        logger.removeHandler(handler)
    assert messages == []
