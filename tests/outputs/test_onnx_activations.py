"""Activations that ``torch.onnx`` exports inexactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_runs import run
from torch import nn

import dpnn_bridge
from dpnn_bridge.outputs.onnx_activations import OnnxActivations

pytest.importorskip("onnxscript", reason="needs the extra onnx")
X = torch.tensor([[-6000.0, -90.0, -0.35, -0.3, -0.1], [0.0, 0.05, 0.1, 0.7, 300.0]])
LAYERS = [
    *(nn.LogSigmoid(), nn.Hardtanh(-0.3, 0.7), nn.Threshold(0.1, 0.3), nn.ReLU6()),
    *(nn.Hardtanh(-6.3, 6.3), nn.Threshold(-9, -9.1), nn.Softshrink(0.1)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_values_that_the_example_does_not_contain(layer: nn.Module, dtype: torch.dtype, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.onnx", layer, input=torch.rand(2, 5, dtype=dtype))
    x = X.to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(run(tmp_path / "m.onnx", x), layer(x), rtol=tolerance, atol=tolerance)


def test_a_logarithm_of_a_sigmoid_in_half_precision(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.onnx", nn.LogSigmoid(), input=torch.rand(2, 5).half())
    assert run(tmp_path / "m.onnx", torch.full((2, 5), -30.0).half()).unique().tolist() == [-30]


def test_rrelu_in_evaluation_mode(tmp_path: Path) -> None:
    layer = nn.RReLU(0.1, 0.5).eval()
    dpnn_bridge.save(tmp_path / "m.onnx", layer, input=torch.rand(2, 5))
    torch.testing.assert_close(run(tmp_path / "m.onnx", X), layer(X))


def test_other_values_and_calls_are_those_of_pytorch() -> None:
    x = torch.tensor([0.2, float("nan"), -3.0, 0.9], dtype=torch.float64)
    calls = [
        lambda x: x.clamp(min=0.1),
        lambda x: torch.clamp(x, max=0.3),
        lambda x: x.clamp(torch.tensor(0.1), torch.tensor(0.3)),
        lambda x: nn.functional.hardtanh(x),
        lambda x: nn.functional.hardtanh(x.clone(), -0.5, 0.5, inplace=True),
        lambda x: nn.functional.threshold(x, 0.3, value=7.0),
        lambda x: nn.functional.softshrink(x),
        lambda x: nn.functional.rrelu(x, training=False),
    ]
    for call in calls:
        with OnnxActivations():
            found = call(x)
        torch.testing.assert_close(found, call(x), rtol=0, atol=0, equal_nan=True)
