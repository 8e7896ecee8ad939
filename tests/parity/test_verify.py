"""dpnn-verify, and parity for other test suites."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import FIXTURES, KNOWN_FILE, RESIDUAL
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion import noise
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import OptionError, OutputExistsError, VerificationError
from dpnn_bridge.loaders import read_t7, write_t7
from dpnn_bridge.modules.nn import CAddTable
from dpnn_bridge.modules.rnn import Recurrence
from dpnn_bridge.modules.rnn.clones import shared_clone
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.verification import headline
from dpnn_bridge.parity.verify import verify

SAMPLE = SAMPLES / "torch-demos__mnist_convnet"


def run(*args: object) -> Result:
    return CliRunner().invoke(verify_command, [str(a) for a in args], env={"COLUMNS": "200"})


# ---------------------------------------------------------------------- what is compared
def test_every_layer_of_a_fixture_is_compared() -> None:
    result = verify(RESIDUAL)
    assert result.ok
    assert result.computed_by.startswith("Torch7 ")
    assert f"(computed by {result.computed_by})" in headline(result)
    assert [verify(RESIDUAL, mode=mode).mode for mode in ("train", "eval")] == ["train", "eval"]
    compared = {layer.path for layer in result.layers if any(d.name.startswith("output") for d in layer.differences)}
    assert {"modules[1]", "modules[2]", "modules[5].modules[1].modules[1]"} <= compared
    gradients = {d.name for layer in result.layers for d in layer.differences if "grad" in d.name}
    assert {"modules[2].gradWeight", "modules[8].gradBias", "gradInput"} <= gradients


def test_first_layer_that_deviates_is_found_inside_a_branch(deviating: Path) -> None:
    result = verify(deviating)
    assert not result.ok
    first = result.first_deviating
    assert first is not None
    assert first.path == "modules[5].modules[1].modules[1]"
    assert first.failure is not None
    assert first.failure.index is not None
    assert "modules[5].modules[1].modules[1].weight" in {d.name for d in result.differences if not d.ok}


def test_whole_reference_says_that_layers_have_none() -> None:
    result = verify(SAMPLE / "model.t7", reference=SAMPLE / "ref.t7")
    assert result.ok
    assert result.mode == "train"
    assert any("results of the complete model" in note for note in result.notes)
    assert "modules[8].gradWeight" in {d.name for d in result.differences}


def test_results_left_in_the_model_file_are_used(tmp_path: Path) -> None:
    fixture = dpnn_bridge.read_t7(RESIDUAL)
    module = fixture["module"]
    ours, theirs = (dict(noise.paired(dpnn_bridge.to_torch(module), o)) for o in (module, fixture["after"]))
    for before, after in zip(ours.values(), theirs.values(), strict=True):
        before["output"] = after["output"]
    dpnn_bridge.write_t7(tmp_path / "model.t7", module)
    x = to_value(fixture["input"])
    result = verify(tmp_path / "model.t7", input=x, mode="train")
    assert result.ok
    assert result.reference == "the results that Torch7 stored in the model file"
    assert sum(bool(layer.differences) for layer in result.layers) > 8
    for another in ({"input": x + 1, "mode": "train"}, {"input": x, "mode": "eval"}):  # of another call: no reference
        result = verify(tmp_path / "model.t7", **another)
        assert result.verdict is None
        assert result.reference == ""


def test_of_a_step_module_the_clone_that_ran_last_is_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), Recurrence(nn.Sequential(CAddTable(), nn.Tanh()), 3, 1)).double()
    x = torch.randn(2, 3).double()
    first, once = net(x), dpnn_bridge.to_lua(net)
    second, twice = net(x), dpnn_bridge.to_lua(net)
    for obj, output in ((once, first), (twice, second)):
        linear, step = obj["modules"].as_list()
        linear["output"], step["output"], obj["output"] = (
            lua_value(net[0](x).detach()),
            None,
            lua_value(output.detach()),
        )
        clones = step["sharedClones"]
        for number, result in enumerate((first, second)[: step["step"] - 1], 1):
            clones[number] = clones[1] if number == 1 else shared_clone(clones[1])
            clones[number]["output"] = lua_value(result.detach())
    dpnn_bridge.write_t7(tmp_path / "model.t7", once)
    reference = LuaTable([("mode", "train"), ("input", lua_value(x)), ("output", twice["output"]), ("after", twice)])
    result = verify(tmp_path / "model.t7", reference=reference)
    assert result.ok
    assert "modules[2].modules[1]" in {layer.path for layer in result.layers if layer.differences}
    clones[2]["output"] = lua_value(second.detach() + 1e-3)
    assert not verify(tmp_path / "model.t7", reference=reference).ok
    result = verify(tmp_path / "model.t7", input=x, mode="train")  # the model continues the sequence
    assert result.verdict is None
    assert any("continues a sequence" in note for note in result.notes)


def test_converted_file_returns_the_same_bits_in_every_layer(tmp_path: Path) -> None:
    dpnn_bridge.convert(SAMPLE / "model.t7", tmp_path / "model.pt")
    result = verify(SAMPLE / "model.t7", tmp_path / "model.pt", input=torch.randn(2, 1, 32, 32))
    assert result.ok
    assert all(d.error == 0 for d in result.differences)
    assert sum(bool(layer.converted) for layer in result.layers) == len(result.layers) == 12

    model = dpnn_bridge.load(tmp_path / "model.pt")
    with torch.no_grad():
        model.get_parameter("7.bias")[3] += 1e-6
    dpnn_bridge.save(tmp_path / "other.pt", model)
    result = verify(SAMPLE / "model.t7", tmp_path / "other.pt", input=torch.randn(2, 1, 32, 32))
    assert result.first_deviating is not None
    assert result.first_deviating.path == "modules[8]"


def test_original_lua_sources_are_a_reference(tmp_path: Path) -> None:
    lua = pytest.importorskip("dpnn_bridge.lua")
    pytest.importorskip("lupa")
    fixture = dpnn_bridge.read_t7(FIXTURES / "nn" / "nn.Sequential" / "Sequential__mlp__double_train.t7")
    (tmp_path / "Linear.lua").write_text(
        "require 'nn'\nlocal L = torch.class('nn.Linear', 'nn.Module')\n"
        "function L:updateOutput(x)\n"
        "  self.output = x * self.weight:t() + self.bias:view(1, -1):expand(x:size(1), self.bias:size(1))\n"
        "  return self.output\nend\n"
    )
    bridge = lua.LuaBridge.from_files([tmp_path / "Linear.lua"])
    linear = next(m for m in fixture["module"]["modules"].as_list() if m.class_name == "nn.Linear")
    dpnn_bridge.write_t7(tmp_path / "linear.t7", linear)
    x = torch.randn(4, linear["weight"].shape[1], dtype=torch.float64)
    result = verify(tmp_path / "linear.t7", input=x, lua=bridge, gradients=False)
    assert result.ok
    assert result.reference == "the Lua sources"
    assert [d.name for d in result.layers[0].differences] == ["output", "weight", "bias"]
    for dtype in (torch.float32, torch.bfloat16):  # the model is in double precision
        assert verify(tmp_path / "linear.t7", input=x.float(), lua=bridge, gradients=False, dtype=dtype).ok


# ---------------------------------------------------------------------- the command
def test_checklist_and_exit_codes(deviating: Path) -> None:
    good = run(RESIDUAL)
    assert good.exit_code == 0, good.output
    assert "✓" in good.stdout
    assert good.stdout.splitlines()[-1].startswith("PASS: ")
    bad = run(deviating)
    assert bad.exit_code == 4
    assert "✗" in bad.stdout
    assert "first layer that deviates: modules[5].modules[1].modules[1] (nn.SpatialConvolution)" in bad.stdout
    assert "\x1b" not in bad.stdout
    assert (
        run(deviating, "--rtol", 1, "--gradient-rtol", 1).exit_code == 4
    )  # parameters must be equal whatever is allowed
    quiet = run(deviating, "-q")
    assert quiet.stdout == ""
    assert quiet.exit_code == 4
    assert run(SAMPLE / "missing.t7", "--input", "1x1").exit_code == 3
    assert run(SAMPLE / "model.t7", "--output", "y.npy").exit_code == 2


def test_json(deviating: Path) -> None:
    result = run(deviating, "--json")
    data = json.loads(result.stdout)
    assert data["ok"] is False
    assert data["first_deviating"] == "modules[5].modules[1].modules[1]"
    assert len(data["layers"]) == 15
    assert (data["verdict"], data["forward"], data["gradients"]) == ("different", "different", "different")
    relu = next(c for c in data["classes"] if c["class_name"] == "nn.ReLU")
    assert (relu["torch_type"], relu["count"], relu["checked_by"]) == ("torch.nn.ReLU", 1, "torch7")
    assert relu["fixtures"] > 0


def test_arrays_in_and_out(tmp_path: Path) -> None:
    ref = dpnn_bridge.read_t7(SAMPLE / "ref.t7")
    np.save(tmp_path / "x.npy", ref["input"].numpy())
    torch.save(ref["output"].torch(), tmp_path / "y.pt")
    args = (SAMPLE / "model.t7", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.pt")
    assert run(*args).exit_code == 0
    torch.save(ref["output"].torch() + 1, tmp_path / "y.pt")
    assert run(*args).exit_code == 4


def test_an_output_is_a_file_and_no_random_numbers() -> None:
    model = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
    result = run(model, "--input", "1x1x32x32", "--output", "1x10")
    assert result.exit_code == 2
    assert "--output 1x10: not a file" in result.stderr


def test_precision_of_half_and_double() -> None:
    args = (SAMPLE / "model.t7", "--reference", SAMPLE / "ref.t7")
    assert run(*args, "--dtype", "float64").exit_code == 0
    assert run(*args, "--dtype", "bfloat16", "--no-backward").exit_code == 0
    rounded = run(*args, "--dtype", "bfloat16", "--rtol", 1e-6, "--no-backward")
    assert rounded.exit_code == 0
    assert "forward rounding only" in rounded.stdout


def test_missing_device_is_said() -> None:
    for device in ("privateuseone", "npu", "xla:0", "cuda:99", "meta", "card"):
        result = run(RESIDUAL, "--device", device)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: --device {device}: PyTorch cannot use this device: ")
        assert len(result.stderr) < 500
        assert "available: cpu" in result.stderr
    with pytest.raises(OptionError, match=r"device=cuda:99"):
        verify(RESIDUAL, device="cuda:99")
    for device in ("card", 99):
        with pytest.raises(OptionError, match=rf"device={device}"):
            dpnn_bridge.load(RESIDUAL, key="module", device=device)


def test_the_package_of_a_device_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch_xla and torch_npu, which make PyTorch know their device."""
    (tmp_path / "torch_card.py").write_text("raise RuntimeError('the card is not in its slot')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match=r"device=card:1.*the card is not in its slot"):
        verify(RESIDUAL, device="card:1")


def test_html_page_is_complete_in_itself(deviating: Path, tmp_path: Path) -> None:
    run(deviating, "--html", tmp_path / "report.html")
    whole = (tmp_path / "report.html").read_text()
    assert not re.search(r"<script[^>]+src|<link|@import", whole)
    page = re.sub(r"<script.*?</script>", "", whole, flags=re.S)  # tests/pictures/test_browser.py runs them
    for tag in ("details", "div", "span", "section", "a", "svg", "table"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag
    assert len(re.findall(r"<(circle|path) class=bad", page)) == 5
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://", page)
    assert "✗ 5 of 54 comparisons fail: forward different, gradients different" in page
    (number,) = re.findall(r"First layer that deviates: <a href=#layer-(\d+)><b>modules\[5\]\.modules\[1\]", page)
    assert re.search(rf"class='row bad first' id=layer-{number}>", page)
    assert set(re.findall(r"href=#(layer-\d+)", page)) <= set(re.findall(r"id=(layer-\d+)", page))


def test_html_page_of_a_pass_names_known_differences(tmp_path: Path) -> None:
    weights_shared = FIXTURES / "nn" / "nn.Sequential" / "Sequential__net_siamese_weightonly__double_train.t7"
    run(weights_shared, "--known-differences", KNOWN_FILE, "--html", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "✓ All comparisons agree except 4 that are accepted: forward equal, gradients known difference" in page
    assert "the layers share weights but not gradients" in page
    assert page.count("class=known") >= 4
    assert "class=bad" not in page


# ---------------------------------------------------------------------- for other test suites
def test_record_and_assert(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    path = tmp_path / "recorded.t7"
    parity.record(model, torch.randn(5, 3, dtype=torch.float64), path)
    parity.assert_parity(model, path)
    fixture = dpnn_bridge.read_t7(path)
    assert set(fixture["provenance"]) == {"pytorch", "dpnn_bridge"}
    assert "not Torch7" in verify(path).computed_by
    with pytest.raises(OutputExistsError):
        parity.record(model, torch.randn(5, 3, dtype=torch.float64), path)
    with torch.no_grad():
        model.get_parameter("2.bias")[1] += 1e-6
    with pytest.raises(AssertionError, match=r"output: expected .* at \[\d, 1\]"):
        parity.assert_parity(model, path)


@pytest.mark.parametrize("name", ["loss", "sum", "any", "pair"])
def test_a_recorded_number_is_compared(name: str, tmp_path: Path) -> None:
    class Reduced(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return {"sum": x.sum(), "any": (x > 0).any(), "pair": [x, x.mean()]}[name]

    model = nn.MSELoss() if name == "loss" else Reduced()
    target = torch.zeros(3) if name == "loss" else None
    parity.record(model, torch.ones(3), tmp_path / "m.t7", target=target, gradients=name != "any")
    parity.assert_parity(model, tmp_path / "m.t7")
    table = dpnn_bridge.read_t7(tmp_path / "m.t7")
    table["output"] = LuaTable.from_list([2, 2]) if name == "pair" else 2
    with pytest.raises(AssertionError, match="output"):
        parity.assert_parity(model, table)


@dataclass
class Scores:
    """Outputs of a user's network. None stands for an output that was not computed."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


class WithScores(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[Scores, torch.Tensor]:
        return Scores(2 * x), x + 1


def test_outputs_in_a_dataclass_are_recorded_and_compared(tmp_path: Path) -> None:
    parity.record(WithScores(), torch.ones(3), tmp_path / "m.t7")
    parity.assert_parity(WithScores(), tmp_path / "m.t7")
    table = dpnn_bridge.read_t7(tmp_path / "m.t7")
    assert list(table["output"][1]) == ["logits"]
    table["output"][1]["logits"] = table["output"][2]
    table["output"][2] = table["gradInput"]
    with pytest.raises(AssertionError, match="output"):
        parity.assert_parity(WithScores(), table)


class Returning(nn.Module):
    def __init__(self, structure: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.structure = nn.Linear(3, 2), structure

    def forward(self, x: torch.Tensor) -> Any:
        return self.structure(self.layer(x))


@pytest.mark.parametrize(
    "structure",
    [
        lambda y: {2: y, 1: y * 2},
        lambda y: (y, None),
        lambda y: (None, y, None, y * 2),
        lambda y: (y, (None, {"a": y, "b": None})),
    ],
    ids=["keys of a list", "None at the end", "None between", "nested"],
)
def test_outputs_that_a_lua_table_holds_in_another_way_are_compared(
    tmp_path: Path, structure: Callable[[torch.Tensor], Any]
) -> None:
    model = Returning(structure)
    parity.record(model, torch.ones(2, 3), tmp_path / "m.t7")
    parity.assert_parity(model, tmp_path / "m.t7")
    with torch.no_grad():
        model.layer.weight[0, 0] += 1e-3
    with pytest.raises(AssertionError, match="output"):
        parity.assert_parity(model, tmp_path / "m.t7")


@pytest.mark.parametrize(
    ("structure", "zero", "factor"),
    [(lambda y: {2: y, 1: None}, None, 1), (lambda y: {2: 3 * y, 1: y}, torch.zeros(2, 2), 3)],
    ids=["None", "keys"],
)
def test_gradients_of_such_outputs_may_have_their_structure(
    tmp_path: Path, structure: Callable[[torch.Tensor], Any], zero: Any, factor: int
) -> None:
    model, g = Returning(structure), torch.rand(2, 2)
    parity.record(model, torch.ones(2, 3), tmp_path / "m.t7", grad_output={2: g, 1: zero})
    expected = factor * g @ model.layer.weight
    torch.testing.assert_close(to_value(dpnn_bridge.read_t7(tmp_path / "m.t7")["gradInput"]), expected)
    parity.assert_parity(model, tmp_path / "m.t7")


def test_a_fixture_without_a_module_is_one_error() -> None:
    with pytest.raises(VerificationError, match="contains no module; pass the module to check_module"):
        parity.check(LuaTable({"input": 1}))


@pytest.mark.parametrize("name", ["gradInput", "gradParams"])
def test_gradients_without_the_gradient_of_the_output_are_one_error(name: str, tmp_path: Path) -> None:
    table = read_t7(RESIDUAL)
    for other in {"gradOutput", "gradInput", "gradParams"} - {name}:
        table[other] = None
    write_t7(tmp_path / "ref.t7", table)
    result = run(tmp_path / "ref.t7")
    assert result.exit_code == VerificationError.exit_code
    assert "no gradOutput; add the gradient that `backward` got, or use --no-backward" in result.stderr
    assert run(tmp_path / "ref.t7", "--no-backward").exit_code == 0


def test_recording_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model, x = Recurrence(nn.Sequential(CAddTable(), nn.Linear(3, 3)), 3, 1).double(), torch.randn(2, 3).double()
    model(x).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    parity.record(model, x, tmp_path / "recorded.t7")
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    parity.assert_parity(model, tmp_path / "recorded.t7")  # the same step of the sequence


def test_record_of_a_model_without_lua_class(tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    parity.record(Mine(), torch.randn(4, 2), tmp_path / "mine.t7")
    assert "module" not in dpnn_bridge.read_t7(tmp_path / "mine.t7")
    parity.assert_parity(Mine(), tmp_path / "mine.t7")


def test_hand_written_port_against_torch7() -> None:
    """A port that knows nothing of this package, against a reference that Torch7 made."""
    ref = dpnn_bridge.read_t7(SAMPLE / "ref.t7")
    port = nn.Sequential(
        nn.Conv2d(1, 32, 5),
        nn.Tanh(),
        nn.MaxPool2d(3, 3, 1),
        nn.Conv2d(32, 64, 5),
        nn.Tanh(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(576, 200),
        nn.Tanh(),
        nn.Linear(200, 10),
        nn.LogSoftmax(1),
    )
    port.load_state_dict(dpnn_bridge.load(SAMPLE / "model.t7").state_dict())
    parity.assert_parity(port, ref, rtol=1e-5)
