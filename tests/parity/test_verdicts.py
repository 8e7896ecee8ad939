"""Five verdicts: each has a case here, and beside it one that is different."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES, manifest
from rich.console import Console
from samples import SAMPLES
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.cli.checklist import print_checklist
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.compare.verdict import Verdict, worst_verdict
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.modules.nnx.tree import SoftMaxTree
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.faults import Faults
from dpnn_bridge.parity.fixture import check_module
from dpnn_bridge.parity.html import _rows
from dpnn_bridge.parity.verification import Layer, Verification, headline
from dpnn_bridge.parity.verify import verify

DROPOUT = "Sequential__net_mlp_bn_dropout__double_train"
EVALUATED_LSTM = "Sequencer__lstm_eval_backward__double_eval"


def fixture(name: str) -> LuaTable:
    (entry,) = manifest(name=name)
    return dpnn_bridge.read_t7(FIXTURES / entry["file"])


def test_the_worst_verdict_counts() -> None:
    assert worst_verdict([Verdict.EQUAL, Verdict.KNOWN, Verdict.RANDOM]) is Verdict.KNOWN
    assert worst_verdict([]) is None
    assert [v.value for v in sorted(Verdict, key=lambda v: v.severity)][-1] == "different"


def layer(path: str, *differences: Difference) -> Layer:
    return Layer(path, path.count("."), "nn.Any", "torch.nn.Any", 0, list(differences))


def test_every_sign_has_its_meaning_and_a_layer_that_of_its_verdict() -> None:
    """A difference with tolerance 0 does not hide behind one that uses up more of its tolerance."""
    known = Difference("gradInput", 0.5, 0.0, accepted=Verdict.KNOWN, reason="listed")
    nearly = Difference("output", 0.9e-10, 1e-10)
    random = Difference("output", 1.0, 1e-10, accepted=Verdict.RANDOM, reason="drawn")
    result = Verification("m.t7", "r.t7", "", "", "", "eval", "cpu", "")
    result.layers = [layer("a", known, nearly), layer("b", random), layer("c")]
    text = StringIO()
    print_checklist(result, Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    signs = {words[1]: words[0] for words in map(str.split, lines) if words[1:2] and words[1] in "abc"}
    assert signs == {"a": "≠", "b": "?", "c": "·"}
    assert "marks: ✓ equal, ? random, ≠ known difference, · not compared" in lines
    assert [row["mark"] for row in _rows(result, {})] == ["≠", "?", "·"]


def test_a_layer_does_not_contain_one_whose_name_begins_with_its_own() -> None:
    wrong = Difference("gradInput", 1.0, 0.0)
    result = Verification("m.t7", "r.t7", "", "", "", "eval", "cpu", "")
    result.layers = [layer("unit", wrong), layer("units", wrong)]
    result.layers[0].order, result.layers[1].order = 2, 1
    assert result.first_deviating is result.layers[0]


def test_integers_that_are_one_double_differ() -> None:
    (difference,) = compare("output", torch.tensor([0, 2**53 + 1]), torch.tensor([0, 2**53]))
    assert (difference.ok, difference.index) == (False, (1,))


@pytest.mark.parametrize("count", [-1, 0.5, 1001, "two", float("nan")])
def test_a_number_of_forward_passes_that_there_is_not(count: object) -> None:
    ones = LuaTensor.from_numpy(np.ones((1, 2)))
    with pytest.raises(VerificationError, match="forward passes, expected 1 to 1000"):
        check_module(nn.Identity(), LuaTable({"input": ones, "output": ones, "forwards": count}))


def test_a_shared_parameter_counts_once_in_the_headline(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    assert headline(verify(tmp_path / "m.t7")).startswith("4 parameters")


def test_metrics_of_a_comparison() -> None:
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64)
    (same,) = compare("x", expected.clone(), expected)
    assert (same.cosine, same.snr) == (1.0, float("inf"))
    (turned,) = compare("x", torch.tensor([4.0, 3.0], dtype=torch.float64), expected)
    assert turned.cosine == pytest.approx(0.96)
    assert turned.snr == pytest.approx(20 * torch.log10(torch.tensor(5 / 2**0.5)).item(), rel=1e-6)
    (lost,) = compare("x", torch.zeros(2, dtype=torch.float64), expected)
    assert lost.snr == 0


# ---------------------------------------------------------------------- rounding
@pytest.fixture
def cancelling(tmp_path: Path) -> Path:
    """A net in single precision that adds a large number and takes it away again."""
    net = dpnn_bridge.to_torch(
        dpnn_bridge.to_lua(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 4)))
    )
    with torch.no_grad():
        for layer in net:  # type: ignore[attr-defined]
            layer.weight.copy_(torch.eye(4))
        net[1].bias.fill_(1e5)  # type: ignore[index]
        net[2].bias.fill_(-1e5)  # type: ignore[index]
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    return tmp_path / "model.t7"


def reference(x: Tensor, y: Tensor) -> LuaTable:
    return LuaTable([("mode", "eval"), ("input", lua_value(x)), ("output", lua_value(y))])


def test_what_agrees_in_double_precision_is_rounding(cancelling: Path) -> None:
    x = torch.randn(6, 4)
    result = verify(cancelling, reference=reference(x, x))
    assert result.forward is Verdict.ROUNDING
    assert result.ok
    assert "in double precision" in result.layers[0].differences[0].message


def test_what_rounding_errors_explain_is_rounding(cancelling: Path) -> None:
    x = torch.randn(6, 4)
    rounded = x + 0.01 * (torch.rand(6, 4) - 0.5)  # as a library with another order of sums may give
    assert verify(cancelling, reference=reference(x, rounded)).forward is Verdict.ROUNDING
    assert verify(cancelling, reference=reference(x, x + 5)).forward is Verdict.DIFFERENT
    well_conditioned = dpnn_bridge.load(cancelling)
    with torch.no_grad():
        well_conditioned[1].bias.zero_()  # type: ignore[index]
        well_conditioned[2].bias.zero_()  # type: ignore[index]
    dpnn_bridge.write_t7(cancelling, well_conditioned, force=True)
    assert verify(cancelling, reference=reference(x, rounded)).forward is Verdict.DIFFERENT


# ---------------------------------------------------------------------- random numbers
def without_noise() -> LuaTable:
    """A fixture that does not tell what its dropout drew."""
    table = fixture(DROPOUT)
    for layer in table["after"]["modules"].as_list():
        if layer.class_name == "nn.Dropout":
            layer["noise"] = LuaTensor.empty("torch.DoubleTensor")
    return table


def test_indices_among_numbers_are_not_moved(tmp_path: Path) -> None:
    """A sparse input holds pairs of index and value: another index would excuse everything."""
    changed = fixture("SparseLinear__batch_table__float_train")
    path = tmp_path / "f.t7"
    for offset, verdict in ((0.0, Verdict.EQUAL), (0.01, Verdict.DIFFERENT)):
        there = to_value(changed["output"]) + offset
        dpnn_bridge.write_t7(path, LuaTable({**dict(changed.items()), "output": lua_value(there)}), force=True)
        assert next(d for d in verify(path).differences if d.name == "output").verdict is verdict


def test_unknown_random_numbers_are_named(tmp_path: Path) -> None:
    table = without_noise()
    del table["seed"]
    dpnn_bridge.write_t7(tmp_path / "model.t7", table)
    result = verify(tmp_path / "model.t7")
    assert (result.forward, result.gradients) == (Verdict.RANDOM, Verdict.RANDOM)
    reasons = {d.reason for d in result.differences if d.verdict is Verdict.RANDOM}
    assert all("(Dropout)" in r and "random numbers" in r and "torch.manualSeed" in r for r in reasons), reasons
    (dropout,) = (layer for layer in result.layers if layer.class_name == "nn.Dropout")
    assert dropout.verdict is Verdict.RANDOM
    others = [layer for layer in result.layers[1:] if layer is not dropout]
    assert all(layer.verdict in (Verdict.EQUAL, None) for layer in others), "the layers around it are compared"


def test_random_numbers_hide_no_difference(tmp_path: Path) -> None:
    table = without_noise()
    linear = [m for m in table["module"]["modules"].as_list() if m.class_name == "nn.Linear"][-1]
    bias = linear["bias"].torch().clone()
    bias[0] += 1e-3
    linear["bias"] = lua_value(bias)
    dpnn_bridge.write_t7(tmp_path / "model.t7", table)
    result = verify(tmp_path / "model.t7")
    assert result.forward is Verdict.DIFFERENT
    failing = [layer.class_name for layer in result.layers if layer.path and not layer.ok]
    assert failing == ["nn.Linear"]


def test_a_wrong_layer_beside_random_ones_is_different(tmp_path: Path) -> None:
    """What does not change with the random numbers, they do not explain."""
    torch.manual_seed(0)
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.Linear(4, 3))))
    object = dpnn_bridge.to_lua(model)
    beside = LuaObject("nn.ConcatTable", LuaTable({"modules": LuaTable.from_list([drop(), object]), "train": True}))
    dpnn_bridge.write_t7(tmp_path / "model.t7", beside)
    x = torch.randn(5, 4)
    right, wrong = model(x).detach(), model(x).detach() + 0.01
    for y, verdict in ((right, Verdict.RANDOM), (wrong, Verdict.DIFFERENT)):
        table = LuaTable([("mode", "train"), ("input", lua_value(x)), ("output", lua_value([torch.zeros(5, 4), y]))])
        result = verify(tmp_path / "model.t7", reference=table)
        assert (result.verdict, result.ok) == (verdict, verdict is Verdict.RANDOM)
        assert {d.name: d.verdict for d in result.whole}["output[1]"] is Verdict.RANDOM


def drop() -> LuaObject:
    return LuaObject(
        "nn.Dropout", LuaTable({"p": 0.5, "train": True, "v2": True, "noise": LuaTensor.empty("torch.FloatTensor")})
    )


# ---------------------------------------------------------------------- known faults
def test_a_fault_of_torch7_is_named_without_any_list() -> None:
    (entry,) = manifest(name=EVALUATED_LSTM)
    result = verify(FIXTURES / entry["file"])
    assert (result.forward, result.gradients) == (Verdict.EQUAL, Verdict.KNOWN)
    assert any("every step overwrites" in d.reason for d in result.differences)


def test_the_gradient_of_an_evaluated_balance_is_a_fault_of_torch7(tmp_path: Path) -> None:
    table = fixture("Balance__eval__double_eval")
    table["gradOutput"], table["gradInput"] = table["output"], LuaTensor.from_numpy(np.full((4, 3), np.inf))
    dpnn_bridge.write_t7(tmp_path / "model.t7", table)
    result = verify(tmp_path / "model.t7")
    assert (result.forward, result.gradients) == (Verdict.EQUAL, Verdict.KNOWN)


def test_the_gradient_of_an_evaluated_crop_is_a_fault_of_torch7(tmp_path: Path) -> None:
    crop = LuaObject("nn.SpatialUniformCrop", LuaTable([("oheight", 2), ("owidth", 2), ("train", False)]))
    x, gradient = torch.randn(1, 1, 5, 5, dtype=torch.float64), torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    gradient[..., :2, :2] = 1  # a training pass used this window
    values = {
        "input": x,
        "output": x[..., 1:3, 1:3],
        "gradOutput": torch.ones(1, 1, 2, 2).double(),
        "gradInput": gradient,
    }
    dpnn_bridge.write_t7(tmp_path / "ref.t7", {"module": crop, "mode": "eval", **values})
    result = verify(tmp_path / "ref.t7")
    assert (result.forward, result.gradients) == (Verdict.EQUAL, Verdict.KNOWN)


@pytest.mark.parametrize("cleared", [True, False])
def test_a_cleared_tree_returns_no_gradient_of_its_input_in_torch7(cleared: bool, tmp_path: Path) -> None:
    tree = dpnn_bridge.to_lua(SoftMaxTree.from_hierarchy(4, {1: [2, 3], 2: [4, 5]}, root=1).double())
    inputs = [torch.randn(3, 4).double(), torch.tensor([3, 4, 5], dtype=torch.int32)]
    output = dpnn_bridge.to_torch(tree)(inputs).detach()
    values = {"input": lua_value(inputs), "output": output, "gradOutput": torch.ones(3).double()}
    if cleared:
        tree["gradInput"] = LuaTable()
    dpnn_bridge.write_t7(tmp_path / "ref.t7", {"module": tree, "gradInput": LuaTable(), **values})
    result = verify(tmp_path / "ref.t7")
    assert (result.forward, result.gradients) == (Verdict.EQUAL, Verdict.KNOWN if cleared else Verdict.DIFFERENT)


def test_a_fault_of_repeated_calls_needs_a_layer_that_repeats() -> None:
    from dpnn_bridge.modules.nn.container import MapTable
    from dpnn_bridge.modules.rnn.recurrence import Recursor

    for name in ("nn.LinearWeightNorm", "nn.WeightNorm"):
        entry = manifest(kind="module", **{"class": name})[0]
        norm = dpnn_bridge.to_torch(dpnn_bridge.read_t7(FIXTURES / entry["file"])["module"])
        assert [len(Faults(m).faulty_modules) for m in (nn.Sequential(norm), MapTable(norm), Recursor(norm))] == [
            0,
            1,
            1,
        ]


def test_clones_are_not_counted_as_layers() -> None:
    result = verify(FIXTURES / manifest(kind="module", **{"class": "nn.MapTable"})[0]["file"])
    assert result.forward is Verdict.EQUAL
    assert not any("have no results" in note for note in result.notes)


def test_a_fault_excuses_only_what_it_spoils(tmp_path: Path) -> None:
    table = fixture(EVALUATED_LSTM)
    table["output"][1].torch()[0, 0] += 1e-3
    dpnn_bridge.write_t7(tmp_path / "model.t7", table)
    result = verify(tmp_path / "model.t7")
    assert (result.forward, result.gradients) == (Verdict.DIFFERENT, Verdict.KNOWN)


def test_layers_behind_a_fault_are_judged_for_themselves() -> None:
    from dpnn_bridge.modules.rnn.recurrence import Recursor
    from dpnn_bridge.modules.rnn.sequencer import Sequencer
    from dpnn_bridge.parity.layers import ordered

    sequence = dpnn_bridge.to_torch(fixture(EVALUATED_LSTM)["module"])
    assert isinstance(sequence, Sequencer)
    size = next(sequence.parameters()).shape[-1]
    model = nn.Sequential(Sequencer(Recursor(nn.Linear(size, size))), nn.Identity()).double().eval()
    with ordered(model) as order:
        model([torch.randn(2, size, dtype=torch.float64)])
    (before, behind) = (compare("gradInput", torch.ones(1), torch.zeros(1))[0] for _ in range(2))
    faults = Faults(model)
    faults.accept(before, model[0], "gradInput", order)
    faults.accept(behind, model[1], "gradInput", order)
    assert (before.verdict, behind.verdict) == (Verdict.KNOWN, Verdict.DIFFERENT)


# ---------------------------------------------------------------------- nothing to compare with
def test_without_a_reference_the_evidence_is_shown() -> None:
    command = [str(SAMPLES / "torch-demos__mnist_convnet" / "model.t7")]
    result = CliRunner().invoke(verify_command, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "not compared" in result.stdout.lower()
    assert "fixtures of Torch7" in result.stdout
    result = CliRunner().invoke(verify_command, [*command, "--input", "2x1x32x32", "--json"])
    data = json.loads(result.stdout)
    assert (data["verdict"], data["forward"], data["gradients"]) == (None, None, None)
    assert any("its output has the shape (2, 10)" in note for note in data["notes"])
    assert all(c["evidence"] for c in data["classes"])


def test_json_carries_verdicts_and_metrics() -> None:
    folder = SAMPLES / "torch-demos__mnist_convnet"
    command = [str(folder / "model.t7"), "--reference", str(folder / "ref.t7"), "--json"]
    data = json.loads(CliRunner().invoke(verify_command, command).stdout)
    assert (data["verdict"], data["forward"], data["gradients"]) == ("equal", "equal", "equal")
    compared = [d for layer in data["layers"] for d in layer["differences"]]
    assert all(d["verdict"] == "equal" and d["cosine"] > 0.999 for d in compared)
    assert all(d["snr"] == "inf" or d["snr"] > 80 for d in compared)


def test_tolerances_are_those_given(cancelling: Path) -> None:
    x = torch.randn(6, 4)
    result = verify(cancelling, reference=reference(x, x), tolerance=Tolerance(1.0, 1.0))
    assert result.forward is Verdict.EQUAL


def test_a_changed_weight_of_a_published_net_is_different_though_single_precision_hides_it(tmp_path: Path) -> None:
    """char-rnn's OneHot follows the model into double precision, in which the run is repeated."""
    folder = SAMPLES / "char-rnn__lstm"
    model = dpnn_bridge.load(folder / "model.t7")
    with torch.no_grad():
        weight = max(model.parameters(), key=lambda p: p.numel())
        weight.view(-1)[weight.numel() // 2] += 0.05
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    result = verify(tmp_path / "model.t7", reference=folder / "ref.t7")
    assert result.verdict is Verdict.DIFFERENT
    assert verify(folder / "model.t7", reference=folder / "ref.t7", dtype=torch.float64).verdict is Verdict.EQUAL


class CountedPath(str):
    """A path that counts its comparisons with others."""

    compared = 0

    def startswith(self, *args: Any) -> bool:
        CountedPath.compared += 1
        return super().startswith(*args)


def test_the_first_layer_whose_gradient_deviates_is_found_without_comparing_all_paths() -> None:
    failed = Difference("gradInput", 1.0, 1e-10, message="differs")
    paths = ["", *(f"modules[{i}]{inner}" for i in range(1, 30) for inner in ("", ".modules[1]"))]
    layers = [layer(CountedPath(path), failed) for path in paths]
    for order, found in enumerate(layers):
        found.order = order
    CountedPath.compared = 0
    result = Verification("m.t7", "r.t7", "", "", "", "eval", "cpu", "", layers)
    assert result.first_deviating is layers[-1]
    assert CountedPath.compared == 0
