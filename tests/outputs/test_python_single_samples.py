"""Batch normalizations of a written ``.py`` take single samples as those of the model do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from standalone import executed
from torch import Tensor, nn

import dpnn_bridge

#: layer, a batch of one, the same sample without its batch dimension
CASES = [
    (nn.BatchNorm1d(4), torch.randn(1, 4), torch.randn(4)),
    (nn.BatchNorm2d(4, affine=False), torch.randn(1, 4, 3, 3), torch.randn(4, 3, 3)),
    (nn.BatchNorm3d(4), torch.randn(1, 4, 2, 3, 3), torch.randn(4, 2, 3, 3)),
]


def of_file(*layers: nn.Module) -> nn.Module:
    """Return a model as it comes from a file, in training mode and with statistics."""
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(*layers)))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    return model.train()


@pytest.mark.parametrize(("layer", "batch", "sample"), CASES, ids=lambda v: type(v).__name__)
def test_a_single_sample_gives_the_same(layer: nn.Module, batch: Tensor, sample: Tensor, tmp_path: Path) -> None:
    model = of_file(layer, nn.ReLU())
    dpnn_bridge.save(tmp_path / "net.py", model, input=batch)
    text = (tmp_path / "net.py").read_text()
    assert text.count("\n    accept_single_samples(model)\n") == 1
    assert "batch_dims =" not in text.partition("def load")[0]
    built = executed(text).build()
    built.load_state_dict(model.state_dict())
    assert torch.equal(built(batch), model(batch))
    assert built[0].running_mean.equal(model[0].running_mean)  # type: ignore[index]
    assert built[0].training
    assert torch.equal(built.eval()(sample), model.eval()(sample))


def test_the_layers_of_pytorch_in_the_same_model_do_not(tmp_path: Path) -> None:
    model = nn.Sequential(of_file(nn.BatchNorm1d(4)), nn.BatchNorm1d(4))
    dpnn_bridge.save(tmp_path / "net.py", model)
    built = executed((tmp_path / "net.py").read_text()).build()
    assert [len(m._forward_pre_hooks) for m in built.modules() if isinstance(m, nn.BatchNorm1d)] == [1, 0]
