"""An optimizer made from a Lua state takes the steps that Torch7 took next, and its state can be exported."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import nn
from torch.nn.utils import prune

from dpnn_bridge import optim, read_t7, to_lua, to_torch, training
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.optim.lua_method import Method
from dpnn_bridge.optim.methods import METHODS
from dpnn_bridge.parity import Tolerance, compare

STEPWISE = manifest(kind="optim")
FULL_BATCH = manifest(kind="optim_quadratic")


def tensor(value: Any) -> torch.Tensor:
    return value.torch().clone()


def tables(fixture: LuaTable, step: int) -> tuple[Any, Any]:
    """Configuration and state after ``step`` steps."""
    if step == 0:
        return fixture["config"], LuaTable() if fixture["separateState"] else None
    state = fixture["states"][step]
    return (fixture["config"], state) if fixture["separateState"] else (state, None)


def take_step(optimizer: torch.optim.Optimizer, x: nn.Parameter, fixture: LuaTable, step: int) -> torch.Tensor:
    """One step with the stored gradient; returns where the gradient was taken."""
    seen: list[torch.Tensor] = []

    def closure() -> float:
        seen.append(x.detach().clone())
        x.grad = tensor(fixture["grads"][step])
        return 0.5 * step

    assert optimizer.step(closure) == 0.5 * step
    return seen[0]


def check(name: str, actual: Any, expected: Any) -> None:
    assert [d.message for d in compare(name, actual, expected, Tolerance(1e-12, 1e-6)) if not d.ok] == []


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("entry", STEPWISE, ids=fixture_id)
def test_takes_torch7s_next_steps(entry: dict[str, Any], start: int) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    x = nn.Parameter(tensor(fixture["xs"][start] if start else fixture["x0"]))
    config, state = tables(fixture, start)
    optimizer = optim.from_lua(fixture["method"], config, [x], state)
    for step in range(start + 1, 7):
        evaluated_at = take_step(optimizer, x, fixture, step)
        check("evalAt", evaluated_at, tensor(fixture["evalAt"][step]))
        check("x", x.detach(), tensor(fixture["xs"][step]))
        if step in fixture["extra"]:
            check("averaged", optimizer.state[x]["ax"], tensor(fixture["extra"][step]))


@pytest.mark.parametrize("entry", STEPWISE, ids=fixture_id)
def test_state_goes_back_to_lua(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    x = nn.Parameter(tensor(fixture["x0"]))
    config, state = tables(fixture, 0)
    optimizer = optim.from_lua(fixture["method"], config, [x], state)
    for step in range(1, 4):
        take_step(optimizer, x, fixture, step)
    written, expected = optim.to_lua(optimizer), fixture["states"][3]
    spec = METHODS[fixture["method"]]
    for name in {**spec.buffers, **spec.factors, **spec.numbers}:
        if name not in expected and name not in fixture["config"]:
            continue
        value = expected[name] if name in expected else fixture["config"][name]
        if isinstance(value, LuaTensor):
            assert written[name].class_name == value.class_name
            check(name, tensor(written[name]), tensor(value).reshape(-1))
        else:
            check(name, written[name], value)
    for name in spec.settings:
        if name in fixture["config"] and name != "stepsize":
            assert written[name] == fixture["config"][name]
    for name in spec.scratch:
        assert name in written


@pytest.mark.parametrize("entry", STEPWISE, ids=fixture_id)
def test_lua_and_state_dict_round_trips_continue_alike(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    config, state = tables(fixture, 3)
    x = nn.Parameter(tensor(fixture["xs"][3]))
    first = optim.from_lua(fixture["method"], config, [x], state)
    y, z = nn.Parameter(x.detach().clone()), nn.Parameter(x.detach().clone())
    through_lua = optim.from_lua(fixture["method"], optim.to_lua(first), [y])
    restored = optim.from_lua(fixture["method"], fixture["config"], [z], LuaTable())
    restored.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(4, 7):
        for optimizer, p in ((first, x), (through_lua, y), (restored, z)):
            take_step(optimizer, p, fixture, step)
        check("through Lua", y.detach(), x.detach())
        check("through state_dict", z.detach(), x.detach())


@pytest.mark.parametrize("entry", FULL_BATCH, ids=fixture_id)
@pytest.mark.parametrize("start", [0, 1])
def test_full_batch_methods_take_torch7s_steps(entry: dict[str, Any], start: int) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    A, b = tensor(fixture["A"]), tensor(fixture["b"])
    x = nn.Parameter(tensor(fixture["xs"][start] if start else fixture["x0"]))
    config = fixture["states"][start] if start else fixture["config"]
    optimizer = optim.from_lua(fixture["method"], config, [x])
    for call in range(start + 1, 3):
        places, losses = [], []

        def closure(places: list[Any] = places, losses: list[float] = losses) -> float:
            x.grad = None
            loss = 0.5 * (A @ x) @ x - b @ x
            loss.backward()
            places.append(x.detach().clone())
            losses.append(loss.item())
            return losses[-1]

        first = optimizer.step(closure)
        check("evalAt", places, [tensor(e) for e in fixture["evalAt"][call].as_list()])
        check("x", x.detach(), tensor(fixture["xs"][call]))
        assert first == losses[0]
        if fixture["method"] == "lbfgs":
            check("losses", losses, fixture["fxs"][call].as_list())
            written = optim.to_lua(optimizer)
            for name in ("t", "Hdiag", "f_old", "nIter", "funcEval"):
                check(name, written[name], fixture["states"][call][name])
            for name in ("d", "g_old"):
                check(name, tensor(written[name]), tensor(fixture["states"][call][name]))
            for name in ("old_dirs", "old_stps"):
                stored = fixture["states"][call][name].as_list()
                check(name, [tensor(v) for v in written[name].as_list()], [tensor(v) for v in stored])


@pytest.mark.parametrize("method", METHODS)
def test_an_optimizer_goes_to_lua_before_its_first_step(method: str) -> None:
    written = optim.to_lua(optim.from_lua(method, {}, two_parameters()))
    again = optim.to_lua(optim.from_lua(method, written, two_parameters()))
    assert again.keys() == written.keys()
    for name, value in written.items():
        if isinstance(value, LuaTensor):
            check(name, tensor(again[name]), tensor(value))
        else:
            assert again[name] == value


def test_an_optimizer_is_exported_by_the_method_of_its_nearest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.optim.AdamW`` is an ``Adam``; a method of its own is found, wherever it stands in the list."""
    spec = Method(torch.optim.AdamW, settings={"learningRate": ("lr", 1e-3), "rateOfDecay": ("weight_decay", 1e-2)})
    monkeypatch.setitem(METHODS, "adamw", spec)
    assert dict(optim.to_lua(torch.optim.AdamW(two_parameters(), weight_decay=0.5)).items())["rateOfDecay"] == 0.5
    assert "epsilon" in optim.to_lua(torch.optim.Adam(two_parameters()))


