"""dpnn's Module interface: each method does to parameters, gradients and momentum what it did in Torch7."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import Tensor, nn

from dpnn_bridge import optim, read_t7, to_lua, to_torch, training, write_t7
from dpnn_bridge.compare.nested import backward
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.registry import known_names
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.modules.dpnn.criterion import ModuleCriterion
from dpnn_bridge.modules.dpnn.reward import VRClassReward
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity import compare
from dpnn_bridge.torch7.draws import torch7_random
from dpnn_bridge.training import lua_parameters

METHODS: dict[str, Callable[..., Any]] = {
    "updateParameters": training.update_parameters,
    "updateGradParameters": training.update_grad_parameters,
    "momentumGradParameters": training.momentum_grad_parameters,
    "weightDecay": training.weight_decay,
    "maxParamNorm": training.max_param_norm,
    "gradParamClip": training.grad_param_clip,
}


def fixtures(*methods: str) -> list[dict[str, Any]]:
    entries = manifest(kind="method")
    return [e for e in entries if e["name"].split("method.")[-1].startswith(methods)]


def check(name: str, actual: Any, expected: Any) -> None:
    assert [f"{d.name}: {d.message}" for d in compare(name, actual, expected) if not d.ok] == []


def listed(module: nn.Module) -> Iterator[nn.Module]:
    """As Torch7's ``listModules()``: depth first, a repeated module repeatedly."""
    yield module
    for child in lua_parameters.children(module):
        yield from listed(child)


def put(module: nn.Module, state: LuaTable) -> None:
    """Sets parameters, gradients and momentum."""
    for entry, value, gradient in zip(
        lua_parameters.all_parameters(module),
        to_value(state["params"]),
        to_value(state["gradParams"]),
        strict=True,
    ):
        entry.write(value)
        entry.write_gradient(gradient)
    momenta = state["momGradParams"]
    for i, child in enumerate(listed(module), 1):
        child.__dict__.pop("momentum_buffers", None)
        if i in momenta:
            child.__dict__["momentum_buffers"] = to_value(momenta[i])


def same(module: nn.Module, state: LuaTable) -> None:
    """Compares parameters, gradients and momentum."""
    params, grads = training.parameters(module)
    check("params", params, to_value(state["params"]))
    check("gradParams", grads, to_value(state["gradParams"]))
    for i, child in enumerate(listed(module), 1):
        if i in state["momGradParams"]:
            check(f"momentum[{i}]", child.__dict__["momentum_buffers"], to_value(state["momGradParams"][i]))


def reloaded(fixture: LuaTable) -> nn.Module:
    """The module with the fields that the run gave it, without momentum."""
    module = to_torch(fixture["after"])
    for child in module.modules():
        child.lua_record.fields.pop("momGradParams", None)  # type: ignore[union-attr, operator]
    return module


STEPS = fixtures("momentum", "weightDecay", "maxParamNorm", "gradParamClip", "recipe")


@pytest.mark.parametrize("entry", STEPS, ids=fixture_id)
def test_each_step_equals_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = reloaded(fixture)
    for step in fixture["steps"].as_list():
        put(module, step["before"])
        arguments = [step["args"].get(i) for i in range(1, max([0, *step["args"]]) + 1)]
        result = METHODS[step["call"]](module, *arguments)
        same(module, step["after"])
        if step["call"] in ("gradParamClip", "momentumGradParameters"):
            expected = to_value(step.get("returned"))
            check("returned", result, [] if expected is None and result == [] else expected)


@pytest.mark.parametrize("entry", fixtures("recipe", "momentum_nesterov", "weightDecay_default"), ids=fixture_id)
def test_a_run_of_steps_keeps_its_own_momentum(entry: dict[str, Any]) -> None:
    """Only gradients come from the fixture, where it computed them anew; everything else is carried on."""
    fixture = read_t7(FIXTURES / entry["file"])
    module = reloaded(fixture)
    put(module, fixture["steps"][1]["before"])
    previous: LuaTable | None = None
    for step in fixture["steps"].as_list():
        if previous is None or _gradients_differ(previous, step["before"]):
            for entry_, gradient in zip(
                lua_parameters.all_parameters(module),
                to_value(step["before"]["gradParams"]),
                strict=True,
            ):
                entry_.write_gradient(gradient)
        METHODS[step["call"]](module, *[step["args"].get(i) for i in range(1, max([0, *step["args"]]) + 1)])
        same(module, step["after"])
        previous = step["after"]


