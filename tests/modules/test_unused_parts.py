"""What SelectTable and NarrowTable leave out gets a gradient of zeros in Torch7, to which some layers add theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge import training
from dpnn_bridge.modules.dpnn.kmeans import Kmeans
from dpnn_bridge.modules.dpnn.reinforce_continuous import ReinforceNormal
from dpnn_bridge.modules.nn.container import ConcatTable
from dpnn_bridge.modules.nn.passthrough import L1Penalty
from dpnn_bridge.modules.nn.table import NarrowTable, SelectTable
from dpnn_bridge.modules.rnn.recurrence import NormStabilizer
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.torch7 import gradient

X = torch.randn(2, 3).double()


def linear() -> nn.Linear:
    return nn.Linear(3, 3).double()


def unused(*modules: nn.Module) -> ConcatTable:
    return ConcatTable(nn.Sequential(*modules), linear())


def gradients(model: nn.Module, input: Any = X) -> list[Tensor | None]:
    output = model(input)
    output = output[0] if isinstance(output, list) else output
    output.square().sum().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("select", [SelectTable(2), SelectTable(-1), NarrowTable(2)], ids=repr)
def test_a_penalty_counts_in_a_branch_that_nothing_uses(select: nn.Module) -> None:
    model = nn.Sequential(unused(layer := linear(), L1Penalty(0.3)), select)
    weight, *_ = gradients(model)
    (expected,) = torch.autograd.grad(0.3 * layer(X).abs().sum(), layer.weight)
    torch.testing.assert_close(weight, expected)


def test_a_penalty_counts_in_a_nested_table_that_nothing_uses() -> None:
    inner = ConcatTable(linear(), nn.Sequential(layer := linear(), L1Penalty(0.3)))
    gradients(nn.Sequential(ConcatTable(inner, linear()), SelectTable(2)))
    (expected,) = torch.autograd.grad(0.3 * layer(X).abs().sum(), layer.weight)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_a_part_that_is_a_table_brings_the_penalty_of_the_others() -> None:
    both = ConcatTable(linear(), linear())
    gradients(nn.Sequential(ConcatTable(nn.Sequential(layer := linear(), L1Penalty(0.3)), both), SelectTable(2)))
    (expected,) = torch.autograd.grad(0.3 * layer(X).abs().sum(), layer.weight)
    torch.testing.assert_close(layer.weight.grad, expected)


@pytest.mark.parametrize("index", [1, 2, -1])
def test_the_norms_of_all_time_steps_are_penalized(index: int) -> None:
    steps = torch.randn(4, 2, 3).double()
    layer = linear()
    gradients(nn.Sequential(Sequencer(nn.Sequential(layer, NormStabilizer(beta=0.5))), SelectTable(index)), [*steps])
    hidden = layer(steps)
    norms = hidden.norm(dim=2)
    loss = (
        hidden[index if index < 0 else index - 1].square().sum() + 0.5 * (norms[1:] - norms[:-1]).square().mean(1).sum()
    )
    (expected,) = torch.autograd.grad(loss, layer.weight)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_a_reward_counts_in_a_branch_that_nothing_uses() -> None:
    model = nn.Sequential(unused(layer := linear(), ReinforceNormal(0.5)), SelectTable(2))
    output = model(X)
    training.reinforce(model, torch.tensor([1.0, -1.0]).double())
    output.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.any()


def test_centroids_move_in_a_branch_that_nothing_uses() -> None:
    model = nn.Sequential(ConcatTable(centroids := Kmeans(2, 3).double(), linear()), SelectTable(2))
    gradients(model)
    assert centroids.weight.grad is not None
    assert centroids.weight.grad.any()


def test_other_branches_stay_without_gradient_and_in_their_memory() -> None:
    model = nn.Sequential(unused(linear(), nn.Tanh()), SelectTable(2), nn.ReLU(inplace=True))
    assert gradients(model)[:2] == [None, None]
    table = model[0](X)
    assert model[1](table) is table[1]


def test_a_layer_in_place_after_the_selection() -> None:
    """It may change what it gets, and another one in place may have changed the dropped part since."""
    dropped = nn.Sequential(layer := linear(), L1Penalty(0.3))
    model = nn.Sequential(ConcatTable(dropped, linear()), SelectTable(2), nn.ReLU(inplace=True))
    gradients(model)
    (expected,) = torch.autograd.grad(0.3 * layer(X).abs().sum(), layer.weight)
    torch.testing.assert_close(layer.weight.grad, expected)
    part, other = L1Penalty(0.3)(hidden := linear()(X)).mul(1.0), linear()(X)
    kept = SelectTable(2)([part, other])
    part.mul_(2)
    kept.sum().backward()
    assert hidden.grad_fn is not None


def test_a_penalty_counts_beside_kept_indices() -> None:
    model = nn.Sequential(ConcatTable(nn.Sequential(layer := linear(), L1Penalty(0.3)), nn.Identity(), linear()))
    kept = NarrowTable(2, 2)(model(X.clone().requires_grad_()))
    kept[1].sum().backward()  # the first tensor leads nowhere, as an index
    (expected,) = torch.autograd.grad(0.3 * layer(X).abs().sum(), layer.weight)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_operations_without_additions_are_visited_once() -> None:
    """A walk from every time step back to the start of the sequence would be quadratic."""
    hidden = linear()(X).tanh()
    SelectTable(1)([X, hidden])
    assert hidden.grad_fn is not None
    before = hidden.grad_fn.next_functions[0][0]
    assert before is not None
    assert hidden.grad_fn.metadata[gradient._ADDS] is before.metadata[gradient._ADDS] is False
