"""The recipes of docs/parity.md, run as they stand there: in the Lua bridge, and in real Torch7 (DPNN_TORCH7)."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.parity.verification import Verification, summary
from dpnn_bridge.parity.verify import verify

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
RECIPES: dict[str, str] = dict(re.findall(r"<!-- recipe: (\w+) -->\n```lua\n(.*?)```", PAGE.read_text(), re.S))
INPUT = "torch.randn(1, 1, 32, 32)"

#: what the page said before: nothing is copied, and gradients are taken in evaluation too
UNCOPIED = f"""
net = torch.load('model.t7'); x = {INPUT}
net:evaluate(); y = net:forward(x)
g = y:clone():normal(); net:zeroGradParameters(); gx = net:backward(x, g); _, gp = net:parameters()
ref = {{mode = 'eval', input = x, output = y, gradOutput = g, gradInput = gx, gradParams = gp, after = net}}
torch.save('ref.t7', ref)
"""

#: nets that keep what they computed, work in place, and draw random numbers: name -> packages, net, input
NETS = {
    "convnet": (
        "nn",
        "nn.Sequential():add(nn.SpatialConvolution(1, 3, 3, 3)):add(nn.ReLU(true)):add(nn.Dropout(0.4))"
        ":add(nn.View(-1):setNumInputDims(3)):add(nn.Linear(48, 5)):add(nn.LeakyReLU(0.2, true))"
        ":add(nn.MulConstant(3, true))",
        "torch.randn(2, 1, 6, 6)",
    ),
    "first_in_place": (
        "nn",
        "nn.Sequential():add(nn.LeakyReLU(0.3, true)):add(nn.Linear(4, 3)):add(nn.Dropout(0.5, true)):add(nn.Tanh())",
        "torch.randn(5, 4)",
    ),
    "recurrent": (
        "rnn",
        "nn.Sequential():add(nn.SplitTable(1)):add(nn.Sequencer(nn.FastLSTM(4, 3))):add(nn.JoinTable(1))"
        ":add(nn.Dropout())",
        "torch.randn(5, 2, 4)",
    ),
    "branches": (
        "nn",
        "nn.Sequential():add(nn.ConcatTable():add(nn.Linear(4, 4)):add(nn.Identity())):add(nn.CAddTable(true))"
        ":add(nn.ReLU(true)):add(nn.Linear(4, 2))",
        "torch.randn(3, 4)",
    ),
    "normalized": (
        "nn",
        "nn.Sequential():add(nn.SpatialConvolution(1, 3, 3, 3)):add(nn.SpatialBatchNormalization(3))"
        ":add(nn.ReLU(true))",
        "torch.randn(4, 1, 5, 5)",
    ),
}
#: saved after training in memory, with all buffers and the noise of another input
MAKING = "require '{package}'; net = {net}:{type}(); net:forward({input}); torch.save('model.t7', net)"

#: fixtures whose module, as it is after its run, the bridge takes: it constructs none without Lua sources
RUN = [
    "Sequential__net_highway__double_train",
    "Sequential__net_superres__double_train",
    "Sequential__net_mlp_bn_dropout__double_train",
    "Sequential__net_textcnn__double_train",
]


def run(command: list[str], code: str, folder: Path) -> Verification:
    """Runs Lua code that makes a reference, and verifies the model with it."""
    (folder / "recipe.lua").write_text(code)
    done = subprocess.run([*command, "recipe.lua"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return verify(folder / "model.t7", reference=folder / "ref.t7")


def in_torch7(recipe: str, name: str, folder: Path, kind: str = "double") -> Verification:
    """A recipe in real Torch7, on one of :data:`NETS`."""
    program = os.environ.get("DPNN_TORCH7")
    if not program:
        pytest.skip("DPNN_TORCH7 names no Torch7")
    package, net, input = NETS[name]
    cast = f"{input}:{kind}()"
    making = MAKING.format(package=package, net=net, type=kind, input=cast)
    assert INPUT in recipe
    return run([program], f"{making}\n{recipe.replace(INPUT, cast)}", folder)


def in_bridge(recipe: str, name: str, folder: Path, scripts: Path) -> Verification:
    """A recipe in the Lua bridge, on the module of a fixture."""
    pytest.importorskip("lupa", reason="optional extra is not installed")
    (entry,) = manifest(name=name)
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    dpnn_bridge.write_t7(folder / "model.t7", fixture["after"])
    dpnn_bridge.write_t7(folder / "x.t7", fixture["input"])
    code = f"require 'nn'\n{recipe.replace(INPUT, 'torch.load([[x.t7]])')}"
    return run([str(scripts / "dpnn-lua")], code, folder)


def demand_equal(result: Verification, mode: str) -> None:
    assert result.forward is Verdict.EQUAL, summary(result)
    assert result.gradients is (Verdict.EQUAL if mode == "train" else None), summary(result)
    assert not any("Not compared" in note for note in result.notes)
    assert sum(any(d.name.startswith("output") for d in layer.differences) for layer in result.layers) >= 2


@pytest.mark.parametrize("kind", ["double", "float"])
@pytest.mark.parametrize("mode", RECIPES)
@pytest.mark.parametrize("name", NETS)
def test_recipe_in_torch7(name: str, mode: str, kind: str, tmp_path: Path) -> None:
    demand_equal(in_torch7(RECIPES[mode], name, tmp_path, kind), mode)


@pytest.mark.parametrize(("name", "mode"), [(n, mode) for n in RUN for mode in RECIPES])
def test_recipe_in_the_bridge(name: str, mode: str, tmp_path: Path, scripts: Path) -> None:
    demand_equal(in_bridge(RECIPES[mode], name, tmp_path, scripts), mode)


@pytest.mark.parametrize("name", NETS)
def test_values_saved_too_late_are_no_difference(name: str, tmp_path: Path) -> None:
    result = in_torch7(UNCOPIED, name, tmp_path)
    assert result.ok, summary(result)
    assert result.gradients in (Verdict.EQUAL, Verdict.KNOWN, None)


def test_values_of_the_bridge_that_were_not_copied(tmp_path: Path, scripts: Path) -> None:
    result = in_bridge(UNCOPIED, "Sequential__net_mlp_bn_dropout__double_train", tmp_path, scripts)
    assert result.ok, summary(result)


def test_a_changed_weight_before_a_layer_that_works_in_place_is_suspected(tmp_path: Path) -> None:
    in_torch7(RECIPES["eval"], "convnet", tmp_path)
    model = dpnn_bridge.load(tmp_path / "model.t7")
    with torch.no_grad():
        model[0].weight[1, 0, 1, 1] += 1e-3  # type: ignore[index]
    dpnn_bridge.write_t7(tmp_path / "model.t7", model, force=True)
    result = verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7")
    assert result.verdict is Verdict.DIFFERENT
    assert [layer.path for layer in result.suspects] == ["modules[1]"]
    assert [layer.path for layer in result.layers if not layer.ok] == ["", "modules[1]", "modules[2]"]
