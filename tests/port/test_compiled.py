"""A network that ``torch.compile`` took is ported as the network that it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.porting import judge


class Net(nn.Module):
    """Two layers, called directly or by a compiled function."""

    def __init__(self, act: Any = torch.tanh) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(5, 4), nn.Linear(4, 3), act

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def compiled_part() -> nn.Module:
    net = Net()
    net.first = torch.compile(net.first)  # type: ignore[assignment]
    return net


def compiled_in_place() -> nn.Module:
    net = Net()
    net.compile()
    return net


COMPILED = {
    "whole": lambda: torch.compile(Net()),
    "part": compiled_part,
    "in place": compiled_in_place,
    "function": lambda: Net(torch.compile(torch.tanh)),
}


@pytest.mark.parametrize("case", COMPILED)
def test_a_compiled_network_is_ported(case: str) -> None:
    net, source, x = COMPILED[case](), Net(), torch.randn(4, 5)
    report = dpnn_bridge.port(source, net, x)
    assert report.equal, report
    assert [m.parameter for m in report.matches] == [name for name, _ in net.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), net.parameters(), strict=True))
    assert judge(source, net, x).equal
    assert dpnn_bridge.port(net, Net(), x).equal
    other = dpnn_bridge.port(source, torch.compile(Net(F.relu)), x)
    assert not other.equal
