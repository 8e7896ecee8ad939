"""Every class of ``torch.legacy.nn``, made with its constructor: outputs, derivatives, types, states, files.

The classes and arguments are those that PyTorch 0.4's own tests of ``torch.legacy.nn`` had.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpnn_bridge import load, save, write_t7
from dpnn_bridge.compare.nested import leaves
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.legacy import load_lua, nn
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.objects import LuaObject, LuaTable

STEP = 1e-6


class Case(NamedTuple):
    """A module with one input.

    Attributes:
        make: makes the module.
        input: size of the input, a list of sizes, or a function that makes it.
        expected: the output for the input, where PyTorch has a function for it.
        smooth: whether the gradient is the derivative.
    """

    make: Callable[[], Any]
    input: Any
    expected: Callable[..., Any] | None = None
    smooth: bool = True


def of(kind: Any, *args: Any, input: Any, expected: Any = None, smooth: bool = True) -> Case:
    return Case(lambda: kind(*args), input, expected, smooth)


def unpooling(pooling: Any, unpooling: Any, *sizes: int) -> Any:
    pool = pooling(*sizes)
    return nn.Sequential().add(pool).add(unpooling(pool))


CASES = {
    "Abs": of(nn.Abs, input=(3, 20, 5), expected=torch.abs),
    "Add": of(nn.Add, torch.Size([5, 4]), input=(3, 5, 4)),
    "Add scalar": of(nn.Add, 1, True, input=(3, 1, 4)),
    "AddConstant": of(nn.AddConstant, 3.5, input=(3, 5, 4), expected=lambda x: x + 3.5),
    "BatchNormalization": of(nn.BatchNormalization, 10, input=(4, 10)),
    "BatchNormalization plain": of(nn.BatchNormalization, 10, 1e-3, 0.3, False, input=(4, 10)),
    "SpatialBatchNormalization": of(nn.SpatialBatchNormalization, 3, 1e-3, 0.8, input=(2, 3, 6, 6)),
    "VolumetricBatchNormalization": of(nn.VolumetricBatchNormalization, 3, input=(2, 3, 4, 4, 4)),
    "Bilinear": of(nn.Bilinear, 2, 3, 10, input=[(4, 2), (4, 3)]),
    "CAddTable": of(nn.CAddTable, input=[(5, 7)] * 2, expected=lambda x: x[0] + x[1]),
    "CDivTable": of(nn.CDivTable, input=lambda: [torch.randn(1, 7), torch.rand(1, 7) + 0.1]),
    "CMul": of(nn.CMul, 5, 6, input=(10, 5, 6)),
    "CMul single": of(nn.CMul, 50, 4, input=(1, 50, 4)),
    "CMul strided": of(nn.CMul, 1, 5, input=lambda: torch.randn(10, 3, 5)[:, 1]),
    "CMulTable": of(nn.CMulTable, input=[(5, 7)] * 2, expected=lambda x: x[0] * x[1]),
    "CSubTable": of(nn.CSubTable, input=[(5, 7)] * 2, expected=lambda x: x[0] - x[1]),
    "Clamp": of(nn.Clamp, -2.0, 5.0, input=lambda: torch.randn(3, 2, 50) * 6, expected=lambda x: x.clamp(-2, 5)),
    "Concat": of(lambda: nn.Concat(1).add(nn.Linear(4, 2)).add(nn.Linear(4, 3)), input=(5, 4)),
    "ConcatTable": of(lambda: nn.ConcatTable().add(nn.Tanh()).add(nn.Linear(4, 3)), input=(5, 4)),
    "Contiguous": of(nn.Contiguous, input=lambda: torch.randn(4, 3).t(), expected=lambda x: x),
    "Copy": of(nn.Copy, torch.DoubleTensor, torch.DoubleTensor, input=(2, 3), expected=lambda x: x),
    "Cosine": of(nn.Cosine, 5, 7, input=(10, 5)),
    "CosineDistance": of(nn.CosineDistance, input=[(10, 4)] * 2, expected=lambda x: F.cosine_similarity(*x)),
    "DepthConcat": of(
        lambda: nn.DepthConcat(1).add(nn.SpatialConvolution(3, 2, 1, 1)).add(nn.SpatialConvolution(3, 2, 3, 3)),
        input=(2, 3, 6, 6),
    ),
    "DotProduct": of(nn.DotProduct, input=[(10, 4)] * 2, expected=lambda x: (x[0] * x[1]).sum(1)),
    "ELU": of(nn.ELU, 2.0, input=(3, 2, 5), expected=lambda x: F.elu(x, 2.0)),
    "Euclidean": of(nn.Euclidean, 5, 7, input=(10, 5)),
    "Exp": of(nn.Exp, input=(2, 3, 4), expected=torch.exp),
    "FlattenTable": of(lambda: nn.Sequential().add(nested()).add(nn.FlattenTable()), input=(3, 4)),
    "GradientReversal": of(
        lambda: nn.Sequential().add(nn.GradientReversal()).add(nn.GradientReversal()), input=(4, 3, 2, 2)
    ),
    "HardShrink": of(nn.HardShrink, 2.0, input=(4, 3, 2, 4), expected=lambda x: F.hardshrink(x, 2.0)),
    "HardTanh": of(nn.HardTanh, input=(3, 2, 5), expected=lambda x: x.clamp(-1, 1)),
    "Identity": of(nn.Identity, input=(4, 3, 2, 4), expected=lambda x: x),
    "Index": of(
        nn.Index, 0, input=lambda: [torch.randn(4, 2), torch.tensor([0, 1, 1, 3])], expected=lambda x: x[0][x[1]]
    ),
    "JoinTable first": of(nn.JoinTable, 0, input=[(10, 4)] * 2, expected=lambda x: torch.cat(x, 0)),
    "JoinTable third": of(nn.JoinTable, 2, input=[(2, 4, 2)] * 2, expected=lambda x: torch.cat(x, 2)),
    "JoinTable last": of(nn.JoinTable, -1, input=[(2, 4, 2, 4)] * 2, expected=lambda x: torch.cat(x, 3)),
    "L1Penalty": of(nn.L1Penalty, 1, input=(2, 10), expected=lambda x: x, smooth=False),
    "LeakyReLU": of(nn.LeakyReLU, 0.5, input=(3, 2, 5), expected=lambda x: F.leaky_relu(x, 0.5)),
    "Linear": of(nn.Linear, 10, 8, input=(4, 10)),
    "Linear plain": of(nn.Linear, 10, 8, False, input=(4, 10)),
    "Log": of(nn.Log, input=lambda: torch.rand(2, 3, 2) + 0.1, expected=torch.log),
    "LogSigmoid": of(nn.LogSigmoid, input=(2, 3, 4), expected=F.logsigmoid),
    "LogSoftMax": of(nn.LogSoftMax, input=(10, 20), expected=lambda x: F.log_softmax(x, 1)),
    "LogSoftMax dim": of(nn.LogSoftMax, 0, input=(10, 20), expected=lambda x: F.log_softmax(x, 0)),
    "LookupTable": of(nn.LookupTable, 4, 3, input=lambda: torch.tensor([[0, 1, 3], [1, 0, 2]])),
    "MM": of(nn.MM, input=[(4, 5, 3), (4, 3, 2)], expected=lambda x: x[0] @ x[1]),
    "MM transposed": of(nn.MM, True, True, input=[(4, 3, 5), (4, 2, 3)], expected=lambda x: x[0].mT @ x[1].mT),
    "MV": of(nn.MV, input=[(4, 5, 3), (4, 3)], expected=lambda x: (x[0] @ x[1][..., None])[..., 0]),
    "MaskedSelect": of(
        nn.MaskedSelect, input=lambda: [torch.randn(4, 5), torch.eye(4, 5).byte()], expected=lambda x: x[0].diagonal()
    ),
    "Max": of(nn.Max, input=(4, 5, 3), expected=lambda x: x.amax(0)),
    "Max second": of(nn.Max, 1, input=(4, 5, 3), expected=lambda x: x.amax(1)),
    "Mean": of(nn.Mean, 1, input=(2, 4, 5), expected=lambda x: x.mean(1)),
    "Min": of(nn.Min, 1, input=(4, 5, 3), expected=lambda x: x.amin(1)),
    "MixtureTable": of(nn.MixtureTable, input=[(5, 3), (5, 3, 6)], expected=lambda x: (x[0][..., None] * x[1]).sum(1)),
    "Mul": of(nn.Mul, input=(2, 3, 4, 2)),
    "MulConstant": of(nn.MulConstant, 4, input=(2, 3, 4, 2), expected=lambda x: x * 4),
    "Narrow": of(nn.Narrow, 1, 1, 2, input=(2, 3, 4, 2), expected=lambda x: x[:, 1:3]),
    "NarrowTable": of(nn.NarrowTable, 1, 2, input=[(2,), (3,), (4,), (5,)], expected=lambda x: x[1:3]),
    "Normalize": of(nn.Normalize, 1.5, input=(4, 5), expected=lambda x: F.normalize(x, 1.5)),
    "PReLU": of(nn.PReLU, input=(2, 3, 4), expected=lambda x: F.leaky_relu(x, 0.25)),
    "PReLU planes": of(nn.PReLU, 3, input=(2, 3, 4, 4), expected=lambda x: F.leaky_relu(x, 0.25)),
    "Padding": of(nn.Padding, 0, 2, -10, 1, input=(2, 3, 4, 5)),
    "Padding front": of(nn.Padding, 0, -2, -10, input=(2, 3), expected=lambda x: F.pad(x, (0, 0, 2, 0), value=-10)),
    "PairwiseDistance": of(nn.PairwiseDistance, 2, input=[(4, 10)] * 2, expected=lambda x: (x[0] - x[1]).norm(2, 1)),
    "Parallel": of(lambda: nn.Parallel(1, 1).add(nn.Linear(4, 2)).add(nn.Linear(4, 3)), input=(5, 2, 4)),
    "ParallelTable": of(lambda: nn.ParallelTable().add(nn.Tanh()).add(nn.Linear(4, 3)), input=[(2, 3), (5, 4)]),
    "PartialLinear": of(nn.PartialLinear, 5, 6, input=(4, 5)),
    "PartialLinear columns": of(lambda: nn.PartialLinear(5, 6).setPartition(torch.tensor([2.0, 4])), input=(4, 5)),
    "Power": of(nn.Power, 1.5, input=lambda: torch.rand(3, 4, 5) + 0.1, expected=lambda x: x**1.5),
    "ReLU": of(nn.ReLU, input=(2, 3, 4, 5), expected=torch.relu),
    "ReLU6": of(nn.ReLU6, input=(2, 3, 4, 5), expected=F.relu6),
    "Replicate": of(nn.Replicate, 2, 1, input=(10, 3, 4), expected=lambda x: torch.stack([x, x], 1)),
    "Reshape": of(nn.Reshape, 4, 5, input=(3, 20), expected=lambda x: x.view(3, 4, 5)),
    "Reshape flat": of(nn.Reshape, 20, input=(3, 4, 5), expected=lambda x: x.view(3, 20)),
    "Select": of(nn.Select, 1, 2, input=(3, 4, 5), expected=lambda x: x[:, 2]),
    "SelectTable": of(nn.SelectTable, 1, input=[(1,), (2,), (3,), (4,)], expected=lambda x: x[1]),
    "Sigmoid": of(nn.Sigmoid, input=(2, 3, 4), expected=torch.sigmoid),
    "SoftMax": of(nn.SoftMax, input=(10, 20), expected=lambda x: F.softmax(x, 1)),
    "SoftMax dim": of(nn.SoftMax, 1, input=(2, 3, 4), expected=lambda x: F.softmax(x, 1)),
    "SoftMin": of(nn.SoftMin, input=(10, 20), expected=lambda x: F.softmin(x, 1)),
    "SoftPlus": of(nn.SoftPlus, 2, input=(10, 20), expected=lambda x: F.softplus(x, 2)),
    "SoftShrink": of(nn.SoftShrink, 1, input=(3, 2, 5), expected=lambda x: F.softshrink(x, 1)),
    "SoftSign": of(nn.SoftSign, input=(3, 2, 5), expected=F.softsign),
    "SpatialAdaptiveMaxPooling": of(
        nn.SpatialAdaptiveMaxPooling, 4, 3, input=(2, 3, 7, 11), expected=lambda x: F.adaptive_max_pool2d(x, (3, 4))
    ),
    "SpatialAveragePooling": of(
        nn.SpatialAveragePooling, 2, 2, input=(2, 3, 6, 6), expected=lambda x: F.avg_pool2d(x, 2, 1)
    ),
    "SpatialAveragePooling padded": of(nn.SpatialAveragePooling, 2, 2, 2, 2, 1, 1, input=(2, 3, 6, 6)),
    "SpatialContrastiveNormalization": of(nn.SpatialContrastiveNormalization, 3, input=(2, 3, 8, 8)),
    "SpatialConvolution": of(nn.SpatialConvolution, 3, 4, 3, 2, 2, 1, 1, 0, input=(2, 3, 6, 6)),
    "SpatialConvolution plain": of(lambda: nn.SpatialConvolution(3, 4, 3, 3).noBias(), input=(2, 3, 6, 6)),
    "SpatialConvolutionLocal": of(nn.SpatialConvolutionLocal, 3, 2, 6, 6, 2, 2, 2, 2, 1, 1, input=(2, 3, 6, 6)),
    "SpatialConvolutionMap one": of(
        lambda: nn.SpatialConvolutionMap(nn.SpatialConvolutionMap.maps.oneToOne(3), 3, 3), input=(3, 5, 5)
    ),
    "SpatialConvolutionMap full": of(
        lambda: nn.SpatialConvolutionMap(nn.SpatialConvolutionMap.maps.full(3, 4), 3, 3, 2, 2), input=(3, 5, 5)
    ),
    "SpatialCrossMapLRN": of(nn.SpatialCrossMapLRN, 5, 5e-3, 1e-3, 2, input=(2, 3, 6, 6)),
    "SpatialDilatedConvolution": of(nn.SpatialDilatedConvolution, 3, 2, 3, 3, 2, 2, 1, 1, 2, 2, input=(2, 3, 8, 8)),
    "SpatialDivisiveNormalization": of(nn.SpatialDivisiveNormalization, 3, input=(2, 3, 8, 8)),
    "SpatialFullConvolution": of(nn.SpatialFullConvolution, 3, 4, 3, 3, 2, 2, 1, 1, 1, 1, input=(1, 3, 7, 7)),
    "SpatialFullConvolutionMap": of(
        lambda: nn.SpatialFullConvolutionMap(nn.SpatialConvolutionMap.maps.full(3, 4), 3, 3, 2, 2), input=(3, 5, 5)
    ),
    "SpatialLPPooling": of(nn.SpatialLPPooling, 3, 2, 2, 2, 2, 2, input=(1, 3, 7, 7)),
    "SpatialMaxPooling": of(
        nn.SpatialMaxPooling, 3, 3, 2, 2, 1, 1, input=(1, 3, 7, 7), expected=lambda x: F.max_pool2d(x, 3, 2, 1)
    ),
    "SpatialMaxPooling ceil": of(
        lambda: nn.SpatialMaxPooling(2, 2).ceil(),
        input=(1, 3, 7, 7),
        expected=lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    ),
    "SpatialMaxUnpooling": of(
        lambda: unpooling(nn.SpatialMaxPooling, nn.SpatialMaxUnpooling, 2, 2), input=(1, 3, 6, 6)
    ),
    "SpatialReflectionPadding": of(nn.SpatialReflectionPadding, 1, 2, 3, 4, input=(2, 3, 8, 8)),
    "SpatialReplicationPadding": of(nn.SpatialReplicationPadding, 1, 2, 3, 4, input=(2, 3, 4, 4)),
    "SpatialSoftMax": of(nn.SpatialSoftMax, input=(1, 3, 10, 20), expected=lambda x: F.softmax(x, 1)),
    "SpatialSubSampling": of(nn.SpatialSubSampling, 3, 3, 3, 2, 2, input=(1, 3, 7, 7)),
    "SpatialSubtractiveNormalization": of(nn.SpatialSubtractiveNormalization, 3, input=(1, 3, 7, 7)),
    "SpatialSubtractiveNormalization kernel": of(
        lambda: nn.SpatialSubtractiveNormalization(3, torch.rand(3)), input=(1, 3, 7, 7)
    ),
    "SpatialUpSamplingNearest": of(nn.SpatialUpSamplingNearest, 2, input=(1, 3, 4, 4)),
    "SpatialZeroPadding": of(
        nn.SpatialZeroPadding, 1, 2, 3, 4, input=(2, 3, 4, 4), expected=lambda x: F.pad(x, (1, 2, 3, 4))
    ),
    "SplitTable": of(nn.SplitTable, 1, input=(2, 3, 4), expected=lambda x: list(x.unbind(1))),
    "Sqrt": of(nn.Sqrt, input=lambda: torch.rand(10, 2, 4) + 0.01, expected=torch.sqrt),
    "Square": of(nn.Square, input=(10, 2, 4), expected=torch.square),
    "Squeeze": of(nn.Squeeze, input=(2, 1, 1, 4, 5), expected=torch.squeeze),
    "Squeeze dim": of(nn.Squeeze, 1, input=(2, 1, 1, 4, 5), expected=lambda x: x.squeeze(1)),
    "Sum": of(nn.Sum, 1, input=(2, 4, 5), expected=lambda x: x.sum(1)),
    "Sum average": of(nn.Sum, 1, True, input=(2, 4, 5), expected=lambda x: x.mean(1)),
    "Tanh": of(nn.Tanh, input=(2, 3, 4), expected=torch.tanh),
    "TanhShrink": of(nn.TanhShrink, input=(2, 3, 4), expected=F.tanhshrink),
    "TemporalConvolution": of(nn.TemporalConvolution, 4, 5, 3, 2, input=(2, 10, 4)),
    "TemporalMaxPooling": of(nn.TemporalMaxPooling, 4, input=(2, 10, 4)),
    "TemporalSubSampling": of(nn.TemporalSubSampling, 4, 3, 2, input=(10, 4)),
    "Threshold": of(nn.Threshold, 2, 1, input=(2, 3, 4, 5), expected=lambda x: F.threshold(x, 2, 1)),
    "Transpose": of(
        nn.Transpose, (1, 2), (1, 3), input=(2, 3, 4, 5), expected=lambda x: x.transpose(1, 2).transpose(1, 3)
    ),
    "Unsqueeze first": of(nn.Unsqueeze, 0, input=(2, 4, 5), expected=lambda x: x[None]),
    "Unsqueeze last": of(nn.Unsqueeze, 3, input=(2, 4, 5), expected=lambda x: x[..., None]),
    "View batch": of(nn.View, -1, 2, 20, input=(2, 2, 4, 5), expected=lambda x: x.view(-1, 2, 20)),
    "View split": of(nn.View, 2, 2, 2, 5, input=(2, 4, 5), expected=lambda x: x.view(2, 2, 2, 5)),
    "View middle": of(nn.View, 2, -1, 2, 5, input=(2, 4, 5), expected=lambda x: x.view(2, -1, 2, 5)),
    "VolumetricAveragePooling": of(
        nn.VolumetricAveragePooling, 2, 2, 2, input=(2, 3, 4, 4, 4), expected=lambda x: F.avg_pool3d(x, 2)
    ),
    "VolumetricAveragePooling padded": of(
        nn.VolumetricAveragePooling,
        *(2, 3, 3, 2, 2, 2, 1, 0, 1, True, False),
        input=(2, 3, 5, 6, 5),
        expected=lambda x: F.avg_pool3d(x, (2, 3, 3), 2, (1, 1, 0), ceil_mode=True, count_include_pad=False),
    ),
    "VolumetricConvolution": of(nn.VolumetricConvolution, 3, 4, 2, 2, 2, 2, 2, 2, 1, 1, 1, input=(2, 3, 5, 5, 5)),
    "VolumetricFullConvolution": of(nn.VolumetricFullConvolution, 2, 3, 2, 2, 2, input=(1, 2, 4, 4, 4)),
    "VolumetricMaxPooling": of(nn.VolumetricMaxPooling, 2, 2, 2, 2, 2, 2, 1, 1, 1, input=(2, 3, 5, 5, 5)),
    "VolumetricMaxPooling ceil": of(
        lambda: nn.VolumetricMaxPooling(2, 2, 2).ceil(),
        input=(2, 3, 5, 5, 5),
        expected=lambda x: F.max_pool3d(x, 2, ceil_mode=True),
    ),
    "VolumetricMaxUnpooling": of(
        lambda: unpooling(nn.VolumetricMaxPooling, nn.VolumetricMaxUnpooling, 2, 2, 2), input=(1, 2, 4, 4, 4)
    ),
    "VolumetricReplicationPadding": of(nn.VolumetricReplicationPadding, 1, 2, 3, 4, 5, 6, input=(1, 2, 3, 3, 3)),
    "WeightedEuclidean": of(nn.WeightedEuclidean, 5, 7, input=(10, 5)),
}

#: classes of random modules, and those that only hold or compare others
RANDOM = {"Dropout", "RReLU", "SpatialDropout", "SpatialFractionalMaxPooling", "VolumetricDropout"}
NOT_ALONE = {"Container", "Criterion", "CriterionTable", "Module", "Sequential"}


def nested() -> Any:
    return nn.ConcatTable().add(nn.Tanh()).add(nn.ConcatTable().add(nn.Exp()).add(nn.Identity()))


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    yield
    torch.set_default_dtype(before)


def made(size: Any) -> Any:
    if callable(size):
        return size()
    return [made(s) for s in size] if isinstance(size, list) else torch.randn(size)


def like(value: Any) -> Any:
    """Random numbers in the shape of a value."""
    return [like(v) for v in value] if isinstance(value, list) else torch.randn_like(value)


def dot(first: Any, second: Any) -> float:
    return sum(float((a * b).sum()) for a, b in zip(leaves(first), leaves(second), strict=True))


def assert_derivative(run: Callable[[], Any], variables: list[Tensor], gradients: list[Tensor], weights: Any) -> None:
    """Compares gradients with differences of the output along random directions."""
    for _ in range(2):
        directions = [torch.randn_like(v) for v in variables]
        values = []
        for sign in (1, -1):
            for v, d in zip(variables, directions, strict=True):
                v.add_(d, alpha=sign * STEP)
            values.append(dot(copy.deepcopy(run()), weights))
            for v, d in zip(variables, directions, strict=True):
                v.sub_(d, alpha=sign * STEP)
        expected = (values[0] - values[1]) / (2 * STEP)
        found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_all_classes_are_here() -> None:
    tested = {name.split()[0] for name in CASES} | RANDOM | NOT_ALONE
    criterions = {n for n, k in nn.CLASSES.items() if issubclass(k, nn.Criterion)}
    assert set(nn.CLASSES) - tested == criterions - {"Criterion"}
    assert len(nn.CLASSES) == 143


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_derivatives(name: str) -> None:
    case = CASES[name]
    module, value = case.make(), made(case.input)
    for set_mode in (module.training, module.evaluate):
        set_mode()
        output = module.forward(value)
        if case.expected is not None:
            for a, b in zip(leaves(output), leaves(case.expected(value)), strict=True):
                torch.testing.assert_close(a, b)
        weights = like(output)
        module.zeroGradParameters()
        gradient = module.backward(value, weights)
        inputs = [t for t in leaves(value) if t.is_floating_point()]
        if case.smooth:
            gradients = [g for g, t in zip(leaves(gradient), leaves(value), strict=True) if t.is_floating_point()]
            assert_derivative(lambda: module.forward(value), inputs, gradients, weights)
        parameters = module.parameters()
        if parameters is not None:
            assert_derivative(lambda: module.forward(value), *parameters, weights)


@pytest.mark.parametrize("name", CASES)
def test_types_states_and_files(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    module, value = case.make(), made(case.input)
    expected = module.forward(value)
    module.float().double()
    module.clearState()
    assert str(module) == repr(module)
    if name != "SpatialContrastiveNormalization":  # its tensors were rounded
        for a, b in zip(leaves(module.forward(value)), leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    expected = module.forward(value)
    if name in ("LogSoftMax dim", "SoftMax dim", "VolumetricAveragePooling padded"):
        with pytest.raises(ConversionError, match="Torch7 does not have it"):
            write_t7(tmp_path / "module.t7", module)
        again = copy.deepcopy(module)
    else:
        write_t7(tmp_path / "module.t7", module)
        again = load_lua(tmp_path / "module.t7")
    assert type(again) is type(module)
    save(tmp_path / "module.pt", module)
    converted = load(tmp_path / "module.pt", index_base=0)
    for other in (again.forward(value), converted(copy.deepcopy(value))):
        for a, b in zip(leaves(other), leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "size"), [(k, (2, 3, 6, 6)) for k in ("Dropout", "SpatialDropout", "RReLU")])
def test_noise(kind: str, size: tuple[int, ...]) -> None:
    module, value = nn.CLASSES[kind](), torch.randn(size)
    first = module.forward(value).clone()
    gradient = module.backward(value, torch.ones_like(value))
    torch.testing.assert_close(gradient * value, first)  # the same noise in both directions
    assert not torch.equal(module.forward(value), first)
    module.evaluate()
    assert torch.equal(module.forward(value), module.forward(value))


def test_dropout_does_not_scale_in_evaluation() -> None:
    module, value = nn.Dropout(0.3), torch.randn(4, 3)
    module.evaluate()
    assert torch.equal(module.forward(value), value)
    assert torch.equal(module.backward(value, value), value)


def test_the_gradient_is_reversed_and_scaled() -> None:
    module, value = nn.GradientReversal(0.25), torch.randn(4, 3)
    assert torch.equal(module.forward(value), value)
    assert torch.equal(module.backward(value, value), -0.25 * value)
    module.setLambda(2)
    module.forward(value)
    assert torch.equal(module.backward(value, value), -2 * value)


def test_files_have_the_current_version_of_a_class(tmp_path: Path) -> None:
    made = [nn.GradientReversal(0.5), nn.LookupTable(4, 3), nn.BatchNormalization(2), nn.Tanh()]
    write_t7(tmp_path / "made.t7", made)
    versions = [m.version for m in read_t7(tmp_path / "made.t7").as_list()]
    assert versions == [2, 4, 2, 1]
    old = LuaObject("nn.GradientReversal", LuaTable({"lambda": 0.5, "_type": "torch.FloatTensor"}))
    write_t7(tmp_path / "old.t7", old)
    module = load_lua(tmp_path / "old.t7")
    module.forward(torch.ones(2))
    assert torch.equal(module.backward(torch.ones(2), torch.ones(2)), -torch.ones(2))  # as Torch7 reads version 1
    module.setLambda(3)
    module.forward(torch.ones(2))
    assert torch.equal(module.backward(torch.ones(2), torch.ones(2)), torch.full((2,), -3.0))
    write_t7(tmp_path / "again.t7", module)
    assert read_t7(tmp_path / "again.t7").version == 2


def test_fractional_pooling_keeps_its_regions() -> None:
    module, value = nn.SpatialFractionalMaxPooling(2, 2, 0.5, 0.5), torch.randn(1, 3, 9, 9)
    assert module.forward(value).shape == (1, 3, 4, 4)
    assert nn.SpatialFractionalMaxPooling(2, 2, 4, 3).forward(value).shape == (1, 3, 3, 4)
