"""A batch normalization with a weight or a bias alone, such as PyTorch's BatchNorm2d(3, bias=False)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import dpnn_bridge


@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_the_written_file_is_loaded_again(tmp_path: Path, missing: str, eps: float) -> None:
    layer = nn.BatchNorm1d(3, eps=eps)
    for value in layer.state_dict().values():
        value.copy_(torch.rand(value.shape))
    setattr(layer, missing, None)
    dpnn_bridge.write_t7(tmp_path / "net.t7", nn.Sequential(layer).eval())
    loaded, x = dpnn_bridge.load(tmp_path / "net.t7"), torch.randn(5, 3)
    assert isinstance(loaded, nn.Sequential)
    assert [*loaded.state_dict()] == [*nn.Sequential(layer).state_dict()]
    torch.testing.assert_close(loaded(x), nn.Sequential(layer)(x))
