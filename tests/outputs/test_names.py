"""Outputs have any name that the file system takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.outputs.formats import format_named, suffixes

NEEDS = {".onnx": "onnxscript", ".safetensors": "safetensors"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode only")
@pytest.mark.parametrize("suffix", [s for s in suffixes() if format_named(s).models])
@pytest.mark.parametrize("name", [b"\xff", b"\xff/m"])
def test_names_that_are_not_utf8(name: bytes, suffix: str, tmp_path: Path) -> None:
    """What is written in C++ takes none of them."""
    pytest.importorskip(NEEDS.get(suffix, "torch"), reason="optional extra is not installed")
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(nn.Linear(3, 2)))
    path = tmp_path / os.fsdecode(name + suffix.encode())
    path.parent.mkdir(exist_ok=True)
    options = {"input": torch.ones(1, 3)} if "input" in format_named(suffix).options else {}
    dpnn_bridge.convert(tmp_path / "m.t7", path, **options)
    assert dpnn_bridge.verify(tmp_path / "m.t7", path, input=torch.ones(1, 3)).ok
    assert [p for p in path.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode only")
@pytest.mark.parametrize("suffix", [s for s in suffixes() if format_named(s).data])
def test_names_of_data_that_are_not_utf8(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(suffix, "torch"), reason="optional extra is not installed")
    dpnn_bridge.write_t7(tmp_path / "d.t7", {"a": torch.ones(2)})
    dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / os.fsdecode(b"\xff" + suffix.encode()))
    assert (tmp_path / os.fsdecode(b"\xff" + suffix.encode())).is_file()