def _gradients_differ(a: LuaTable, b: LuaTable) -> bool:
    pairs = zip(to_value(a["gradParams"]), to_value(b["gradParams"]), strict=True)
    return not all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("entry", fixtures("momentum_nesterov"), ids=fixture_id)
def test_momentum_goes_to_lua_and_back(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = reloaded(fixture)
    first, *_, last = [s for s in fixture["steps"].as_list() if s["call"] == "updateGradParameters"]
    put(module, first["before"])
    training.update_grad_parameters(module, *[first["args"].get(i) for i in (1, 2, 3)])
    again = to_torch(to_lua(module))
    for a, b in zip(listed(module), listed(again), strict=True):
        if "momentum_buffers" in a.__dict__:
            check("momentum", training.momentum_grad_parameters(b), a.__dict__["momentum_buffers"])
    assert last["after"]["momGradParams"]


@pytest.mark.parametrize("entry", fixtures("softmaxtree_momentum"), ids=fixture_id)
def test_a_tree_moves_only_the_nodes_that_were_visited(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    momenta = [to_value(s["after"]["momGradParams"][1]) for s in fixture["steps"].as_list()[::2]]
    previous: list[Tensor] = [torch.zeros_like(m) for m in momenta[0]]
    for momentum in momenta:
        for e, v, before in zip(lua_parameters.own_parameters(module), momentum, previous, strict=True):
            same_rows = (v == before).reshape(len(v), -1).all(1, keepdim=True).reshape(-1, *[1] * (v.dim() - 1))
            e.write_gradient(torch.where(same_rows, torch.zeros_like(v), v - 0.9 * before))
        training.update_grad_parameters(module, 0.9, 0)
        training.update_parameters(module, 0.1)
        check("momentum", training.momentum_grad_parameters(module), momentum)
        previous = momentum
    check("weight", module.weight, to_value(fixture["weight"]))
    check("bias", module.bias, to_value(fixture["bias"]))


# ---------------------------------------------------------------------- copies
@pytest.mark.parametrize("entry", fixtures("sharedClone"), ids=fixture_id)
def test_a_shared_clone_shares_what_torch7s_shares(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    if not len(fixture["steps"]):  # the file shows the sharing itself
        pair = fixture["pair"]
        assert pair["original"]["modules"][1]["weight"].storage is pair["clone"]["modules"][1]["weight"].storage
        clone = training.shared_clone(module)
        assert [id(p) for p in clone.parameters()] == [id(p) for p in module.parameters()]
        return
    params, grads = (fixture["args"].get(i) != "false" for i in (1, 2))
    (step,) = fixture["steps"].as_list()
    put(module, step["before"])
    clone = training.shared_clone(module, params, grads)
    training.zero_grad_parameters(clone)
    for e, gradient in zip(lua_parameters.all_parameters(clone), to_value(fixture["cloneGradParams"]), strict=True):
        e.write_gradient(gradient)
    if grads:
        put_gradients = to_value(step["after"]["gradParams"])
        check("gradParams", training.parameters(module)[1], put_gradients)
    training.update_parameters(clone, 0.5)
    check("params", training.parameters(module)[0], to_value(step["after"]["params"]))
    check("cloneParams", training.parameters(clone)[0], to_value(fixture["cloneParams"]))


@pytest.mark.parametrize("share_params", [True, False])
@pytest.mark.parametrize("share_grads", [True, False])
def test_a_shared_clone_trains_with_its_original(share_params: bool, share_grads: bool) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    clone = training.shared_clone(module, share_params, share_grads)
    weight = module.get_parameter("0.weight")
    before = weight.detach().clone()
    clone(torch.randn(5, 3)).square().sum().backward()
    assert (weight.grad is not None and bool(weight.grad.any())) is share_grads
    with torch.no_grad():
        clone.get_parameter("0.weight").add_(1)
    assert torch.equal(weight, before) is not share_params
    assert torch.equal(module.get_buffer("1.running_mean"), torch.zeros(4)) is not share_params


def test_casting_keeps_what_shares_memory() -> None:
    linear = nn.Linear(3, 3)
    both = nn.ModuleList([linear, training.shared_clone(linear, share_grad_params=False)])
    training.cast(both, torch.float64)
    with torch.no_grad():
        linear.weight.fill_(2)
    assert both.get_parameter("1.weight").dtype == torch.float64
    assert torch.equal(both.get_parameter("1.weight"), linear.weight)


@pytest.mark.parametrize("entry", fixtures("getParameters", "sparseParameters"), ids=fixture_id)
def test_the_flat_vectors_are_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["after"], gradients=True)
    if (sparse := fixture.get("sparse")) is not None:
        check("sparse", training.parameters(to_torch(fixture["module"]))[0], to_value(sparse))
        return
    params, grads = training.get_parameters(module)
    check("flat", params, to_value(fixture["flat"]))
    check("flatGrad", grads, to_value(fixture["flatGrad"]))
    params.zero_()
    grads.fill_(2)
    assert all(not p.any() and bool((p.grad == 2).all()) for p in module.parameters())


# ---------------------------------------------------------------------- whole steps
@pytest.mark.parametrize("entry", fixtures("binaryconv_training"), ids=fixture_id)
def test_binary_convolution_trains_like_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    for i, step in enumerate(fixture["steps"].as_list(), 1):
        training.zero_grad_parameters(module)
        backward(module(to_value(fixture["inputs"][i])), to_value(fixture["gradOutputs"][i]))
        same(module, step["before"])
        training.update_parameters(module, 0.1)
        same(module, step["after"])


@pytest.mark.parametrize("entry", fixtures("reinforce_step"), ids=fixture_id)
def test_a_reinforce_step_equals_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    for i, step in enumerate(fixture["steps"].as_list(), 1):
        with torch7_random(200 + i):
            output = module(to_value(fixture[f"input{i}"]))
        check("output", output, to_value(fixture[f"output{i}"]))
        training.reinforce(module, to_value(fixture[f"reward{i}"]))
        sgd.zero_grad()
        output.sum().backward()
        same(module, step["before"])
        sgd.step()
        same(module, step["after"])


@pytest.mark.parametrize("entry", fixtures("ram_reinforce_step"), ids=fixture_id)
def test_the_recurrent_attention_model_trains_like_torch7s(entry: dict[str, Any]) -> None:
    """An ordinary training step: the reward criterion rewards the network's locator on the way back."""
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    reward = ModuleCriterion(VRClassReward(module))
    for i, step in enumerate(fixture["steps"].as_list(), 1):
        target = to_value(fixture["targets"][i]).long()
        module.train()
        with torch7_random(400 + i):
            prediction, rewarded = module(to_value(fixture["inputs"][i]))
        loss = nn.functional.nll_loss(prediction, target - 1) + reward(rewarded, target)
        check("loss", loss, fixture["losses"][i])
        training.zero_grad_parameters(module)
        loss.backward()
        same(module, step["before"])
        training.update_parameters(module, 0.05)
        same(module, step["after"])


def test_clipping_each_module_clips_parameters_beside_submodules() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(16))
            self.layer = nn.Linear(4, 1, bias=False)

    module = Scaled()
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    norm = training.grad_param_clip(module, 0.5, module_local=True)
    assert norm == pytest.approx((4**2 + 2**2) ** 0.5)
    assert [float(p.grad.norm()) for p in module.parameters() if p.grad is not None] == pytest.approx([0.5, 0.5])


def test_a_criterion_that_casts_no_target_may_have_no_module_for_it() -> None:
    without = ModuleCriterion(nn.MSELoss(), nn.Linear(2, 2), cast_target=False).double()
    assert without.target_module is None
    kept = ModuleCriterion(nn.MSELoss(), nn.Linear(2, 2), nn.Linear(3, 2), cast_target=False).double()
    assert [p.dtype for p in kept.parameters()] == [torch.float64] * 2 + [torch.float32] * 2


INF, NAN = float("inf"), float("nan")
#: values of the four parameters -> index that Torch7 names
SUMS: list[tuple[tuple[float, ...], int | None]] = [
    ((1, 1, 1, 1), None),
    ((NAN, 1, 1, 1), 1),
    ((1, NAN, NAN, 1), 2),
    ((1, 1, 1, NAN), 4),
    ((INF, 1, -INF, 1), None),
]


def filled(values: tuple[float, ...]) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1))
    for parameter, value in zip(model.parameters(), values, strict=True):
        nn.init.constant_(parameter, value)
    return model


