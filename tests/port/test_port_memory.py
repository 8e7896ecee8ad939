"""What two runs of a network may share or not: parameters in one memory, inputs, lengths of sequences."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.training import get_parameters


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Tied(nn.Module):
    """Two layers whose weights are one tensor, and two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight.data = self.a.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def test_parameters_in_one_memory_are_filled_as_one() -> None:
    different = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    report = dpnn_bridge.port(different, Tied(), randn(4, 5))
    assert not report.equal
    assert report.first is not None
    assert "a.weight and b.weight are one tensor here" in report.first.reason
    same = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    same[2].weight = same[0].weight
    net = Tied()
    assert dpnn_bridge.port(same, net, randn(4, 5)).equal
    assert torch.allclose(net(randn(4, 5, seed=1)), same(randn(4, 5, seed=1)), atol=1e-6)


def test_parameters_side_by_side_in_one_vector_stay_apart() -> None:
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    get_parameters(net)
    source = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    assert dpnn_bridge.port(source, net, randn(4, 5)).equal
    assert torch.allclose(net(randn(4, 5, seed=1)), source(randn(4, 5, seed=1)), atol=1e-6)


def test_the_second_input_of_a_dict_has_other_values() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, given: dict[str, Tensor]) -> Tensor:
            return self.layer(given["x"])

    seen: list[Tensor] = []

    def source(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
        seen.append(given["x"].clone())
        return model(given["x"])

    assert dpnn_bridge.port(nn.Linear(5, 3), Named(), {"x": randn(4, 5)}, source=source).equal
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("more", [-1, 2])
def test_the_second_sequence_may_have_another_length(more: int) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(x.shape[1], 4)
            for step in x:
                state = self.cell(step, state)
            return state

    report = dpnn_bridge.port(Cell(), Cell(), lambda seed: randn(3 + more * seed, 2, 5, seed=seed))
    assert report.equal, report


def test_a_network_that_refuses_large_inputs_is_compared_on_others() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            if x.abs().max() > 10:
                raise ValueError("pass normalized inputs")
            return F.relu6(self.layer(x))

    report = dpnn_bridge.port(nn.Sequential(nn.Linear(5, 3), nn.ReLU6()), Checked(), randn(4, 5))
    assert report.equal, report


def test_a_parameter_that_is_used_in_parts_is_listed_once() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([F.linear(x, self.weight[:3]), F.linear(x, self.weight[3:])], 1)

    report = dpnn_bridge.port(nn.Linear(5, 6, bias=False), Halves(), randn(4, 5))
    assert report.equal, report
    assert [m.parameter for m in report.matches] == ["weight"]


def test_layers_in_a_private_list_are_refused_too() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._layers = [nn.Linear(5, 3)]

        def forward(self, x: Tensor) -> Tensor:
            return self._layers[0](x)

    with pytest.raises(ConversionError, match=r"layers in _layers, a list.*ModuleList"):
        dpnn_bridge.port(nn.Linear(5, 3), Listed(), randn(4, 5))


def test_a_report_keeps_neither_network() -> None:
    """Of a report that somebody keeps, only the weights remain."""
    copies = list[weakref.ref[nn.Module]]()

    class Watched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            copies.append(weakref.ref(self))
            return super().forward(input)

    source, net = Watched(5, 3), Watched(5, 3)
    report = dpnn_bridge.port(source, net, randn(4, 5))
    gc.collect()
    assert copies
    assert [copy() for copy in copies if copy() is not None] == []
    net.weight.data.zero_()
    report.apply()
    assert torch.equal(net.weight, source.weight)
