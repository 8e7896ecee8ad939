"""Layers that never were Torch7's: Torch7 computes the same, or they are refused with the nearest that works."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import dpnn_bridge
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.parity.torch7_judge import class_names, job, judge

ROW, MATRIX, SEQUENCE, IMAGE, VOLUME = (4,), (3, 4), (2, 4, 7), (2, 4, 8, 8), (2, 4, 5, 5, 5)

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(4, 3), MATRIX),
    (nn.Linear(4, 3, bias=False), MATRIX),
    *((nn.Conv1d(4, 6, 3, **options), SEQUENCE) for options in (
        {}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}, {"padding": "same"}, {"bias": False},
        {"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "padding_mode": "replicate"},
    )),
    *((nn.Conv2d(4, 6, 3, **options), IMAGE) for options in (
        {}, {"stride": (2, 1), "padding": (1, 0)}, {"dilation": 2}, {"groups": 2}, {"groups": 2, "dilation": 2},
        {"padding": "same"}, {"padding": "valid"}, {"bias": False},
        {"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "padding_mode": "replicate"},
    )),
    (nn.Conv2d(4, 6, 4, padding="same"), IMAGE),
    (nn.Conv2d(4, 4, 3, groups=4, padding=1), IMAGE),
    *((nn.Conv3d(4, 6, 2, **options), VOLUME) for options in ({}, {"groups": 2}, {"dilation": 2}, {"bias": False})),
    (nn.ConvTranspose1d(4, 6, 3, stride=2), SEQUENCE),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), IMAGE),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), IMAGE),
    (nn.ConvTranspose3d(4, 6, 2, stride=2), VOLUME),
    (nn.MaxPool1d(2), SEQUENCE),
    (nn.MaxPool1d(3, 2, 1, ceil_mode=True), SEQUENCE),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE),
    (nn.MaxPool2d(2, 2, dilation=2), IMAGE),
    (nn.MaxPool3d(2), VOLUME),
    (nn.AvgPool1d(3, 2, 1), SEQUENCE),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE),
    (nn.AvgPool2d(2, divisor_override=3), IMAGE),
    (nn.AvgPool3d(2), VOLUME),
    (nn.AdaptiveAvgPool1d(2), SEQUENCE),
    (nn.AdaptiveMaxPool1d(2), SEQUENCE),
    (nn.AdaptiveAvgPool2d(1), IMAGE),
    (nn.AdaptiveAvgPool2d((2, 3)), IMAGE),
    (nn.AdaptiveMaxPool2d(2), IMAGE),
    (nn.AdaptiveAvgPool3d(1), VOLUME),
    (nn.Flatten(), IMAGE),
    (nn.Flatten(), MATRIX),
    (nn.Flatten(0), IMAGE),
    (nn.Unflatten(1, (2, 2)), MATRIX),
    (nn.Upsample(scale_factor=2), IMAGE),
    (nn.UpsamplingNearest2d(scale_factor=2), IMAGE),
    (nn.Upsample(size=(15, 15), mode="bilinear", align_corners=True), IMAGE),
    (nn.LayerNorm(4), MATRIX),
    (nn.LayerNorm(7), SEQUENCE),
    (nn.LayerNorm(4, elementwise_affine=False), MATRIX),
    *([(nn.RMSNorm(7), SEQUENCE)] if hasattr(nn, "RMSNorm") else []),
    (nn.BatchNorm1d(4), MATRIX),
    (nn.BatchNorm2d(4), IMAGE),
    (nn.BatchNorm2d(4, affine=False), IMAGE),
    (nn.BatchNorm3d(4), VOLUME),
    (nn.LocalResponseNorm(3), IMAGE),
    (nn.LSTM(7, 5), SEQUENCE),
    (nn.LSTM(7, 5, batch_first=True), SEQUENCE),
    (nn.ZeroPad2d((1, 2, 0, 1)), IMAGE),
    (nn.ConstantPad1d((1, 2), 2.0), SEQUENCE),
    (nn.ConstantPad2d((1, 2, 0, 3), 2.0), IMAGE),
    (nn.ReflectionPad1d(1), SEQUENCE),
    (nn.ReflectionPad2d((1, 2, 0, 1)), IMAGE),
    (nn.ReplicationPad1d((1, 2)), SEQUENCE),
    (nn.ReplicationPad2d((1, 2, 0, 1)), IMAGE),
    (nn.ReplicationPad3d(1), VOLUME),
    *((layer, SEQUENCE) for layer in (
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.SELU(), nn.CELU(0.5), nn.GELU("tanh"), nn.SiLU(),
        nn.Mish(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(2, 5), nn.Softsign(), nn.Hardtanh(-2, 1), nn.Hardshrink(),
        nn.Softshrink(), nn.Tanhshrink(), nn.LogSigmoid(), nn.Threshold(0.1, -1), nn.Hardsigmoid(), nn.Hardswish(),
        nn.PReLU(), nn.PReLU(4), nn.RReLU(), nn.Identity(), nn.Dropout(0.3), nn.Softmax(-1), nn.LogSoftmax(-1),
    )),
    (nn.GLU(1), IMAGE),
    (nn.Dropout2d(0.3), IMAGE),
    *((kind(1), shape) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin) for shape in (MATRIX, IMAGE)),
    (nn.Softmax(-1), IMAGE),
    (nn.Softmax(-1), ROW),
    (nn.Softmax(-3), IMAGE),
    (nn.Softmax2d(), IMAGE),
    (nn.PixelShuffle(2), IMAGE),
    (parametrizations.weight_norm(nn.Linear(4, 3)), MATRIX),
    (parametrizations.weight_norm(nn.Conv2d(4, 3, 3)), IMAGE),
    (parametrizations.spectral_norm(nn.Linear(4, 3)), MATRIX),
    (parametrizations.orthogonal(nn.Linear(4, 4)), MATRIX),
    (nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                   nn.Linear(3, 2), nn.LogSoftmax(1)), IMAGE),
]  # fmt: skip

REFUSED = [
    (nn.AdaptiveAvgPool2d((None, 2)), "give both sides as numbers"),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), "'zeros', 'reflect' and 'replicate'"),
    (nn.ConvTranspose2d(3, 4, 3, dilation=2), "spread the weights"),
    (nn.LocalResponseNorm(4), "take an odd size"),
    (nn.GroupNorm(2, 4), "LayerNorm over the last dimension"),
    (nn.LayerNorm((2, 3)), "over the last dimension"),
    (nn.Softmax(0), "dim=1 (planes or classes)"),
    (nn.GELU(), "GELU(approximate='tanh')"),
    (nn.GRU(3, 4), "LSTM can be written"),
    (nn.LSTM(3, 4, 2), "one layer for each"),
    (nn.Flatten(1, 2), "Flatten() and Flatten(0)"),
    (nn.Upsample(scale_factor=2, mode="bicubic"), "'nearest' with a whole scale_factor"),
    (nn.BatchNorm2d(3, track_running_stats=False), "running statistics"),
    (nn.MultiheadAttention(4, 2), "by hand"),
]


def ran(layer: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The layer in double precision, its input, output and the gradient of the input for a gradient of ones."""
    torch.manual_seed(0)
    layer = layer.double().eval()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    y.sum().backward()
    assert x.grad is not None
    return layer, x.detach(), y.detach(), x.grad


