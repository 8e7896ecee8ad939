"""The state_dict of a module that has run fits one that has not, and the reverse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dpnn_bridge.modules.cuda.cudnn_rnn import CudnnRNN
from dpnn_bridge.modules.facebook.fairseq import LinearizedConvolution
from dpnn_bridge.modules.nn.pooling_special import FixedFractionalMaxPool2d
from dpnn_bridge.modules.nnx.simple import Balance
from dpnn_bridge.zoo.handwriting import MixtureCriterion
from dpnn_bridge.zoo.onmt import VariationalDropout
from dpnn_bridge.zoo.style import NoiseOverInput
from dpnn_bridge.zoo.torch_rnn import VanillaRNN

#: constructor, shape of an input, and the buffer
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "Balance": (lambda: Balance(2), (3, 4), "cache"),
    "LinearizedConvolution": (lambda: LinearizedConvolution(4, 2, 2), (3, 1, 2), "frames"),
    "FixedFractionalMaxPool2d": (lambda: FixedFractionalMaxPool2d(2, output_size=2), (1, 2, 5, 5), "_random_samples"),
    "CudnnRNN": (lambda: CudnnRNN(nn.GRU(2, 3), remember_states=True), (4, 1, 2), "hidden_output"),
    "NoiseOverInput": (lambda: NoiseOverInput("fix"), (1, 3, 2, 2), "fix_value"),
    "VariationalDropout": (VariationalDropout, (2, 3), "mask"),
    "VanillaRNN": (lambda: VanillaRNN(2, 3, remember_states=True), (1, 4, 2), "last"),
}


@pytest.mark.parametrize(("create", "shape", "name"), MODULES.values(), ids=MODULES)
def test_the_buffers_of_a_run_are_loaded(create: Callable[[], nn.Module], shape: tuple[int, ...], name: str) -> None:
    used, fresh = create(), create()
    state = fresh.state_dict()
    used(torch.rand(shape))
    fresh.load_state_dict(used.state_dict())
    assert torch.equal(fresh.get_buffer(name), used.get_buffer(name))
    used.load_state_dict(state)
    buffer = used.get_buffer(name)
    assert buffer is None or not buffer.numel()


def test_the_mask_of_the_user_is_loaded() -> None:
    used, fresh = MixtureCriterion(), MixtureCriterion()
    used.mask = torch.ones(2, 1)
    fresh.load_state_dict(used.state_dict())
    assert torch.equal(fresh.get_buffer("mask"), used.mask)


def test_a_linearized_convolution_is_the_convolution_step_by_step() -> None:
    layer, x = LinearizedConvolution(3 * 2, 4, 3), torch.randn(5, 6, 2)
    order = torch.tensor([1, 0, 2, 2, 4])
    weight = layer.weight.view(4, 3, 2).transpose(1, 2)
    for step in range(6):
        before = torch.cat([torch.zeros(5, 2, 2), x], 1)[:, step : step + 3]
        expected = torch.nn.functional.conv1d(before.transpose(1, 2), weight, layer.bias).transpose(1, 2)
        torch.testing.assert_close(layer(x[:, step : step + 1]), expected)
        reorder = order if step == 3 else None  # the search for the best sentence continues with other samples
        layer.shift_state(reorder)
        x = x if reorder is None else torch.cat([x[order, : step + 1], x[:, step + 1 :]], 1)
