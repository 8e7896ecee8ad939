"""Sparse inputs: gradients in Torch7's own form, and inputs as PyTorch users have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

from dpnn_bridge import read_t7, to_torch
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.facebook.softmax import HSM
from dpnn_bridge.modules.facebook.sparse import SegSparseLinear
from dpnn_bridge.modules.nn.criterion_margin import ClassSimplexCriterion
from dpnn_bridge.modules.nn.sparse import IndexLinear, SparseLinear, running_maximum


def backpropagated(entry: dict[str, Any]) -> tuple[Any, torch.nn.Module, Any]:
    """A fixture, its module and its input after forward and backward."""
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    input = nested.require_grad(to_value(fixture["input"]))
    nested.backward(module(input), to_value(fixture["gradOutput"]))
    return fixture, module, input


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = 1e-10 if expected.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def with_backward(name: str, part: str = "") -> list[dict[str, Any]]:
    return [
        e for e in manifest(**{"class": name}) if part in e["name"] and "gradOutput" in read_t7(FIXTURES / e["file"])
    ]


@pytest.mark.parametrize("entry", with_backward("nn.SparseLinear", "dogradinput"), ids=fixture_id)
def test_values_of_sparse_linear_receive_torch7s_gradient_at_their_index(entry: dict[str, Any]) -> None:
    fixture, _, input = backpropagated(entry)
    for sample, dense in zip(input, to_value(fixture["gradInput"]), strict=True):
        assert not sample.grad[:, 0].any()
        assert_close(sample.grad[:, 1], dense[sample[:, 0].long() - 1, 1])


@pytest.mark.parametrize("entry", with_backward("nn.IndexLinear", "dogradinput"), ids=fixture_id)
def test_values_of_index_linear_receive_torch7s_gradient_at_their_key(entry: dict[str, Any]) -> None:
    fixture, module, (keys, values) = backpropagated(entry)
    assert isinstance(module, IndexLinear)
    dense = to_value(fixture["gradInput"])[1]
    if isinstance(keys, torch.Tensor):
        keys, values, dense = [keys], [values], [dense]
    for k, v, d in zip(keys, values, dense, strict=True):
        assert_close(v.grad, d[k + module.offset])


@pytest.mark.parametrize("entry", with_backward("nn.IndexLinear"), ids=fixture_id)
def test_gradient_of_index_linear_is_the_sum_of_torch7s_rows(entry: dict[str, Any]) -> None:
    fixture, module, _ = backpropagated(entry)
    assert isinstance(module, IndexLinear)
    running = to_value(fixture["gradParams"][1])
    rows, (grads,) = running["keys"][0] + module.offset, running["gradWeight"]
    expected = torch.zeros_like(module.weight)
    if module.normalize:
        per_key, per_value = grads.chunk(2, 1)
        expected[:, 4:].index_add_(0, rows, per_value)
        expected[:, 3].index_add_(0, rows, (per_key * module.weight[rows, 4:].detach()).sum(1))
    else:
        expected.index_add_(0, rows, grads)
    assert module.weight.grad is not None
    assert_close(module.weight.grad, expected)


def test_sparse_linear_takes_torchs_sparse_tensors() -> None:
    module = SparseLinear(4, 3)
    dense = torch.tensor([[0.0, 2, 0, 0], [1, 0, 0, 3], [0, 0, 0, 0]])
    expected = torch.nn.functional.linear(dense, module.weight, module.bias)
    torch.testing.assert_close(module(dense.to_sparse()), expected)
    torch.testing.assert_close(module(dense.to_sparse_csr()), expected)
    entries = [torch.tensor([[2.0, 2]]), torch.tensor([[1.0, 1], [4, 3]]), torch.empty(0, 2)]
    torch.testing.assert_close(module(entries), expected)


def test_indices_count_from_zero_when_asked() -> None:
    torch.manual_seed(0)
    one, zero = SparseLinear(4, 3), SparseLinear(4, 3, index_base=0)
    zero.load_state_dict(one.state_dict())
    torch.testing.assert_close(zero(torch.tensor([[1.0, 2]])), one(torch.tensor([[2.0, 2]])))
    keys, values = torch.tensor([2, 3]), torch.tensor([0.5, 1])
    one, zero = IndexLinear(4, 3), IndexLinear(4, 3, index_base=0)
    torch.nn.init.normal_(one.weight)
    zero.load_state_dict(one.state_dict())
    torch.testing.assert_close(zero([keys - 1, values]), one([keys, values]))


def test_running_maximum_restarts_with_each_key() -> None:
    keys = torch.tensor([1, 2, 1, 1, 2, 2, 1])
    values = torch.tensor([3.0, 1, 2, 5, 4, 3, 1])
    assert running_maximum(keys, values).tolist() == [3, 1, 3, 5, 4, 4, 5]


def test_normalization_divides_by_the_largest_value_so_far() -> None:
    module = IndexLinear(2, 1, normalize=True)
    with torch.no_grad():
        module.weight[:, 4] = 1
    keys, values = torch.tensor([1, 1, 1, 2]), torch.tensor([2.0, 1, -4, 3])
    output = module([keys, values, torch.tensor([1, 1, 1, 1])])
    assert output.flatten().tolist() == [1, 0.5, -1, 1]
    assert module.weight[:, :3].tolist() == [[4, 0.25, 1], [3, pytest.approx(1 / 3), 1]]
    module.eval()
    assert module([torch.tensor([1, 1]), torch.tensor([8.0, 2]), torch.tensor([1, 1])]).flatten().tolist() == [1, 0.5]


ONE = torch.tensor([1.0])
MAPPING = torch.tensor([[1, 1], [1, 2], [2, 1], [2, 2]])


@pytest.mark.parametrize("index", [0, 5])
@pytest.mark.parametrize(
    "run",
    [
        lambda i: SparseLinear(4, 2)(torch.tensor([[i, 1.0]])),
        lambda i: IndexLinear(4, 2)([torch.tensor([i]), ONE]),
        lambda i: IndexLinear(4, 2, normalize=True)([torch.tensor([i]), ONE]),
        lambda i: SegSparseLinear(4, 2)([ONE, torch.tensor([i]), ONE]),
        lambda i: HSM(MAPPING, 3)(torch.zeros(1, 3), i),
        lambda i: ClassSimplexCriterion(4)(torch.zeros(2, 4), torch.tensor([1, i])),
    ],
)
def test_an_index_before_the_first_is_not_the_last(run: Any, index: int) -> None:
    with pytest.raises(IndexError, match=r"indices start at 1, as in Lua, and end at 4; index_base=0 \(--index"):
        run(index)


def test_the_index_of_a_zero_is_not_looked_at() -> None:
    """As in THNN, so that rows may be filled up with zeros."""
    layer = SparseLinear(5, 2)
    padded = layer(torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    assert torch.equal(padded, layer(torch.tensor([[2.0, 1.0]])))
