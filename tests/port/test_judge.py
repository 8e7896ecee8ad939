"""A port that has its weights is judged by what it computes with, however its weights and biases are distributed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import dpnn_bridge
from dpnn_bridge.errors import OptionError
from dpnn_bridge.porting import PortReport, judge


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def ported(source: nn.Module, net: nn.Module, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    assert dpnn_bridge.port(source, net, x).equal
    assert judge(source, net, x).equal
    return net


def moved(layer: type[nn.RNNBase], rows: slice) -> PortReport:
    source, x = Recurrent(layer), randn(3, 2, 5)
    net = ported(source, Recurrent(layer), x)
    with torch.no_grad():
        shift = randn(*net.layer.bias_ih_l0[rows].shape)
        net.layer.bias_ih_l0[rows] += shift
        net.layer.bias_hh_l0[rows] -= shift
        assert torch.allclose(net(x), source(x), atol=1e-5) == judge(source, net, x).equal
    return judge(source, net, x)


@pytest.mark.parametrize(("layer", "rows"), [(nn.LSTM, slice(None)), (nn.RNN, slice(None)), (nn.GRU, slice(0, 8))])
def test_biases_that_are_added_may_be_distributed_otherwise(layer: type[nn.RNNBase], rows: slice) -> None:
    report = moved(layer, rows)
    assert report.equal, report
    assert any("bias_ih_l0, layer.bias_hh_l0" in note for note in report.notes)


def test_the_biases_of_the_new_gate_of_a_gru_are_not_added() -> None:
    report = moved(nn.GRU, slice(8, 12))
    assert not report.equal
    assert report.first is not None
    assert "bias_ih_l0 differs from the source's values" in report.first.reason


def normed(bias: bool, **options: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, **options), nn.ReLU()).eval()


def test_a_bias_may_be_in_the_running_mean() -> None:
    source, x = normed(False), randn(2, 3, 6, 6)
    net = ported(source, normed(True), x)
    with torch.no_grad():
        net[0].bias += randn(4)
        assert not judge(source, net, x).equal
        net[1].running_mean += randn(4)
    report = judge(source, net, x)
    assert report.equal, report
    assert any("0.bias, 1.running_mean" in note for note in report.notes)


def test_a_bias_before_statistics_of_the_input_changes_nothing() -> None:
    source, x = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.InstanceNorm2d(4, affine=True)), randn(2, 3, 6, 6)
    net = ported(source, nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)), x)
    with torch.no_grad():
        net[0].bias += randn(4)
    assert judge(source, net, x).equal


def test_a_direction_of_weight_norm_may_have_another_length() -> None:
    source, x = nn.Sequential(nn.Linear(5, 4)), randn(3, 5)
    net = ported(source, nn.Sequential(weight_norm(nn.Linear(5, 4))), x)
    parts = net[0].parametrizations.weight
    with torch.no_grad():
        parts.original1 *= 2
        assert judge(source, net, x).equal
        parts.original0[1] *= 1.01
    report = judge(source, net, x)
    assert report.first is not None
    assert "weight computed from 0.parametrizations.weight.original1 and 0.parametrizations" in report.first.reason


def test_weights_that_are_no_numbers_differ() -> None:
    source, x = nn.Sequential(nn.Linear(5, 4)), randn(3, 5)
    net = ported(source, nn.Sequential(nn.Linear(5, 4)), x)
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    report = judge(source, net, x)
    assert "0.weight differs from the source's values (it contains NaN or infinity)" in str(report)
    json.loads(json.dumps(report.to_dict()), parse_constant=pytest.fail)


@pytest.mark.parametrize(("options", "message"), [({"later": "x"}, "argument later"), ({"latest": True}, "latest")])
def test_options_are_those_of_port(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"port: .*{message}"):
        judge(nn.Linear(3, 2), nn.Linear(3, 2), torch.randn(4, 3), **options)