def two_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))]


def test_flat_state_is_cut_in_the_order_of_the_parameters() -> None:
    params = two_parameters()
    optimizer = optim.from_lua("sgd", {"momentum": 0.9, "dfdx": torch.arange(5.0)}, params)
    assert [optimizer.state[p]["momentum_buffer"].tolist() for p in params] == [[0, 1], [2, 3, 4]]


RECURRENT = [
    nn.GRU(3, 4, 2, bidirectional=True),
    nn.RNN(3, 4, 2),
    nn.GRUCell(3, 4),
    nn.LSTMCell(3, 4),
    prune.identity(nn.GRU(3, 4), "weight_ih_l0"),
]


@pytest.mark.parametrize("layer", RECURRENT, ids=lambda layer: type(layer).__name__)
def test_vectors_of_recurrent_layers_of_pytorch_have_the_order_of_the_export(layer: nn.Module) -> None:
    assert torch.equal(training.flatten(layer), training.flatten(to_torch(to_lua(layer))))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    for p in layer.parameters():
        p.grad = p.detach().clone()
    optimizer.step()
    state = optim.to_lua(optimizer, layer)["dfdx"].torch()
    assert torch.equal(state, training.flatten(layer, gradients=True))


def test_a_subclass_of_a_cell_has_its_order_and_its_own_parameters_last() -> None:
    class Scaled(nn.GRUCell):
        pass

    torch.manual_seed(0)
    cell, scaled = nn.GRUCell(3, 4), Scaled(3, 4)
    scaled.load_state_dict(cell.state_dict())
    scaled._parameters = {"scale": nn.Parameter(torch.full((1,), 7.0)), **scaled._parameters}
    assert torch.equal(training.flatten(scaled), torch.cat([training.flatten(cell), torch.tensor([7.0])]))


@pytest.mark.parametrize("kind", [nn.LSTM, type("Own", (nn.LSTM,), {})])
def test_the_state_of_an_lstm_of_pytorch_is_refused(kind: type[nn.LSTM]) -> None:
    layer = nn.Sequential(kind(3, 4))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    assert optim.to_lua(optimizer, layer)["momentum"] == 0.9
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(ConversionError, match=r"nn\.LSTM has two biases"):
        optim.to_lua(optimizer, layer)


