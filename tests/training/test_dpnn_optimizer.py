"""MomentumSGD is the functions of dpnn's training step, with schedulers and checkpoints."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dpnn_bridge import training
from dpnn_bridge.modules.nn import MM, LookupTable, ParallelTable, PartialLinear
from dpnn_bridge.modules.nnx import SoftMaxTree
from dpnn_bridge.optim.momentum import MomentumSGD

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.2, "weight_decay": 0.1, "max_out_norm": 0.5, "max_in_norm": 0.4},
    {"weight_decay": 0.1, "wd_min_dim": 1},
]


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    net[0].__dict__["maxInNorm"] = 0.6
    net[2].__dict__["maxOutNorm"] = 0.7
    net[4].__dict__.update(momFactor=0.3, momDamp=0.1, wdFactor=0.05)
    return net


def functions(net: nn.Module, lr: float, options: dict[str, Any]) -> None:
    training.weight_decay(net, options.get("weight_decay", 0), options.get("wd_min_dim", 2))
    momentum = [options.get("momentum", 0), options.get("dampening"), options.get("nesterov", False)]
    training.update_grad_parameters(net, *momentum)
    training.update_parameters(net, lr)
    training.max_param_norm(net, options.get("max_out_norm"), options.get("max_in_norm"))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_gives_the_numbers_of_the_functions(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    a = network().double()
    b = copy.deepcopy(a)
    sgd = MomentumSGD(a, lr=0.1, **options)
    for _ in range(4):
        x, g = torch.randint(7, (6, 2)), torch.randn(6, 3, dtype=torch.double)
        sgd.zero_grad()
        training.zero_grad_parameters(b)
        for net in (a, b):
            net(x).backward(g)
        sgd.step()
        functions(b, 0.1, options)
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["SoftMaxTree", "PartialLinear"])
def test_layers_of_lua_make_the_step_of_the_functions(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    if kind == "SoftMaxTree":
        layer: nn.Module = SoftMaxTree.from_hierarchy(4, {1: [2, 3], 2: [4, 5], 3: [6, 7]}, root=1)
        arguments: list[Any] = [[torch.randn(3, 4).double(), torch.full((3,), 4)]]  # node 3 is not visited
    else:
        network = nn.Sequential(ParallelTable(nn.Identity(), LookupTable(6, 4, index_base=1)), MM(transpose_b=True))
        layer, arguments = PartialLinear(network, 6), [torch.randn(3, 4).double()]
    a = nn.Sequential(layer.double())
    b = copy.deepcopy(a)
    sgd = MomentumSGD(a, lr=0.1, **options)
    before = {name: p.detach().clone() for name, p in a.named_parameters()}
    for _ in range(3):
        sgd.zero_grad()
        training.zero_grad_parameters(b)
        for net in (a, b):
            net(*arguments).square().sum().backward()
        sgd.step()
        functions(b, 0.1, options)
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
        assert not torch.equal(p, before[name])
        if kind == "SoftMaxTree":
            assert torch.equal(p[4:], before[name][4:])


def test_schedulers_and_checkpoints_work() -> None:
    torch.manual_seed(0)
    a = network()
    sgd = MomentumSGD(a, lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, 1, gamma=0.5)
    x = torch.randint(7, (6, 2))

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    step(a, sgd)
    schedule.step()
    assert {group["lr"] for group in sgd.param_groups} == {0.05}
    b = copy.deepcopy(a)
    again = MomentumSGD(b, lr=1, momentum=0.9)
    again.load_state_dict(sgd.state_dict())
    step(a, sgd)
    step(b, again)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_copy_of_model_and_optimizer_trains() -> None:
    net = nn.Linear(2, 1)
    copied, sgd = copy.deepcopy((net, MomentumSGD(net, lr=0.5)))
    before, kept = copied.bias.item(), net.bias.item()
    copied(torch.zeros(1, 2)).sum().backward()
    sgd.step()
    assert (copied.bias.item(), net.bias.item()) == (pytest.approx(before - 0.5), kept)


def test_the_state_of_a_stock_optimizer_is_taken_over() -> None:
    a, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    b = copy.deepcopy(a)
    stock = torch.optim.SGD(a.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    a(x).square().sum().backward()
    stock.step()
    b.load_state_dict(a.state_dict())
    ours = MomentumSGD(b, lr=1, max_out_norm=1e6)
    ours.load_state_dict(copy.deepcopy(stock.state_dict()))
    assert ours.param_groups[0]["max_out_norm"] == 1e6
    assert ours.param_groups[0]["lr"] == 0.1
    for net, optimizer in ((a, stock), (b, ours)):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    with pytest.raises(ValueError, match="MomentumSGD does not support maximize=True"):
        ours.load_state_dict(torch.optim.SGD(a.parameters(), lr=0.1, maximize=True).state_dict())
