"""A criterion and a file that was converted from it are compared on the input and the target of a reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FIXTURES, manifest
from torch import nn

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.errors import NoReferenceError, VerificationError
from dpnn_bridge.modules.dpnn.criterion import ModuleCriterion
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.verify import verify

#: a fixture of each class
CRITERIONS = {e["class"]: FIXTURES / e["file"] for e in manifest() if e["class"].endswith("Criterion")}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".py", ".t7"])
def test_a_converted_criterion_is_the_criterion(suffix: str, tmp_path: Path) -> None:
    compared = 0
    for name, path in [*CRITERIONS.items()][:: 1 if suffix == ".pt" else 5]:
        dpnn_bridge.convert(path, tmp_path / f"c{suffix}", key="module", force=True)
        result = verify(path, tmp_path / f"c{suffix}")
        assert result.verdict in (Verdict.EQUAL, Verdict.KNOWN), f"{name}: {result}"
        compared += any(d.name == "output" for layer in result.layers for d in layer.converted)
    assert compared > 8


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_another_weight_of_a_class_is_found(suffix: str, tmp_path: Path) -> None:
    loss = nn.NLLLoss(torch.tensor([0.5, 1.0, 2.0]))
    dpnn_bridge.write_t7(tmp_path / "c.t7", loss)
    assert loss.weight is not None
    loss.weight[1] += 1e-3
    dpnn_bridge.save(tmp_path / f"c{suffix}", loss)
    reference = LuaTable({"input": lua_value(torch.randn(2, 3)), "target": lua_value(torch.tensor([2, 3]))})
    assert verify(tmp_path / "c.t7", tmp_path / f"c{suffix}", reference=reference).verdict is Verdict.DIFFERENT


def test_a_program_without_a_module_of_the_criterion_is_named(tmp_path: Path) -> None:
    one = dpnn_bridge.to_lua(ModuleCriterion(nn.MSELoss(), nn.Linear(3, 3)))
    other = dpnn_bridge.to_lua(ModuleCriterion(nn.MSELoss(), None, nn.Linear(3, 3)))
    dpnn_bridge.write_t7(tmp_path / "one.t7", one)
    dpnn_bridge.save(tmp_path / "other.py", dpnn_bridge.to_torch(other))
    with pytest.raises(
        VerificationError, match=r"other.py creates no input_module \(Linear\)|does not build this model"
    ):
        verify(tmp_path / "one.t7", tmp_path / "other.py")


def test_a_target_that_is_missing_is_named(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "c.t7", nn.MSELoss())
    for given in ({"input": torch.ones(2, 3)}, {"input": [torch.ones(2, 3), torch.ones(2, 3)]}):
        with pytest.raises(
            NoReferenceError, match=r"MSECriterion needs a target; pass .* \{input = x, target = t, output"
        ):
            verify(tmp_path / "c.t7", **given)


@pytest.mark.parametrize("suffix", [None, ".pt", ".py"])
def test_the_target_beside_a_network_is_left_out(suffix: str | None, tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double(), torch.randn(3, 4).double()
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    values = {"input": x, "output": model(x).detach(), "target": torch.ones(3)}
    reference = LuaTable((name, lua_value(value)) for name, value in values.items())
    converted = None
    if suffix:
        converted = tmp_path / f"m{suffix}"
        dpnn_bridge.convert(tmp_path / "m.t7", converted)
    result = verify(tmp_path / "m.t7", converted, reference=reference)
    assert result.verdict is Verdict.EQUAL
    assert any("target in the reference was not used: nn.Sequential" in note for note in result.notes)
    assert "target" in reference
