"""Options and states that an optimizer of ``dpnn_bridge.optim`` does not support."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dpnn_bridge import optim
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.optim.methods import METHODS

UNSUPPORTED = [
    (optim.SGD, torch.optim.SGD, "maximize", True),
    (optim.Adam, torch.optim.Adam, "amsgrad", True),
    (optim.Adam, torch.optim.AdamW, "decoupled_weight_decay", True),
    (optim.ASGD, torch.optim.ASGD, "weight_decay", 0.5),
    (optim.LBFGS, torch.optim.LBFGS, "line_search_fn", "strong_wolfe"),
]


@pytest.mark.parametrize(("ours", "stock", "name", "value"), UNSUPPORTED)
def test_an_option_without_effect_is_an_error(ours: Any, stock: Any, name: str, value: Any) -> None:
    params = [nn.Parameter(torch.zeros(2))]
    given = stock(params) if name == "decoupled_weight_decay" else stock(params, **{name: value})
    optimizer = ours(params)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=f"{ours.__name__} does not support {name}={value}, only"):
        optimizer.load_state_dict(given.state_dict())
    assert optimizer.state_dict() == before
    with pytest.raises(ValueError, match=f"does not support {name}={value}"):
        ours([{"params": params, name: value}])
    plain = torch.optim.Adam if ours is optim.Adam else stock
    optimizer.load_state_dict(plain(params).state_dict())


@pytest.mark.parametrize(
    ("method", "table", "message"),
    [
        ("sgd", {"evalCounter": LuaTable()}, "the field 'evalCounter' is of type LuaTable, expected a number"),
        ("rmsprop", {"initialMean": "x"}, "the field 'initialMean' is of type str, expected a number"),
        ("lbfgs", {"nIter": "x"}, "the field 'nIter' is of type str, expected a number"),
        ("sgd", {"learningRate": -1}, "Invalid learning rate: -1"),
    ],
)
def test_every_field_of_a_table_is_checked(method: str, table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        optim.from_lua(method, table, nn.Linear(2, 1))


def test_a_stock_state_may_have_no_momentum() -> None:
    net = nn.Linear(2, 1)
    sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    sgd.state[net.weight]["momentum_buffer"] = None
    assert "dfdx" not in optim.to_lua(sgd, net)


@pytest.mark.parametrize("method", [optim.NAG, optim.CG])
def test_a_closure_that_raises_moves_no_parameter(method: Any) -> None:
    net = nn.Linear(2, 1).double()
    optimizer, calls = method(net.parameters()), iter([False, True])

    def closure() -> torch.Tensor:
        if next(calls, False):
            raise KeyboardInterrupt
        optimizer.zero_grad()
        loss = (net(torch.ones(1, 2, dtype=torch.float64)) - 1).square().sum()
        loss.backward()
        return loss

    before = net.weight.detach().clone()
    if method is optim.NAG:  # needs a momentum
        optimizer.step(closure)
        before = net.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    torch.testing.assert_close(net.weight.detach(), before)


@pytest.mark.parametrize("method", METHODS)
def test_false_is_no_setting(method: str) -> None:
    """Torch7 reads ``config.momentum or 0``: ``false``, as of an option of a script, has the default."""
    params = [nn.Parameter(torch.ones(2))]
    table = dict.fromkeys((*METHODS[method].settings, *METHODS[method].numbers), False)
    found, default = (optim.to_lua(optim.from_lua(method, given, params)) for given in (table, {}))
    numbers = [name for name, value in default.items() if not isinstance(value, LuaTensor)]
    assert len(found) == len(default) > 0
    assert [found[name] for name in numbers] == [default[name] for name in numbers]


def minimized(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> list[float]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p.cosh() * torch.arange(1.0, 5)).sum()
        loss.backward()
        return loss

    return [float(optimizer.step(closure)) for _ in range(3)]


def test_the_state_of_lbfgs_continues_in_the_stock_optimizer() -> None:
    p, q = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    first = optim.LBFGS([p], lr=0.1, max_iter=4)
    minimized(first, p)
    table = optim.to_lua(first)
    for given in (first, optim.from_lua("lbfgs", table, [p])):
        stock, ours = torch.optim.LBFGS([q], lr=0.1, max_iter=4), optim.from_lua("lbfgs", table, [p])
        stock.load_state_dict(given.state_dict())
        with torch.no_grad():
            q.copy_(p)
        start = p.detach().clone()
        assert minimized(stock, q) == pytest.approx(minimized(ours, p), rel=1e-12)
        with torch.no_grad():
            p.copy_(start)


def test_lbfgs_accepts_any_number_of_iterations() -> None:
    losses = {}
    for most in (3, 2.5, float("inf")):
        p = nn.Parameter(torch.ones(4, dtype=torch.float64))
        optimizer = optim.from_lua("lbfgs", {"maxIter": most, "maxEval": 8, "learningRate": 0.1}, [p])
        losses[most] = minimized(optimizer, p)
        assert optim.to_lua(optimizer)["maxIter"] == most
    assert losses[2.5][1] == losses[3][1] > losses[float("inf")][1]


@pytest.mark.parametrize("method", ["sgd", "adam", "adagrad", "adamax"])
def test_many_steps_are_counted(method: str) -> None:
    p = nn.Parameter(torch.ones(2))
    name = next(iter(METHODS[method].numbers))
    buffers = {field: LuaTensor.from_numpy(np.ones(2, np.float32)) for field in METHODS[method].buffers}
    optimizer = optim.from_lua(method, {name: 20_000_001, **buffers}, [p])
    p.grad = torch.ones(2)
    optimizer.step()
    assert optim.to_lua(optimizer)[name] == 20_000_002
