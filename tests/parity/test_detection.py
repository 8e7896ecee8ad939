"""One weight of a published net is changed by 1e-3: it is found, or the verdict says that this reference loses it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.gradients import compare_grad_input
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify

NETS = [
    "char-rnn__lstm",
    "im2recipe__cudnn_LSTM",
    "deepmask__symmetric_padding_small",
    "imagenet-multiGPU__features_DPT_small",
    "torch-demos__mnist_convnet",
]


def change(model: nn.Module, seed: int) -> str:
    """Changes one weight at a random place, by 1e-3 or by a thousandth of it; returns its name."""
    choice = random.Random(seed)
    names = dict(model.named_parameters())
    name = choice.choice(list(names))
    flat = names[name].data.view(-1)
    i = choice.randrange(flat.numel())
    flat[i] = flat[i] * 1.001 if seed % 2 else flat[i] + 1e-3
    return name


def effect(path: Path, other: Path, value: object) -> float:
    """How far the outputs of two models are apart in double precision, relative to the largest."""
    results = []
    for file in (path, other):
        model = dpnn_bridge.load(file).double().eval()
        with torch.no_grad():
            results.append(list(nested.leaves(model(nested.cast(value, torch.float64)))))
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))


def unseen(result: Verification) -> float:
    """What the result says that its reference cannot tell."""
    (said,) = (n for n in result.notes if "results of the complete model" in n)
    (number,) = re.findall(r"less than (\S+) of its largest", said)
    return float(number)


@pytest.mark.parametrize("name", NETS)
def test_a_changed_weight_is_found_or_said_to_be_lost_in_rounding(name: str, tmp_path: Path) -> None:
    folder = SAMPLES / name
    value = to_value(dpnn_bridge.read_t7(folder / "ref.t7")["input"])
    found = 0
    for seed in range(4):
        model = dpnn_bridge.load(folder / "model.t7")
        place = change(model, seed)
        dpnn_bridge.write_t7(tmp_path / "model.t7", model, force=True)
        result = verify(tmp_path / "model.t7", reference=folder / "ref.t7", gradients=False)
        found += result.verdict is Verdict.DIFFERENT
        if result.verdict is not Verdict.DIFFERENT:
            moved = effect(folder / "model.t7", tmp_path / "model.t7", value)
            assert moved <= 1.3 * unseen(result), place  # both are rounded to a digit or two
    assert found, "all four were lost"


def test_a_reference_with_layers_names_a_weight_that_no_output_depends_on(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net.get_submodule("0").get_parameter("bias").fill_(-50)  # no unit is ever on
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(net))
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    x = torch.randn(4, 3)
    table = LuaTable([("mode", "eval"), ("input", lua_value(x)), ("output", lua_value(net(x).detach()))])
    after = dpnn_bridge.read_t7(tmp_path / "model.t7")
    with torch.no_grad():
        model[2].weight[1, 2] += 1e-3  # type: ignore[index]
    dpnn_bridge.write_t7(tmp_path / "changed.t7", model)
    assert verify(tmp_path / "changed.t7", reference=table).verdict is Verdict.EQUAL
    table["after"] = after
    assert verify(tmp_path / "model.t7", reference=table).verdict is Verdict.EQUAL
    result = verify(tmp_path / "changed.t7", reference=table)
    assert result.verdict is Verdict.DIFFERENT
    assert [(layer.path, d.name) for layer in result.layers for d in layer.compared if not d.ok] == [
        ("modules[3]", "modules[3].weight")
    ]


@pytest.mark.parametrize(("kind", "verdict"), [("torch.FloatTensor", "different"), ("torch.CudaTensor", "equal")])
def test_a_gpu_adds_up_less_exactly(kind: str, verdict: str, tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.Linear(64, 8), nn.Tanh())))
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    x = torch.randn(4, 64)
    output = lua_value(model(x).detach() * (1 + 5e-6))
    output.class_name = kind
    reference = LuaTable([("mode", "eval"), ("input", lua_value(x)), ("output", output)])
    assert verify(tmp_path / "model.t7", reference=reference).verdict == verdict
    assert verify(tmp_path / "model.t7", reference=reference, dtype=torch.float64).verdict == verdict


def test_small_outputs_are_compared_as_large_ones_are(tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(5, 3)))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-30)
    x = torch.randn(4, 5)
    table = LuaTable([("mode", "eval"), ("input", lua_value(x)), ("output", lua_value(model(x).detach()))])
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    assert verify(tmp_path / "model.t7", reference=table).verdict is Verdict.EQUAL
    table["output"] = lua_value(model(x).detach() * 1.001)
    assert verify(tmp_path / "model.t7", reference=table).verdict is Verdict.DIFFERENT


def test_references_of_another_precision(tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(5, 3)))
    x = torch.randn(4, 5)
    y = model(x).detach()
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    for given, output in ((x.double(), y), (x, y.half()), (x, y.double())):
        table = LuaTable([("mode", "eval"), ("input", lua_value(given)), ("output", lua_value(output))])
        assert verify(tmp_path / "model.t7", reference=table).verdict is Verdict.EQUAL


def test_a_list_of_gradients_that_is_too_short_differs(tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.Linear(5, 3), nn.Tanh())))
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    x = torch.randn(4, 5)
    y = model(x).detach()
    table = LuaTable(
        [("mode", "eval"), ("input", lua_value(x)), ("output", lua_value(y)), ("gradOutput", lua_value(y))]
    )
    table["gradParams"] = LuaTable.from_list([lua_value(torch.zeros(3, 5))])
    table["after"] = dpnn_bridge.read_t7(tmp_path / "model.t7")
    assert verify(tmp_path / "model.t7", reference=table).gradients is Verdict.DIFFERENT


def test_gradients_of_a_table_of_inputs_are_compared_by_key() -> None:
    inputs = {name: torch.zeros(2, dtype=torch.float64, requires_grad=True) for name in ("a", "b")}
    (inputs["a"] * 2 + inputs["b"] * 3).sum().backward()
    expected = {"a": torch.full((2,), 2.0, dtype=torch.float64), "b": torch.ones(2, dtype=torch.float64)}
    found = compare_grad_input("gradInput", inputs, expected, Tolerance())
    assert [(d.name, d.ok) for d in found] == [("gradInput.a", True), ("gradInput.b", False)]
    assert compare_grad_input("gradInput", 3, None, Tolerance()) == []
