"""Layers written without an example: Torch7 computes the same for inputs with any number of dimensions, or refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_layers import LAYERS, WITH_EXAMPLE
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn import SelectTable
from dpnn_bridge.parity.torch7_jobs import class_names, job, run_jobs

#: layer, and shapes for which the written module computes the same
RIGHT: list[tuple[nn.Module, tuple[tuple[int, ...], ...]]] = [
    (nn.InstanceNorm1d(4, affine=True), ((4, 8), (4, 4), (3, 4, 6))),
    (nn.InstanceNorm2d(2, affine=True), ((2, 5, 8), (2, 2, 2), (4, 2, 5, 8))),
    (nn.InstanceNorm3d(4, affine=True), ((4, 5, 8, 3), (2, 4, 3, 2, 2))),
    (nn.ZeroPad1d(1), ((2, 3), (2, 4, 4), (2, 4, 4, 4), (2, 3, 2, 3, 4))),
    (nn.ConstantPad1d((1, 2), 0.3), ((2, 3), (2, 4, 4), (2, 4, 2, 6), (2, 3, 2, 3, 4))),
    (nn.ConstantPad1d((-1, 2), 0.3), ((2, 3), (2, 4, 4), (2, 4, 2, 6), (2, 3, 2, 3, 4))),
    (nn.ConstantPad2d((1, 0, 2, -1), 0.3), ((2, 4, 4), (2, 4, 4, 4), (2, 4, 3, 4, 4))),
    (nn.ConstantPad2d((-1, -1, 0, -1), 0.3), ((2, 4, 4), (2, 4, 4, 4), (2, 4, 3, 4, 4))),
    (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softmax(-2)), ((4, 3, 5), (2, 4, 3, 5))),
    (nn.Sequential(nn.LSTM(3, 4), SelectTable(1), nn.Linear(4, 2), nn.LogSoftmax(-1)), ((5, 2, 3), (4, 1, 3))),
    (nn.Sequential(nn.GRU(3, 4), SelectTable(1), nn.ReLU(), nn.Linear(4, 2)), ((5, 2, 3), (4, 1, 3))),
    (nn.AdaptiveAvgPool3d((2, None, 3)), ((4, 5, 5, 5), (2, 4, 5, 5, 5))),
    (nn.AdaptiveAvgPool3d(1), ((4, 5, 5, 5), (2, 4, 5, 5, 5), (2, 4, 5, 5, 5, 3))),
    (nn.AdaptiveMaxPool2d((None, 2)), ((4, 5, 5), (2, 4, 5, 5))),
    (nn.UpsamplingNearest2d(scale_factor=2), ((2, 4, 4, 4), (2, 4, 4, 4, 4))),
    (nn.ConstantPad3d((1, 0, 2, -1, -1, 1), 0.3), ((2, 4, 4, 4), (2, 4, 4, 4, 4), (2, 1, 4, 3, 4, 4))),
]


def prepared(layer: nn.Module) -> nn.Module:
    layer = copy.deepcopy(layer).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize(
    ("layer", "shapes"), RIGHT, ids=lambda value: str(value) if isinstance(value, nn.Module) else ""
)
def test_the_written_module_takes_any_number_of_dimensions(layer: nn.Module, shapes: Any) -> None:
    layer = prepared(layer)
    written = to_torch(to_lua(layer))
    for shape in shapes:
        torch.testing.assert_close(written(x := torch.randn(shape, dtype=torch.float64)), layer(x))


def _inputs(layer: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    """Inputs with other numbers of dimensions, of equal sizes too, that the layer of PyTorch accepts."""
    shapes = {shape[1:], shape[-2:], (1, *shape), (2, *shape), (*shape, 3), shape[:-1], (4,) * len(shape)}
    shapes |= {(4,) * n for n in (1, 2, 3, 4)} | {(2, *(4,) * n) for n in (2, 3, 4)}
    accepted = []
    for size in sorted(shapes - {shape, ()}):
        x = torch.rand(size, dtype=torch.float64) + 0.1
        try:
            layer(x)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            continue
        accepted.append(x)
    return accepted


def _has_gradient(layer: nn.Module) -> bool:
    """Whether Torch7 has a gradient in evaluation mode: not recurrent layers and dropout of channels."""
    without = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.GRU, nn.RNN)
    return not any(isinstance(m, without) for m in layer.modules())


def _is_documented(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layers before a LogSoftmax give the number of dimensions of a batch, and the input is one sample."""
    return isinstance(layer, nn.DataParallel) and x.dim() == 3


@pytest.mark.torch7
def test_torch7_computes_the_same_or_refuses(tmp_path: Path) -> None:
    jobs: list[Any] = []
    expected: list[tuple[nn.Module, Tensor, Tensor]] = []
    layers = [*LAYERS, *((layer, shape) for layer, shape, _ in WITH_EXAMPLE), *((m, s[0]) for m, s in RIGHT)]
    for i, (layer, shape) in enumerate(layers):
        layer = prepared(layer)
        try:
            obj = to_lua(layer, tensor_type="torch.DoubleTensor")
        except ConversionError:  # the layer needs an example
            continue
        dpnn_bridge.write_t7(file := tmp_path / f"{i}.t7", obj)
        for x in _inputs(layer, shape):
            if _is_documented(layer, x):
                continue
            y = layer(x.requires_grad_())
            y = y[0] if isinstance(y, tuple) else y
            gradient = torch.randn_like(y)
            (of_input,) = torch.autograd.grad(y, x, gradient, allow_unused=True, materialize_grads=True)
            values = {"input": lua_value(x.detach()), "gradOutput": lua_value(gradient)}
            jobs.append(job(file, class_names(obj), ("load", "forward", "zeroGradParameters", "backward"), **values))
            expected.append((layer, y.detach(), of_input))
    problems, right = [], 0
    for (layer, y, of_input), result in zip(expected, run_jobs(jobs), strict=True):
        if "error" in result["load"] and "killed" not in str(
            result["load"]["error"]
        ):  # some kernels write out of bounds
            problems.append(f"{layer}, {tuple(of_input.shape)}: {result['load']['error']}")
        if "forward" not in result or "error" in result["forward"]:
            continue
        for step, value in (("forward", y), ("backward", of_input)):
            if step == "backward" and not _has_gradient(layer):
                continue
            if "error" in result[step]:
                problems.append(f"{layer}, {tuple(of_input.shape)}, {step}: {result[step]['error'][-200:]}")
            elif (found := to_value(result[step]["value"])).shape != value.shape or not torch.allclose(
                found, value, 1e-6, 1e-6
            ):
                problems.append(f"{layer}, {tuple(of_input.shape)}: {step} is different")
        right += 1
    assert not problems, "\n".join(problems)
    assert right > 100, (right, len(jobs))