def test_stock_optimizers_take_over_the_state() -> None:
    params = two_parameters()
    ours = optim.from_lua("adam", {"m": torch.arange(5.0), "v": torch.ones(5), "t": 7}, params)
    stock = torch.optim.Adam(params)
    stock.load_state_dict(ours.state_dict())
    for p in params:
        p.grad = torch.ones_like(p)
    stock.step()
    assert stock.state[params[0]]["step"] == 8


def test_stock_optimizers_become_lua_tables() -> None:
    params = two_parameters()
    stock = torch.optim.SGD(params, lr=0.5, momentum=0.25)
    params[1].grad = torch.full_like(params[1], 2)
    stock.step()
    table = optim.to_lua(stock)
    assert (table["learningRate"], table["momentum"], table["dampening"]) == (0.5, 0.25, 0)
    assert table["dfdx"].numpy().tolist() == [0, 0, 2, 2, 2]


def test_learning_rate_schedulers_work() -> None:
    params = two_parameters()
    optimizer = optim.from_lua("sgd", {"learningRate": 1}, params)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
    assert params[0].tolist() == [-0.5, -0.5]


def test_new_groups_have_every_setting() -> None:
    first, second = two_parameters()
    optimizer = optim.SGD([first], lr=1, lr_decay=1)
    optimizer.add_param_group({"params": [second]})
    assert optimizer.param_groups[1]["lr_decay"] == 1


