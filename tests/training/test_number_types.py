"""Types and devices of numbers in the functions of ``dpnn_bridge.training``."""

from __future__ import annotations

import torch
from torch import nn

from dpnn_bridge import load_flat, training


def test_python_numbers_load_in_double_precision() -> None:
    net = nn.Linear(1, 1).double()
    load_flat(net, [0.1, 0.2])
    assert (net.weight.item(), net.bias.item()) == (0.1, 0.2)


def test_a_sum_does_not_overflow() -> None:
    net = nn.Linear(4096, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(3e38)[:, 2048:].neg_()
    assert net.weight.sum().isnan()
    training.check_parameters(net)


def test_momentum_follows_the_dtype_and_the_device_of_the_parameters() -> None:
    net = nn.Linear(2, 1)
    (weight, _) = training.momentum_grad_parameters(net)
    assert training.momentum_grad_parameters(net)[0] is weight
    assert {b.dtype for b in training.momentum_grad_parameters(net.double())} == {torch.float64}
    assert {b.device.type for b in training.momentum_grad_parameters(net.to("meta"))} == {"meta"}