def name(case: Any) -> str:
    return " ".join(str(case).split())[:60] if isinstance(case, nn.Module) else f"{len(case)}d"


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=name)
def test_what_is_written_computes_the_same(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer, x, y, _ = ran(layer, shape)
    written = to_torch(to_lua(layer, tensor_type="torch.DoubleTensor"))
    assert not any(m.training for m in written.modules())
    torch.testing.assert_close(written(x), y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layer", "message"), REFUSED, ids=name)
def test_what_torch7_cannot_express_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ConversionError) as error:
        to_lua(layer)
    assert type(layer).__name__ in str(error.value)
    assert message in str(error.value)


def test_parts_of_a_grouped_weight_are_the_weight() -> None:
    net = to_lua(nn.Conv2d(4, 6, 3, groups=2))
    weights = [branch["modules"][2]["weight"] for branch in net["modules"].as_list()]
    assert all(isinstance(w, LuaTensor) for w in weights)
    assert weights[0].storage is weights[1].storage


def test_what_was_made_of_a_layer_leaves_it_alone() -> None:
    layer = parametrizations.spectral_norm(nn.Conv2d(4, 3, 3))
    before = copy.deepcopy(layer.state_dict())
    to_lua(layer)
    assert layer.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.torch7
@pytest.mark.skipif(not os.environ.get("DPNN_TORCH7"), reason="DPNN_TORCH7 names no Torch7")
def test_torch7_computes_the_same(tmp_path: Path) -> None:
    jobs, expected, problems = [], [], []
    steps = ("load", "forward", "zeroGradParameters", "backward", "clone", "getParameters", "type")
    for i, (layer, shape) in enumerate(LAYERS):
        layer, x, y, gradient = ran(layer, shape)
        obj = to_lua(layer, tensor_type="torch.DoubleTensor")
        dpnn_bridge.write_t7(tmp_path / f"{i}.t7", obj)
        ones = lua_value(torch.ones_like(y))
        jobs.append(job(tmp_path / f"{i}.t7", class_names(obj), steps, input=lua_value(x), gradOutput=ones))
        expected.append((layer, y, gradient))
    for (layer, y, gradient), result in zip(expected, judge(jobs), strict=True):
        undefined = {"backward"} if isinstance(layer, nn.Dropout2d) else set()  # in evaluation, says nn.SpatialDropout
        failed = [f"{s}: {result[s]['error']}" for s in steps if "error" in result[s] and s not in undefined]
        if failed:
            problems.append(f"{layer}: {failed}")
            continue
        # Torch7 computes ratios of sizes in single precision when it resamples
        rtol = 1e-6 if isinstance(layer, nn.Upsample) else 1e-10
        for what, value in (("forward", y), ("clone", y), ("backward", gradient)):
            if what in undefined:
                continue
            found = to_value(result[what]["value"])
            if found.shape != value.shape or not torch.allclose(found, value, rtol=rtol, atol=1e-7):
                problems.append(f"{layer}: {what} is different")
    assert not problems, "\n".join(problems)
