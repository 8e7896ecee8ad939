"""Modules of users that inherit from classes of ``torch.legacy.nn`` and override some methods."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.legacy import nn

# ruff: noqa: N802 - the names are PyTorch 0.4's


class Doubled(nn.Linear):
    def updateOutput(self, input: Tensor) -> Tensor:
        self.output = super().updateOutput(input) * 2
        return self.output


class Decayed(nn.Linear):
    def accGradParameters(self, input: Tensor, gradOutput: Tensor, scale: float = 1) -> None:
        super().accGradParameters(input, gradOutput, scale)
        self.gradWeight.add_(self.weight, alpha=scale)


class Damped(nn.Identity):
    def updateGradInput(self, input: Tensor, gradOutput: Tensor) -> Tensor:
        self.gradInput = gradOutput * 0.5
        return self.gradInput


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gradWeight = torch.arange(6.0).view(3, 2), torch.zeros(3, 2)

    def updateOutput(self, input: Tensor) -> Tensor:
        self.output = self.weight[input]
        return self.output

    def updateGradInput(self, input: Tensor, gradOutput: Tensor) -> Tensor:
        return self.gradInput

    def accGradParameters(self, input: Tensor, gradOutput: Tensor, scale: float = 1) -> None:
        self.gradWeight.index_add_(0, input, gradOutput * scale)


def test_an_inherited_method_computes_as_the_class() -> None:
    layer, x = Doubled(3, 2), torch.randn(4, 3)
    expected = 2 * (x @ layer.weight.t() + layer.bias)
    net = nn.Sequential().add(layer)
    for module in (layer, net):
        torch.testing.assert_close(module.forward(x), expected)
        layer.zeroGradParameters()
        torch.testing.assert_close(module.backward(x, torch.ones(4, 2)), torch.ones(4, 2) @ layer.weight)
        torch.testing.assert_close(layer.gradWeight, x.sum(0).expand(2, 3))
        torch.testing.assert_close(layer.output, expected)


def test_methods_for_gradients_are_called_in_a_container() -> None:
    net, x = nn.Sequential().add(Damped()).add(Decayed(3, 2)), torch.randn(4, 3)
    last = net.get(1)
    net.forward(x)
    torch.testing.assert_close(net.backward(x, torch.ones(4, 2)), 0.5 * torch.ones(4, 2) @ last.weight)
    torch.testing.assert_close(last.gradWeight, x.sum(0).expand(2, 3) + last.weight)


def test_parameters_of_users_are_trained_without_a_gradient_of_the_input() -> None:
    net: Any = nn.Sequential().add(Rows()).add(nn.MulConstant(3))
    rows, index = net.get(0), torch.tensor([1, 1, 2])
    net.backward(index, torch.ones(3, 2))
    assert rows.gradWeight.tolist() == [[0, 0], [6, 6], [3, 3]]
    net.zeroGradParameters()
    net.accGradParameters(index, torch.ones(3, 2), 2)
    assert rows.gradWeight.tolist() == [[0, 0], [12, 12], [6, 6]]


def test_a_step_changes_the_parameters_of_users() -> None:
    rows, index = Rows(), torch.tensor([0, 2])
    for module in (rows, nn.Sequential().add(rows)):
        before = rows.weight.clone()
        module.forward(index)
        module.backwardUpdate(index, torch.ones(2, 2), 0.5)
        assert torch.equal(rows.weight, before - 0.5 * torch.tensor([[1.0, 1], [0, 0], [1, 1]]))
        assert not rows.gradWeight.any()


def test_numbers_of_numpy_are_settings() -> None:
    size: Any = np.int64(3)
    layer = nn.SpatialConvolution(size // 3, 2, size, size)
    assert layer.forward(torch.ones(1, 1, 5, 5)).shape == (1, 2, 3, 3)
    assert layer.to_lua()["kW"] == 3


def test_a_deleted_model_occupies_no_memory() -> None:
    def used() -> ReferenceType[Any]:
        net, x = nn.Sequential().add(Doubled(3, 3)).add(nn.Tanh()), torch.ones(1, 3)
        net.backward(x, net.forward(x))
        return ref(net)

    used()  # imports
    gc.disable()
    try:
        assert used()() is None
    finally:
        gc.enable()


def test_a_layer_runs_after_its_model_was_deleted() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    net = nn.Sequential().add(layer).add(Damped())
    net.forward(x)
    del net
    torch.testing.assert_close(layer.backward(x, torch.ones(1, 2)), layer.weight.sum(0, keepdim=True))
