"""Modules that compute a norm or a PReLU in several steps are ported as the operation of PyTorch that is equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.porting import judge


class Steps(nn.Module):
    """Computes its result from an input and its parameters by a function."""

    def __init__(self, function: Any, **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def layer_norm(m: Any, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return m.gamma * centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() + m.beta


def unbiased(m: Any, x: Tensor) -> Tensor:
    return m.gamma * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt() + m.beta


def batch_norm(m: Any, x: Tensor) -> Tensor:
    return (x - m.mean) / torch.sqrt(m.var + 1e-5) * m.gamma + m.beta


def without_affine(m: Any, x: Tensor) -> Tensor:
    return (x - m.mean) * (m.var + 1e-3).rsqrt()


def prelu(m: Any, x: Tensor) -> Tensor:
    return x.relu() + m.alpha * (x - x.abs()) * 0.5


def randomized(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def around(module: nn.Module) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 6), module, nn.Tanh(), nn.Linear(6, 3))


NORM = {"beta": torch.zeros(6), "gamma": torch.ones(6)}
MOMENTS = {"var": torch.ones(6), "mean": torch.zeros(6)}
CASES = {
    "batch norm": (nn.BatchNorm1d(6), Steps(batch_norm, **NORM, **MOMENTS)),
    "batch norm without weight": (nn.BatchNorm1d(6, eps=1e-3, affine=False), Steps(without_affine, **MOMENTS)),
    "layer norm": (nn.LayerNorm(6), Steps(layer_norm, **NORM)),
    "prelu": (nn.PReLU(6), Steps(prelu, alpha=torch.ones(6))),
    "prelu of one slope": (nn.PReLU(), Steps(prelu, alpha=torch.ones(1, 1))),
}


@pytest.mark.parametrize("case", CASES)
def test_a_norm_in_steps_is_ported(case: str) -> None:
    stock, steps = CASES[case]
    model, net, x = randomized(around(stock)), around(steps), torch.randn(4, 5)
    report = dpnn_bridge.port(model, net, x)
    assert report.equal, report
    assert torch.allclose(net.eval()(x), model(x), atol=1e-5)
    assert judge(model, net, x).equal
    assert "forward" not in vars(steps)


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("batch norm")])
def test_the_same_steps_in_both_networks_are_ported(case: str) -> None:
    steps = CASES[case][1]
    report = dpnn_bridge.port(randomized(around(copy.deepcopy(steps))), around(steps), torch.randn(4, 5))
    assert report.equal, report


@pytest.mark.parametrize("eps", [1e-12, 0.000123457, 0.0])
def test_the_eps_of_steps_is_found(eps: float) -> None:
    def steps(m: Any, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return m.gamma * centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() + m.beta

    x = torch.randn(4, 5)
    assert dpnn_bridge.port(randomized(around(nn.LayerNorm(6, eps=eps))), around(Steps(steps, **NORM)), x).equal
    other = dpnn_bridge.port(randomized(around(nn.LayerNorm(6, eps=1e-3))), around(Steps(steps, **NORM)), x)
    assert other.first is not None
    assert f"eps {eps:g}" in other.first.reason


def test_steps_that_change_their_input_are_recorded_as_they_are() -> None:
    """The network uses the changed input again, so the norm in place computes something else than the norm."""

    class Net(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(5, 6), norm, nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.last(torch.tanh(self.norm(y)) + y)

    def in_place(m: Any, x: Tensor) -> Tensor:
        return x.sub_(m.mean).mul_((m.var + 1e-5).rsqrt() * m.gamma).add_(m.beta)

    model, net = randomized(Net(nn.BatchNorm1d(6))), Net(Steps(in_place, **NORM, **MOMENTS))
    assert not dpnn_bridge.port(model, net, torch.randn(4, 5)).equal


def test_steps_in_single_precision_and_with_a_named_argument_are_ported() -> None:
    class Named(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return self[3](self[2](self[1](x=self[0](input))))

    def steps(m: Any, x: Tensor) -> Tensor:
        return layer_norm(m, x.float()).to(x.dtype)

    report = dpnn_bridge.port(
        randomized(around(nn.LayerNorm(6))), Named(*around(Steps(steps, **NORM))), torch.randn(4, 5)
    )
    assert report.equal, report


def test_a_norm_in_steps_with_another_variance_is_named() -> None:
    model, net = randomized(around(nn.LayerNorm(6))), around(Steps(unbiased, **NORM))
    report = dpnn_bridge.port(model, net, torch.randn(4, 5))
    assert not report.equal
    assert report.first is not None
    assert report.first.layer == "1"


def test_a_module_that_is_no_norm_for_other_inputs_is_recorded_as_it_is() -> None:
    """A module that is a batch norm for one call only."""

    def changing(m: Any, x: Tensor) -> Tensor:
        return batch_norm(m, x) if len(x) == 4 else x

    module = Steps(changing, **NORM, **MOMENTS)
    model = randomized(around(nn.BatchNorm1d(6)))
    examples = {0: torch.randn(4, 5), 1: torch.randn(3, 5)}
    assert not dpnn_bridge.port(model, around(module), examples.__getitem__).equal
