"""``verify`` compares data without a model, as ``dpnn-verify`` does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dpnn_bridge
from dpnn_bridge.errors import ModelNotFoundError, OptionError


def test_verify_compares_data_without_a_model(tmp_path: Path) -> None:
    for name, size in (("same", 2), ("other", 3)):
        dpnn_bridge.write_t7(tmp_path / f"{name}.t7", {"input": torch.ones(size), "output": 1})
        dpnn_bridge.convert(tmp_path / f"{name}.t7", tmp_path / f"{name}.json")
    source = tmp_path / "same.t7"
    equal = dpnn_bridge.verify(source, tmp_path / "same.json")
    assert (equal.ok, equal.verdict, equal.layers) == (True, "equal", [])
    different = dpnn_bridge.verify(source, tmp_path / "other.json")
    assert (different.ok, different.verdict) == (False, "different")
    assert "input: expected a table with 2 values, found a table with 3 values" in repr(different)
    with pytest.raises(OptionError, match="omit reference="):
        dpnn_bridge.verify(source, tmp_path / "same.json", reference=source)
    with pytest.raises(dpnn_bridge.errors.DpnnBridgeError, match="reference without a module"):
        dpnn_bridge.verify(source)


def test_a_missing_model_is_an_error_without_a_converted_file(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "d.t7", {"a": 1})
    with pytest.raises(ModelNotFoundError, match="contains no module but a table of 1"):
        dpnn_bridge.verify(tmp_path / "d.t7")
