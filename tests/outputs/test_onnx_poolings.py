"""Poolings with ``divisor_override``, and adaptive ones of dynamic sizes, in ``.onnx``."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from onnx_runs import run
from torch import nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.outputs.onnx_poolings import OnnxPoolings


@pytest.mark.parametrize("count", [2, 3])
def test_a_factor_replaces_the_divisor(count: int) -> None:
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[count]
    for size, kernel, stride, padding, ceil in product((5, 6, 7), (2, 3), (None, 1, 3, 5), (0, 1), (False, True)):
        x = torch.randn(2, *(size + i for i in range(count)), dtype=torch.float64)
        options = {"stride": stride, "padding": padding, "ceil_mode": ceil, "count_include_pad": False}
        expected = pool(x, kernel, divisor_override=7, **options)
        seen: list[object] = []
        with _Recorded(seen), OnnxPoolings():
            torch.testing.assert_close(pool(x, kernel, divisor_override=7, **options), expected)
        assert seen == [None]


class _Recorded(torch.overrides.TorchFunctionMode):
    """Records the divisors of all poolings."""

    def __init__(self, seen: list[object]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.avg_pool2d, F.avg_pool3d):
            self._seen.append((kwargs or {}).get("divisor_override"))
        return func(*args, **(kwargs or {}))


def test_onnx_of_poolings_with_a_divisor(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = nn.Sequential(
        nn.AvgPool2d(2, 2, ceil_mode=True, divisor_override=3), nn.AvgPool2d(2, 1, 1, divisor_override=1)
    )
    dynamic = "height,width"
    dpnn_bridge.save(tmp_path / "m.onnx", model, input=torch.randn(1, 2, 7, 9), dynamic=dynamic)  # runs the file


@pytest.mark.parametrize(("model", "sizes"), [
    (nn.AdaptiveAvgPool1d(3), (12,)),
    (nn.AdaptiveAvgPool2d((2, 3)), (8, 7)),
    (nn.AdaptiveAvgPool2d((None, 7)), (12, 30)),
    (nn.AdaptiveAvgPool3d((2, 1, None)), (6, 7, 5)),
])  # fmt: skip
def test_onnx_of_adaptive_averages_runs_on_all_sizes(model: nn.Module, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """The windows are those of the input's size, which may have another remainder than the sizes that are tried."""
    pytest.importorskip("onnxscript")
    dynamic = [f"n{i}={i + 2}" for i in range(len(sizes))]
    dpnn_bridge.save(tmp_path / "m.onnx", model, input=torch.randn(1, 2, *sizes), dynamic=dynamic)
    for change in range(1, 9):
        x = torch.randn(1, 2, *(n + change for n in sizes))
        torch.testing.assert_close(run(tmp_path / "m.onnx", x), model(x))
