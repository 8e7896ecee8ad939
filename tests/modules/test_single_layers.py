"""Single layers of training code: values worked out, place by place, from the rule in their Lua source."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from formula import DOUBLE, agree, converted, leaf, lua, random
from torch import nn

import dpnn_bridge
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.modules.nn.linear import Cosine, Euclidean, PartialLinear
from dpnn_bridge.modules.nn.normalization import Normalize
from dpnn_bridge.modules.nn.padding import Padding
from dpnn_bridge.modules.nn.pairwise import PairwiseDistance
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.zoo.shake import MulConstantSlices
from dpnn_bridge.zoo.stereo import StereoJoin


@pytest.mark.parametrize(
    ("name", "fields", "gradient"),
    [
        ("nn.ReverseTensor", {"dim": 2, "bprop": True}, 1.0),
        ("nn.ReverseTensor", {"dim": 2, "bprop": False}, 0.0),
        ("nn.ReverseSequence", {"dim": 2}, 1.0),
    ],
)
def test_sequences_are_reversed(name: str, fields: dict[str, Any], gradient: float) -> None:
    module, x = converted(lua(name, **fields)), leaf(2, 3, 2)
    output, g = module(x), random(2, 3, 2, seed=1)
    agree(output, [[[float(x[n, 2 - t, d]) for d in range(2)] for t in range(3)] for n in range(2)])
    output.backward(g)
    assert x.grad is not None
    agree(x.grad, [[[gradient * float(g[n, 2 - t, d]) for d in range(2)] for t in range(3)] for n in range(2)])


def test_the_longest_sequence_of_a_newer_tardis_is_kept() -> None:
    places = torch.arange(1000, 0, -1, dtype=DOUBLE)
    written = to_lua(to_torch(lua("nn.ReverseTensor", dim=1, bprop=True, max_seq=1000, rev_index=places)))
    assert written["max_seq"] == 1000
    assert torch.equal(written["rev_index"].torch(), places)


def test_squeeze_leaves_one_dimension() -> None:
    assert converted(lua("nn.Squeeze"))(random(1, 1)).shape == (1,)
    assert converted(lua("nn.Squeeze", dim=1))(random(1)).shape == (1,)


@pytest.mark.parametrize("n_input_dim", [None, 2])
def test_padding_made_in_python_is_written_with_the_dimensions_of_a_sample(n_input_dim: int | None) -> None:
    assert to_lua(Padding(1, 2, n_input_dim=n_input_dim)).get("nInputDim") == n_input_dim


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [(StereoJoin(3), "direction", -1), (MulConstantSlices(torch.ones(2)), "inplace", False)],
    ids=["StereoJoin", "MulConstantSlices"],
)
def test_fields_that_never_vary_are_those_of_the_lua_source(module: nn.Module, field: str, value: Any) -> None:
    assert to_lua(module)[field] == value


def test_one_hot_rows_are_those_of_the_table() -> None:
    module = converted(lua("nn.LookupTableOneHot", eye=torch.eye(4, dtype=DOUBLE)))
    agree(module(torch.tensor([3, 1])), [[0, 0, 1, 0], [1, 0, 0, 0]])
    assert module(torch.tensor([[3.0, 1, 2]])).shape == (1, 3, 4)
    for index in (5, 0):
        with pytest.raises(IndexError, match=r"out of range.*: indices start at 1, as in Lua, and end at 4"):
            module(torch.tensor([index]))


def test_a_vector_is_divided_by_its_sum() -> None:
    module, x = converted(lua("nn.NormalizeBySum")), (random(4).abs() + 1).requires_grad_()
    g, total = random(4, seed=1), float(x.sum())
    module(x).backward(g)
    agree(module(x), [float(v) / total for v in x])
    assert x.grad is not None
    agree(x.grad, [float(g[i]) / total - sum(float(g[j] * x[j]) for j in range(4)) / total**2 for i in range(4)])


def test_a_global_sum_is_a_mean_for_all() -> None:
    module, x, g = converted(lua("nn.GlobalSum")), leaf(3, 2), random(3, 2, seed=1)
    module(x).backward(g)
    agree(module(x), [[sum(float(x[t, d]) for t in range(3)) / 3 for d in range(2)]] * 3)
    assert x.grad is not None
    agree(x.grad, [[sum(float(g[t, d]) for t in range(3)) / 3 for d in range(2)]] * 3)


def test_no_gradient_passes() -> None:
    module, x = converted(lua("nn.NoBP")), leaf(3)
    agree(module(x), x)
    module(x).sum().backward()
    assert x.grad is not None
    agree(x.grad, [0, 0, 0])


def test_one_number_is_learned() -> None:
    module, x, g = converted(lua("nn.MyMul", weight=torch.tensor([1.5], dtype=DOUBLE))), leaf(3), random(3, seed=1)
    module(x).backward(g)
    agree(module(x), [1.5 * float(v) for v in x])
    assert x.grad is not None
    agree(x.grad, 1.5 * g)
    slope = module.get_parameter("weight").grad
    assert slope is not None
    agree(slope, [float(x.detach() @ g)])


def test_noise_is_normal_and_of_training() -> None:
    module, x = converted(lua("nn.Noise", variance=0.5, active=True)), random(4000)
    noise = module(x) - x
    assert abs(float(noise.std()) - 0.5) < 0.05
    agree(module.eval()(x), x)
    assert not to_torch(lua("nn.Noise", variance=0.5, active=False)).training


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_constants_are_appended(shape: tuple[int, ...]) -> None:
    module, x = (
        converted(lua("nn.AppendConstant", constant_value=LuaTable.from_list([7, -1]), dimension=2)),
        leaf(*shape),
    )
    rows = x.detach().view(-1, 3).tolist()
    agree(module(x).view(-1, 5), [[*row, 7, -1] for row in rows])
    module(x).sum().backward()
    assert x.grad is not None
    agree(x.grad, torch.ones(shape))


def test_borders_are_repeated() -> None:
    module, x = converted(lua("nn.SpatialReplicatePadding", padH=1, padW=2)), random(2, 3, 4)
    places = [(min(max(i - 1, 0), 2), min(max(j - 2, 0), 3)) for i in range(5) for j in range(8)]
    agree(module(x), [[[float(x[c][places[8 * i + j]]) for j in range(8)] for i in range(5)] for c in range(2)])
    assert isinstance(to_lua(module)["padH"], (int, float))
    assert not isinstance(to_lua(module)["padH"], LuaTensor)


def test_cosine_consists_of_operations_of_pytorch() -> None:
    """TorchScript stores no function of Python, and vmap needs a rule for it."""
    module, x = Cosine(3, 2), torch.randn(4, 3)
    torch.jit.save(torch.jit.trace(module, (x,)), io.BytesIO())
    torch.testing.assert_close(torch.func.vmap(module)(x), module(x))


@pytest.mark.parametrize(
    "module",
    [*map(Normalize, (1.5, 2, float("inf"))), *map(PairwiseDistance, (2, 2.5, 3)), Cosine(3, 2), Euclidean(3, 2)],
    ids=str,
)
def test_second_derivatives_are_those_of_the_gradient(module: nn.Module) -> None:
    """A norm in the gradient is no constant of the second derivative."""
    paired = isinstance(module, PairwiseDistance)
    inputs = (leaf(2, 3), leaf(2, 3, seed=1)) if paired else (leaf(2, 3),)
    torch.autograd.gradgradcheck(lambda *x: module.double()(list(x) if paired else x[0]), inputs)


def test_a_partial_linear_layer_is_traced() -> None:
    """torch.jit.trace refuses a module with one buffer under two names, as Torch7 stores the partition."""
    path = FIXTURES / "nn" / "nn.PartialLinear" / "PartialLinear__full__double_train.t7"
    module = dpnn_bridge.load(path, key="module")
    assert isinstance(module, PartialLinear)
    input = torch.ones(2, module.weight.shape[1], dtype=module.weight.dtype)
    traced: Any = torch.jit.trace(module, input)
    torch.testing.assert_close(traced(input), module(input))
    written = to_lua(module)
    assert written["partition"] is written["allcolumns"], "as in Torch7"
