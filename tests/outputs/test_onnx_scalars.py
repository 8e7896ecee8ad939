"""Numbers in arithmetic operations, which ``torch.onnx`` omits or rounds to single precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx_runs import run
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.modules.nn import Normalize
from dpnn_bridge.outputs.onnx_scalars import OnnxScalars

X = torch.tensor([[0.3, -0.7, 1.9], [0.0, 0.0, 0.0]])


class Computes(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_a_vector_of_zeros_is_normalized_to_zeros(p: float, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    dpnn_bridge.save(tmp_path / "m.onnx", Normalize(p), input=torch.rand(2, 3))
    torch.testing.assert_close(run(tmp_path / "m.onnx", X), Normalize(p)(X))


@pytest.mark.parametrize(
    "function",
    [
        *(lambda x: x + 1e-10, lambda x: 1e-10 + x, lambda x: x - 1e-9, lambda x: 1e-9 - x),
        *(lambda x: x * 1.000001, lambda x: x / 1.000001, lambda x: 0.3 / (x + 2.1), lambda x: torch.rsub(x, 0.3)),
        *(lambda x: torch.add(x, 0.3), lambda x: x.sum() * 0.3, lambda x: x.clone().add_(1e-10)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_exact(function: Callable[[Tensor], Tensor], dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    dpnn_bridge.save(tmp_path / "m.onnx", Computes(function), input=X.to(dtype))
    found, expected = run(tmp_path / "m.onnx", X.to(dtype)), function(X.to(dtype))
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)


def test_results_in_place_of_integers_and_in_half_precision_are_unchanged() -> None:
    with OnnxScalars():
        x = torch.ones(2)
        x.mul_(0.5)
        assert x.tolist() == [0.5, 0.5]
        assert (torch.tensor([3]) * 0.5).tolist() == [1.5]
        half = torch.tensor([0.1], dtype=torch.float16)
        assert torch.equal(half * 0.3, torch.mul(half, 0.3))
        assert (torch.ones(()) - 0.25).shape == ()


def test_the_message_for_numbers_that_torch_onnx_rounds_names_the_option(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    with pytest.raises(VerificationError, match="agree in single precision only, so try --dtype float32"):
        dpnn_bridge.save(tmp_path / "m.onnx", Computes(lambda x: torch.lerp(x, x.flip(0), 0.3)), input=X.double())