@pytest.mark.parametrize(("values", "index"), SUMS)
def test_a_parameter_that_is_no_number(values: tuple[float, ...], index: int | None) -> None:
    if index is None:
        training.check_parameters(filled(values))
        return
    with pytest.raises(FloatingPointError, match=rf"parameter {index} is NaN \(field (weight|bias) of a Linear\)"):
        training.check_parameters(filled(values))


def test_infinities_of_both_signs_are_no_number() -> None:
    model = filled((1, 1, 1, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[INF, -INF]]))
    with pytest.raises(FloatingPointError, match="parameter 1 is NaN"):
        training.check_parameters(model)
    training.check_parameters(nn.Tanh())


@pytest.mark.torch7
def test_torch7_names_the_same_parameter(tmp_path: Path) -> None:
    code = (
        "require 'dpnn' local model = torch.load(...) "
        "local ok, text = pcall(model.checkParameters, model) return ok, text or ''"
    )
    cases = [(filled(values), index) for values, index in SUMS]
    cases.append((filled((1, 1, 1, 1)), 1))
    with torch.no_grad():
        cases[-1][0].get_parameter("0.weight").copy_(torch.tensor([[INF, -INF]]))
    for model, index in cases:
        write_t7(tmp_path / "model.t7", model)
        ok, text = run_torch7(code, str(tmp_path / "model.t7"))
        assert ok == (index is None)
        assert index is None or text.endswith(f"NaN Error for param at index{index}")


