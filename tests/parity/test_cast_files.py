"""A file that was converted with ``dtype=`` is equal to its source, which is cast for the comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FIXTURES, manifest
from torch import nn

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.nn.passthrough import Copy

NAMES = ("nn.NCEModule", "nn.DeepMask", "nn.SharpMask", "nn.SpatialFovea", "nn.DontCast", "nn.OneHot")
ENTRIES = {e["class"]: e for kind in ("structure", "module") for e in manifest(kind=kind) if e["class"] in NAMES}


@pytest.mark.parametrize("file", ["a.pt", "a.safetensors", "a.t7", "a.py"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_a_cast_model_is_equal(name: str, dtype: str, file: str, tmp_path: Path) -> None:
    if (dtype, file) == ("bfloat16", "a.t7"):
        return  # refused
    fixture = dpnn_bridge.read_t7(FIXTURES / ENTRIES[name]["file"])
    dpnn_bridge.write_t7(tmp_path / "source.t7", fixture["module"])
    dpnn_bridge.convert(tmp_path / "source.t7", tmp_path / file, dtype=dtype)
    result = dpnn_bridge.verify(tmp_path / "source.t7", tmp_path / file, input=to_value(fixture["input"]))
    assert result.verdict == Verdict.EQUAL, str(result)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_buffer_that_no_file_contains_has_the_type_of_the_parameters(name: str, tmp_path: Path) -> None:
    """The metadata have the types of Lua, which has no bfloat16."""
    net = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(Copy(torch.float32), nn.Linear(3, 2))))
    dpnn_bridge.save(tmp_path / name, net.to(torch.bfloat16))
    loaded = dpnn_bridge.load(tmp_path / name)
    assert loaded(torch.ones(1, 3)).dtype == torch.bfloat16