def test_rmsprop_may_begin_with_a_variance() -> None:
    (p, _) = two_parameters()
    optimizer = optim.from_lua("rmsprop", {"initialMean": 4, "alpha": 1, "learningRate": 1, "epsilon": 0}, [p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert p.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("method", "name", "setting"),
    [
        ("sgd", "learning_rate", "learningRate=0.001"),
        ("sgd", "lr", "learningRate=0.001"),
        ("sgd", "weightdecay", "weightDecay=0.0"),
        ("adam", "beta_2", "beta2=0.999"),
        ("lbfgs", "maxIters", "maxIter=20"),
    ],
)
def test_a_misspelled_setting_is_named(method: str, name: str, setting: str) -> None:
    """Its default is used, as in Torch7."""
    with pytest.warns(UserWarning, match=f"{method} has no setting '{name}' and uses {setting}; did you mean") as seen:
        optimizer = optim.from_lua(method, {name: 0.5}, two_parameters())
    assert seen[0].filename == __file__
    argument, default = METHODS[method].settings[setting.split("=")[0]]
    if argument in optimizer.param_groups[0]:
        assert optimizer.param_groups[0][argument] == default


@pytest.mark.parametrize("method", METHODS)
def test_fields_of_other_methods_and_of_scripts_are_no_misspelled_settings(method: str) -> None:
    others = {name: 1 for m in METHODS.values() for name in m.names()}
    own = {name: default for name, (_, default) in METHODS[method].settings.items()}
    script = {"verbose": True, "epoch": 3, "batchSize": 20, "learningRateMin": 1e-5, "maxIterations": 5, 1: 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optim.from_lua(method, {**script, **others, **own}, two_parameters(), {})


def test_numbers_of_numpy_and_torch_are_settings() -> None:
    config = {"learningRate": np.float32(0.5), "momentum": torch.tensor(0.25)}
    group = optim.from_lua("sgd", config, two_parameters()).param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.5, 0.25)
    with pytest.raises(ConversionError, match="the field 'learningRate' is of type str, expected a number"):
        optim.from_lua("sgd", {"learningRate": "0.1"}, two_parameters())


def test_errors_say_what_does_not_fit() -> None:
    params = two_parameters()
    with pytest.raises(ConversionError, match=r"dfdx.*has 4 elements, the parameters have 5"):
        optim.from_lua("sgd", {"dfdx": torch.zeros(4)}, params)
    with pytest.raises(ConversionError, match=r"has \['m'\] but not \['v'\]"):
        optim.from_lua("adam", {"m": torch.zeros(5)}, params)
    with pytest.raises(ConversionError, match="'cmaes'; supported: sgd, adam"):
        optim.from_lua("cmaes", {}, params)
    with pytest.raises(ConversionError, match="amsgrad=True"):
        optim.to_lua(torch.optim.Adam(params, amsgrad=True))
    with pytest.raises(ConversionError, match=r"differ in \['lr'\]"):
        optim.to_lua(torch.optim.SGD([{"params": params[:1], "lr": 1}, {"params": params[1:], "lr": 2}]))
    with pytest.raises(ConversionError, match="NAdam"):
        optim.to_lua(torch.optim.NAdam(params))
    with pytest.raises(ValueError, match="pass step\\(\\) a closure"):
        optim.NAG(params).step()


OWN = [(name, m.optimizer) for name, m in METHODS.items() if m.optimizer.__module__.startswith("dpnn_bridge.")]


@pytest.mark.parametrize(("name", "kind"), OWN, ids=[name for name, _ in OWN])
def test_defaults_of_constructors_are_torch7s(name: str, kind: Any) -> None:
    made, of_lua = kind(two_parameters()), optim.from_lua(name, {}, two_parameters())
    settings = {k: v for k, v in of_lua.param_groups[0].items() if k != "params"}
    assert {k: made.param_groups[0][k] for k in settings} == settings


STOCK = [
    (optim.SGD, torch.optim.SGD, {"momentum": 0.9}),
    (optim.Adam, torch.optim.Adam, {}),
    (optim.ASGD, torch.optim.ASGD, {}),
    (optim.Rprop, torch.optim.Rprop, {}),
]


@pytest.mark.parametrize(("ours", "stock", "options"), STOCK, ids=[s.__name__ for _, s, _ in STOCK])
def test_the_state_of_a_stock_optimizer_is_taken_over(ours: Any, stock: Any, options: dict[str, Any]) -> None:
    """What it has no hyperparameter for, such as a decay of the learning rate, stays as it was constructed."""
    x = nn.Parameter(torch.ones(3))
    before = stock([x], lr=0.1, **options)
    x.grad = torch.ones(3)
    before.step()
    after = ours([x], lr=0.5)
    after.load_state_dict(before.state_dict())
    assert after.param_groups[0]["lr"] == 0.1
    assert after.param_groups[0].keys() - {"lr_decay", "niter"} == before.param_groups[0].keys()
    after.step()
    assert set(after.state[x]) == set(before.state[x]) | {"step"}
    again = copy.deepcopy(after)
    assert again.param_groups[0].keys() == after.param_groups[0].keys()


def test_the_state_of_a_layer_that_is_not_trained_is_that_of_the_beginning() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    averaging, resilient = optim.ASGD(net.parameters()), optim.Rprop(net.parameters(), lr=0.3)
    net(torch.randn(4, 3)).sum().backward()
    averaging.step()
    frozen = torch.cat([p.flatten() for p in net[0].parameters()])
    assert torch.equal(tensor(optim.to_lua(averaging, net)["ax"])[:8], frozen)
    resilient.step()
    assert torch.equal(tensor(optim.to_lua(resilient, net)["stepsize"])[:8], torch.full((8,), 0.3))


def test_the_history_of_lbfgs_has_zeros_for_what_it_does_not_train() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = optim.LBFGS(net[1].parameters(), max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(torch.ones(4, 3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.warns(UserWarning, match="also the 2 that the optimizer does not have, such as parameter 0.weight"):
        direction = tensor(optim.to_lua(optimizer, net)["d"])
    assert direction.numel() == 14
    assert not direction[:8].any()
    assert direction[8:].any()


@pytest.mark.parametrize("more", [True, False])
def test_an_optimizer_of_other_parameters_than_the_model(more: bool) -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 4)
    optimizer = torch.optim.SGD([*(net.parameters() if more else ()), *other.parameters()], lr=0.1, momentum=0.9)
    with pytest.raises(ConversionError, match=r"2 of the optimizer.s . parameters, the first of shape \(4, 3\)"):
        optim.to_lua(optimizer, net)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_fixtures_and_a_row_for_its_users(method: str) -> None:
    assert manifest(**{"class": f"optim.{method}"}), "add runs to fixtures/gen/nn/09_optim.lua (tests/add_fixtures.py)"
    page = Path(__file__).parents[2] / "docs" / "how-to" / "continue-training.md"
    assert f"`{method}`" in page.read_text(encoding="utf-8"), f"add {method} to the table of docs/how-to/{page.name}"


COMPUTED: dict[str, Any] = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 1),
    "weight_norm of hooks": nn.utils.weight_norm,
    "spectral_norm of hooks": nn.utils.spectral_norm,
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_parameters_of_computed_weights_are_trained(kind: str) -> None:
    net = nn.Sequential(COMPUTED[kind](nn.Linear(3, 2)), nn.Linear(2, 1))
    optimizer = optim.from_lua("sgd", {"learningRate": 1, "momentum": 0.9}, net)
    assert "momentum" in optim.to_lua(optimizer, net)
    net(torch.randn(4, 3)).sum().backward()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    flat = training.flatten(net)
    assert flat.numel() == sum(p.numel() for p in net.parameters())
    training.update_parameters(net, 1.0)
    training.load_flat(net, flat)
    assert torch.equal(training.flatten(net), flat)
    if kind == "pruned":
        assert tensor(optim.to_lua(optimizer, net)["dfdx"]).numel() == training.flatten(to_torch(to_lua(net))).numel()
    else:
        with pytest.raises(ConversionError, match=r"computes 0\.weight, and the model in Torch7 has the result; call "):
            optim.to_lua(optimizer, net)