ONE_OF_EACH = {e["class"]: e for kind in ("sequence", "structure", "module") for e in manifest(kind=kind)}
MAPPED = [e for name, e in ONE_OF_EACH.items() if name in known_names()]


@pytest.mark.parametrize("entry", MAPPED, ids=[e["class"] for e in MAPPED])
def test_every_parameter_in_lua_can_be_written(entry: dict[str, Any]) -> None:
    module = to_torch(read_t7(FIXTURES / entry["file"])["module"])
    parameters = list(lua_parameters.all_parameters(module))
    before = [p.read().clone() for p in parameters]
    for parameter in parameters:
        parameter.write_gradient(torch.ones_like(parameter.read()))
    assert all(bool((p.read_gradient() == 1).all()) for p in parameters)
    training.update_parameters(module, 0.5)
    for parameter, old in zip(parameters, before, strict=True):
        assert torch.allclose(parameter.read(), old - 0.5, equal_nan=True)
    flat = training.flatten(module)
    training.load_flat(module, flat + 1)
    assert torch.allclose(training.flatten(module), flat + 1, equal_nan=True)


def test_one_parameter_in_lua_may_be_many_in_torch() -> None:
    (entry,) = (e for e in manifest(kind="structure") if e["name"] == "cudnn.BGRU__batch_first__float_structure")
    module = to_torch(read_t7(FIXTURES / entry["file"])["module"])
    vector = training.flatten(module)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    training.weight_decay(module, 0.1)  # the weight has one dimension in Lua
    training.max_param_norm(module, 0.01, 0.01)
    assert torch.equal(training.flatten(module), vector)
    assert torch.equal(training.flatten(module, gradients=True), torch.full_like(vector, 2))
    training.update_grad_parameters(module, 0.9, 0)
    training.update_grad_parameters(module, 0.9, 0)
    assert torch.allclose(training.flatten(module, gradients=True), torch.full_like(vector, 2 * 1.9 * 1.9))
    optimizer = optim.MomentumSGD(module, lr=0.1, momentum=0.9)
    optimizer.step()
    params, grads = training.get_parameters(module)
    assert torch.equal(grads, training.flatten(module, gradients=True))
    params.zero_()
    assert not any(p.any() for p in module.parameters())
