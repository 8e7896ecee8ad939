"""Modules that dpnn's functions treat in ways of their own: MapTable, WeightNorm, and those hidden in other fields."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES

import dpnn_bridge
from dpnn_bridge import optim, read_t7, training
from dpnn_bridge.compare.nested import backward
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.optim import MomentumSGD
from dpnn_bridge.parity import compare

FOLDER = FIXTURES / "dpnn" / "head" / "hidden"
METHODS: dict[str, Any] = {
    "updateParameters": training.update_parameters,
    "updateGradParameters": training.update_grad_parameters,
    "weightDecay": training.weight_decay,
    "maxParamNorm": training.max_param_norm,
    "gradParamClip": training.grad_param_clip,
}


def cases(name: str) -> list[Any]:
    return [pytest.param(c, id=c["name"]) for c in read_t7(FOLDER / f"{name}.t7")["cases"].as_list()]


def check(name: str, actual: Any, expected: Any) -> None:
    assert [f"{d.name}: {d.message}" for d in compare(name, actual, expected) if not d.ok] == []


@pytest.mark.parametrize("case", cases("hidden_flat"))
@pytest.mark.parametrize("package", ["nn", "dpnn"])
def test_flat_vectors_are_those_of_both_packages(case: Any, package: Any) -> None:
    module = dpnn_bridge.to_torch(case["module"])
    vector = case[package].torch()
    check("flat", training.flatten(module, package=package), vector)
    for p in module.parameters():
        torch.nn.init.zeros_(p)
    dpnn_bridge.load_flat(module, vector)
    check("loaded", training.flatten(module, package=package), vector)


@pytest.mark.parametrize("case", cases("hidden_steps"))
def test_steps_are_torch7s(case: Any) -> None:
    module = dpnn_bridge.to_torch(case["module"])
    for step, expected in case["params"].items():
        training.zero_grad_parameters(module)
        backward(module(to_value(case["input"])), to_value(case["gradOutput"]))
        for call in case["calls"].as_list():
            name, *arguments = call.as_list()
            result = METHODS[name](module, *arguments)
            if name == "gradParamClip":
                check("norm", torch.tensor(result), case["norms"][step])
        check(f"params {step}", training.parameters(module)[0], to_value(expected))


def test_momentum_of_a_weight_norm_is_that_of_its_bias() -> None:
    (case,) = (c.values[0] for c in cases("hidden_steps") if c.id == "norm momentum")
    module = dpnn_bridge.to_torch(case["module"])
    optimizer = MomentumSGD(module, lr=0.1, momentum=0.9, dampening=0, max_out_norm=1e6, weight_decay=0)
    for step, expected in case["params"].items():
        optimizer.zero_grad()
        backward(module(to_value(case["input"])), to_value(case["gradOutput"]))
        optimizer.step()
        check(f"params {step}", training.parameters(module)[0], to_value(expected))


@pytest.mark.parametrize("has_buffers", [False, True])
def test_momentum_inside_a_weight_norm_is_exported(has_buffers: bool) -> None:
    (case,) = (c.values[0] for c in cases("hidden_steps") if c.id == "norm momentum")
    given = case["module"]
    module = dpnn_bridge.to_torch(given)
    for _ in range(2 if has_buffers else 1):
        training.zero_grad_parameters(module)
        backward(module(to_value(case["input"])), to_value(case["gradOutput"]))
        training.update_grad_parameters(module, 0.9)
        module = dpnn_bridge.to_torch(dpnn_bridge.to_lua(module))
    layer = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    norm = dpnn_bridge.to_lua(module)["modules"][1]
    weight, bias = (t.torch() for t in norm["modules"][1]["momGradParams"].as_list())
    assert weight.shape == layer.weight.shape
    assert torch.equal(bias, training.momentum_grad_parameters(layer)[0])
    assert bias.any()


def test_gradients_of_the_hidden_weight_are_those_of_its_direction() -> None:
    module = dpnn_bridge.to_torch(read_t7(FOLDER / "hidden_flat.t7")["cases"][1]["module"])
    module(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    flat = training.flatten(module, gradients=True, package="dpnn")
    assert flat[:12].any()
    assert torch.equal(flat[:12], flat[20:])


@pytest.mark.parametrize("package", ["nn", "dpnn"])
def test_parameters_of_a_weight_norm_move_into_one_vector(package: Any) -> None:
    module = dpnn_bridge.to_torch(read_t7(FOLDER / "hidden_flat.t7")["cases"][1]["module"])
    input = torch.ones(2, 3, dtype=torch.float64)
    expected, of_nn = training.flatten(module, package=package), training.flatten(module)
    before = module(input)
    params, grads = training.get_parameters(module, package=package)
    assert torch.equal(params, expected)
    assert torch.equal(module(input), before)
    before.sum().backward()
    assert torch.equal(grads, training.flatten(module, gradients=True, package=package)) or package == "dpnn"
    params.mul_(2)
    assert torch.equal(training.flatten(module), 2 * of_nn)


def stepped(module: Any, method: str, momenta: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Parameters after one step from a state with a flat vector, and the optimizer."""
    vector = LuaTensor.from_numpy(momenta.numpy(), "torch.DoubleTensor")
    state = {"sgd": {"learningRate": 0.1, "momentum": 0.9, "dfdx": vector}, "lbfgs": {"d": vector, "nIter": 1}}[method]
    optimizer = optim.from_lua(method, LuaTable(state), module)
    module(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    return training.flatten(module), optimizer


def test_optimizer_state_of_dpnns_vector_continues() -> None:
    obj = read_t7(FOLDER / "hidden_flat.t7")["cases"][1]["module"]
    momenta = torch.linspace(1, 2, 32, dtype=torch.float64)
    expected, _ = stepped(dpnn_bridge.to_torch(obj), "sgd", momenta[:20])
    module = dpnn_bridge.to_torch(obj)
    actual, optimizer = stepped(module, "sgd", momenta)
    assert torch.equal(actual, expected)
    written = optim.to_lua(optimizer, module, package="dpnn")["dfdx"].torch()
    assert torch.equal(written[:20], optim.to_lua(optimizer, module)["dfdx"].torch())
    assert torch.equal(written[20:], torch.zeros(12, dtype=torch.float64))


def test_lbfgs_state_of_dpnns_vector_is_refused() -> None:
    module = dpnn_bridge.to_torch(read_t7(FOLDER / "hidden_flat.t7")["cases"][1]["module"])
    with pytest.raises(ConversionError, match=r"d is a vector of dpnn's .* 12 additional elements affect the step"):
        stepped(module, "lbfgs", torch.ones(32, dtype=torch.float64))


def test_a_state_of_lbfgs_is_not_written_for_dpnns_vector() -> None:
    module = dpnn_bridge.to_torch(read_t7(FOLDER / "hidden_flat.t7")["cases"][1]["module"])
    optimizer = optim.from_lua("lbfgs", LuaTable({"maxIter": 2}), module)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(2, 3, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    optimizer.step(loss)  # type: ignore[call-overload, arg-type]
    with pytest.raises(ConversionError, match='package="nn"'):
        optim.to_lua(optimizer, module, package="dpnn")
    assert optim.from_lua("lbfgs", optim.to_lua(optimizer, module), module).state


def test_a_weight_norm_that_occurs_twice_is_flattened_once() -> None:
    obj = read_t7(FOLDER / "hidden_flat.t7")["cases"][1]["module"]
    twice = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([obj, obj])}))
    flat = training.flatten(dpnn_bridge.to_torch(obj), package="dpnn")
    assert torch.equal(training.flatten(dpnn_bridge.to_torch(twice), package="dpnn"), flat)
