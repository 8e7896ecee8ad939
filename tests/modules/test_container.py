"""What containers do beyond running their members in order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from formula import lua
from torch import nn

from dpnn_bridge import parity, read_t7, to_lua, to_torch, training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.dpnn.category import ArgMax
from dpnn_bridge.modules.dpnn.convert import Collapse
from dpnn_bridge.modules.nn.affine import Add, CAdd, CMul
from dpnn_bridge.modules.nn.arithmetic import MixtureTable
from dpnn_bridge.modules.nn.bottle import Bottle
from dpnn_bridge.modules.nn.container import MapTable, Parallel
from dpnn_bridge.modules.nn.padding import Padding
from dpnn_bridge.modules.nn.pairwise import CosineDistance, DotProduct, Index, PairwiseDistance
from dpnn_bridge.modules.nn.reduction import Max, Min, Sum
from dpnn_bridge.modules.nn.reshape import Narrow, Select, Squeeze, Transpose, Unsqueeze, View
from dpnn_bridge.modules.nn.table import JoinTable, SplitTable
from dpnn_bridge.modules.rnn.sequencer import SeqReverseSequence

WEIGHT_ONLY = [e for e in manifest(kind="module") if e["name"].startswith("Sequential__net_siamese_weightonly")]


@pytest.mark.parametrize("entry", WEIGHT_ONLY, ids=fixture_id)
def test_branches_that_share_weights_have_the_sum_of_torch7s_gradients(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    nested.backward(module(to_value(fixture["input"])), to_value(fixture["gradOutput"]))
    grads, expected = training.parameters(module)[1], to_value(fixture["gradParams"])
    half = len(expected) // 2
    sums = [a + b for a, b in zip(expected[:half], expected[half:], strict=True)]
    assert all(d.ok for d in parity.compare("sums", grads[:half], sums))
    assert all(d.ok for d in parity.compare("again", grads[half:], sums))


def test_map_table_clones_share_parameters_but_not_statistics() -> None:
    module = MapTable(nn.BatchNorm1d(3))
    module([torch.randn(4, 3), torch.randn(4, 3)])
    assert len(module) == 2
    first, second = (dict(m.named_parameters()) for m in module)
    assert all(p is second[name] for name, p in first.items())
    assert not torch.equal(module.get_buffer("0.running_mean"), module.get_buffer("1.running_mean"))


def test_map_table_without_sharing_has_independent_clones() -> None:
    module = MapTable(nn.Linear(3, 2), shared=False)
    module.resize(2)
    first, second = module.get_parameter("0.weight"), module.get_parameter("1.weight")
    assert first is not second
    assert torch.equal(first, second)


def test_parallel_refuses_more_slices_than_members() -> None:
    module = Parallel(nn.Linear(3, 2), input_dimension=1, output_dimension=1)
    with pytest.raises(ValueError, match="expected at most 1 slices along dimension 1, one per module, found 2"):
        module(torch.zeros(2, 3))


def test_bottle_refuses_an_unexpected_number_of_dimensions() -> None:
    with pytest.raises(ValueError, match="output with 2 dimensions"):
        Bottle(nn.Flatten(0))(torch.zeros(2, 3, 4))


# ---------------------------------------------------------------------- nothing in tables and tensors
def test_joining_nothing_gives_a_tensor_without_elements() -> None:
    assert JoinTable(2)([]).shape == (0,)


@pytest.mark.parametrize("layer", [JoinTable(-1), JoinTable(1, 1)], ids=str)
def test_an_empty_table_does_not_tell_the_dimension(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="found an empty list"):
        layer([])


@pytest.mark.parametrize(
    "layer",
    [JoinTable(1), JoinTable(2), JoinTable(-1), DotProduct(), CosineDistance(), PairwiseDistance(), MixtureTable()],
    ids=str,
)
def test_tensors_without_elements_have_no_dimensions(layer: nn.Module) -> None:
    """Torch7 raises for them all."""
    for pair in ([torch.empty(0), torch.empty(0)], [torch.empty(0), torch.randn(2, 3)]):
        with pytest.raises(ValueError, match=r"no dimensions|cannot be concatenated"):
            layer(pair)


def test_a_tensor_without_elements_is_not_split() -> None:
    with pytest.raises(ValueError, match="no dimensions"):
        SplitTable(1)(torch.empty(0))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Bottle(nn.Linear(4, 3)), (0, 5, 4)),
        (Bottle(nn.Linear(4, 3)), (2, 0, 4)),
        (CMul(3, 4), (0, 3, 4)),
        (CAdd(12), (0, 3, 4)),
        (Add(12), (0, 3, 4)),
        (View(-1, num_input_dims=2), (0, 3, 4)),
        (View(-1, 2, num_input_dims=2), (0, 3, 4)),
        (Collapse(2), (0, 3, 4)),
    ],
)
def test_an_empty_batch_has_the_shape_of_a_batch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    batch = layer(torch.randn([n or 6 for n in shape])).shape
    expected = [0 if n == 0 else full for n, full in zip(shape, batch, strict=False)]
    assert list(layer(torch.empty(shape)).shape) == [*expected, *batch[len(expected) :]]


@pytest.mark.parametrize(
    "layer",
    [
        Select(0, 1), Select(1, 0), Select(-3, 1), Narrow(0, 1), Sum(0), Max(0), Min(-3), SplitTable(0), Squeeze(0),
        Unsqueeze(0), Transpose((0, 1)), SeqReverseSequence(0), Padding(0, 1), ArgMax(0),
        Parallel(nn.Identity(), input_dimension=0, output_dimension=1),
    ],
    ids=repr,
)  # fmt: skip
def test_dimensions_and_positions_count_from_one(layer: nn.Module) -> None:
    with pytest.raises(IndexError, match="expected a"):
        layer(torch.randn(2, 1))


def test_a_position_before_those_of_one_sample_is_among_the_dimensions_of_the_batch() -> None:
    """The numbers of Torch7: it adds the number of the batch dimensions before it checks the position."""
    assert Unsqueeze(-1, num_input_dims=1)(torch.zeros(2, 3, 4)).shape == (1, 2, 3, 4)
    assert Unsqueeze(0, num_input_dims=1)(torch.zeros(2, 3, 4)).shape == (2, 1, 3, 4)


def test_other_lists_count_from_one() -> None:
    for layer, input in ((JoinTable(0), [torch.randn(2, 3)]), (Index(0), [torch.randn(2, 3), torch.tensor([1])])):
        with pytest.raises(IndexError, match="expected a dimension counted from 1"):
            layer(input)


def test_a_used_mixture_marks_no_buffer_as_current() -> None:
    """Until 2017 Torch7 resized its buffers only for another batch size; a written file has empty ones."""
    written = to_lua(to_torch(lua("nn.MixtureTable", dimG=2, table=True, batchSize=3, backwardSetup=True)))
    assert [written[name] for name in ("batchSize", "backwardSetup")] == [0, False]


@pytest.mark.parametrize("shared", [True, False])
def test_a_map_table_gets_as_many_clones_as_the_state_that_it_loads(shared: bool) -> None:
    fresh, used = (nn.Sequential(MapTable(nn.Linear(3, 2), shared=shared)) for _ in range(2))
    x = [torch.randn(2, 3) for _ in range(3)]
    used(x)
    for loaded, state in ((fresh, used), (used, nn.Sequential(MapTable(nn.Linear(3, 2), shared=shared)))):
        loaded.load_state_dict(state.state_dict())
        assert len(loaded.state_dict()) == len(state.state_dict())
        torch.testing.assert_close(loaded(x), state(x))
        assert len(list(loaded.parameters())) == (2 if shared else 6)
