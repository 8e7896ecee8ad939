"""Training goes on in PyTorch as it would have in Torch7, and parameters pass as one flat vector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import nn

import dpnn_bridge
from dpnn_bridge import optim, parity, read_t7, to_lua, to_torch, training
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.fixture import floating_buffers
from dpnn_bridge.training.flat_vector import FlatField, flatten, get_parameters

RUNS = manifest(kind="training", set="nn")


def check(name: str, actual: Any, expected: Any, tolerance: parity.Tolerance | None = None) -> None:
    assert [f"{d.name}: {d.message}" for d in parity.compare(name, actual, expected, tolerance) if not d.ok] == []


def train(net: nn.Module, optimizer: torch.optim.Optimizer, fixture: LuaTable, step: int) -> float:
    device = next(net.parameters()).device
    criterion = to_torch(fixture["criterion"]).to(device)
    x, target = (to_value(fixture[name][step], device=device) for name in ("inputs", "targets"))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = criterion(net(x), target)
        loss.backward()
        return loss

    with parity.full_precision():
        return float(optimizer.step(closure).detach())  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("entry", RUNS, ids=fixture_id)
def test_a_run_from_the_start_equals_torch7s(entry: dict[str, Any], device: str, tolerance: parity.Tolerance) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    net = to_torch(fixture["module"]).train().to(device)
    check("start", training.flatten(net), to_value(fixture["flat0"]), tolerance)
    optimizer = optim.from_lua(fixture["method"], fixture["config"], net)
    for step in range(1, len(fixture["losses"]) + 1):
        check("loss", train(net, optimizer, fixture, step), fixture["losses"][step], tolerance)
        check("parameters", training.flatten(net), to_value(fixture["flat"][step]), tolerance)
    after = to_torch(fixture["after"])
    check("after", dict(floating_buffers(net)), dict(floating_buffers(after)), tolerance)
    state, written = fixture["state"], optim.to_lua(optimizer, net)
    for name in ("dfdx", "m", "v", "evalCounter", "t", "learningRate", "momentum"):
        if name in state:
            check(name, to_value(written[name]), to_value(state[name]), tolerance)


@pytest.mark.parametrize("entry", RUNS, ids=fixture_id)
def test_a_run_goes_on_through_lua_between_any_two_steps(
    entry: dict[str, Any], device: str, tolerance: parity.Tolerance, tmp_path: Any
) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    net, config = to_torch(fixture["module"]).train().to(device), fixture["config"]
    for step in range(1, len(fixture["losses"]) + 1):
        optimizer = optim.from_lua(fixture["method"], config, net)
        train(net, optimizer, fixture, step)
        table = LuaTable({"model": to_lua(net), "optimState": optim.to_lua(optimizer, net)})
        dpnn_bridge.write_t7(tmp_path / f"{step}.t7", table)
        loaded = read_t7(tmp_path / f"{step}.t7")
        net, config = to_torch(loaded["model"]).to(device), loaded["optimState"]
        check("parameters", training.flatten(net), to_value(fixture["flat"][step]), tolerance)


@pytest.mark.parametrize("entry", RUNS, ids=fixture_id)
def test_a_flat_vector_fills_a_module(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    net, reached = to_torch(fixture["module"]), to_torch(fixture["after"])
    dpnn_bridge.load_flat(net, fixture["flat"][len(fixture["flat"])])
    check("parameters", training.parameters(net)[0], training.parameters(reached)[0])


def linear(weight: torch.Tensor, bias: torch.Tensor) -> LuaObject:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return to_lua(layer)


def sequential(*layers: LuaObject) -> LuaObject:
    return LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list(layers)}))


def test_a_shared_weight_occurs_once() -> None:
    first, second = linear(torch.arange(4.0).view(2, 2), torch.ones(2)), linear(torch.zeros(2, 2), torch.zeros(2))
    second["weight"] = first["weight"]
    net = to_torch(sequential(first, second))
    assert training.flatten(net).tolist() == [0, 1, 2, 3, 1, 1, 0, 0]
    dpnn_bridge.load_flat(net, torch.arange(8.0))
    assert net.get_parameter("0.weight") is net.get_parameter("1.weight")
    assert net.get_parameter("1.weight").tolist() == [[0, 1], [2, 3]]
    assert net.get_parameter("1.bias").tolist() == [6, 7]


def test_a_transposed_weight_occurs_once() -> None:
    first, second = linear(torch.arange(6.0).view(2, 3), torch.ones(2)), linear(torch.zeros(3, 2), torch.zeros(3))
    weight = first["weight"]
    second["weight"] = type(weight)(weight.class_name, (3, 2), (1, 3), 0, weight.storage)
    net = to_torch(sequential(first, second))
    assert training.flatten(net).tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 0, 0, 0]
    dpnn_bridge.load_flat(net, torch.arange(11.0))
    out = net(torch.tensor([[1.0, 0.0, 0.0]]))
    hidden = torch.tensor([0.0 + 6, 3.0 + 7])
    expected = torch.arange(6.0).view(2, 3).t() @ hidden + torch.tensor([8.0, 9.0, 10.0])
    torch.testing.assert_close(out, expected[None])


def test_gradients_flatten_like_parameters() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    net[0].weight.grad = torch.tensor([[1.0, 2.0]])
    assert training.flatten(net, gradients=True).tolist() == [1, 2, 0, 0, 0]


def test_layouts_are_obeyed() -> None:
    net = to_torch(read_t7(FIXTURES / TRANSPOSED["file"])["module"])
    before = [p.clone() for p in training.parameters(net)[0]]
    flat = training.flatten(net)
    torch.testing.assert_close(flat, torch.cat([p.reshape(-1) for p in before]), rtol=0, atol=0)
    dpnn_bridge.load_flat(net, flat + 1)
    for p, q in zip(training.parameters(net)[0], before, strict=True):
        torch.testing.assert_close(p, q + 1, rtol=0, atol=0)


#: a layer whose weight stands in another order in torch
TRANSPOSED = next(e for e in manifest(kind="module") if e["class"] == "nn.TemporalConvolution")


def test_a_vector_of_another_model_is_refused() -> None:
    with pytest.raises(ConversionError, match="the flat vector has 4 elements, the parameters have 3"):
        dpnn_bridge.load_flat(nn.Linear(2, 1), torch.zeros(4))


def test_a_layer_without_elements_is_in_the_vector() -> None:
    net = nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 2))
    values = flatten(net)
    params, grads = get_parameters(net)
    assert torch.equal(params, values)
    params.zero_()
    assert not any(p.any() for p in net.parameters())
    assert len(grads) == len(values)


def test_a_module_whose_parameters_are_no_view_of_one_vector_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    view, places = FlatField.view, [p.data_ptr() for p in net.parameters()]

    def refusing(field: FlatField, vector: torch.Tensor) -> torch.Tensor:
        if field.parameter is net[1].weight:
            raise ConversionError("no view")
        return view(field, vector)

    monkeypatch.setattr(FlatField, "view", refusing)
    with pytest.raises(ConversionError, match="no view"):
        get_parameters(net)
    assert [p.data_ptr() for p in net.parameters()] == places
    assert all(p.grad is None for p in net.parameters())
