"""Classes of single published repositories: what the values of Torch7 in fixtures do not show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from formula import DOUBLE, agree, converted, leaf, lua, random
from torch import nn

from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.zoo.char_lm import HLogSoftMax
from dpnn_bridge.zoo.depth import ChannelDropout, Unpool
from dpnn_bridge.zoo.instance_normalization import AdaptiveInstanceNormalization
from dpnn_bridge.zoo.style import NoiseFill, NoiseOverInput, ShaveImage


def test_noise_leaves_the_image_of_stylization_models() -> None:
    module, image = to_torch(lua("nn.GenNoise", output=torch.zeros(0))), leaf(1, 6, 4, 4)
    out = module(image)
    agree(out[:, :3], image.detach()[:, :3])
    assert ((out[:, 3:] >= 0) & (out[:, 3:] < 1)).all()
    out.sum().backward()
    assert image.grad is not None
    agree(image.grad, torch.ones(1, 6, 4, 4))
    assert (to_torch(lua("nn.GenNoise"))(torch.full((2, 3, 4, 4), 5.0)) < 1).all()


def test_fixed_noise_stays() -> None:
    module, x = to_torch(lua("nn.GenNoise", action="fix")), random(2, 3, 4, 4)
    assert isinstance(module, NoiseOverInput)
    first = module(x)
    agree(module(x), first)
    kept = to_lua(module)["fix_value"]
    assert isinstance(kept, LuaTensor)
    agree(kept.torch(), first)
    module.action = "zero"
    agree(module(x), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("base", [1, 0])
def test_masked_loss_has_the_gradient_of_the_mean(base: int) -> None:
    scores, targets = torch.log_softmax(random(4, 3), 1).requires_grad_(), torch.tensor([2.0, 0, 3, 1])
    converted(lua("nn.MaskedLoss"))
    module = to_torch(lua("nn.MaskedLoss"), index_base=base)
    loss, right, counted = module([scores, targets - 1 + base])
    agree(loss, -(scores[0, 1] + scores[2, 2] + scores[3, 0]))
    assert (int(counted), int(right)) == (3, sum(int(scores[i].argmax()) == c for i, c in ((0, 1), (2, 2), (3, 0))))
    (loss * 7).backward()
    expected = torch.zeros(4, 3, dtype=DOUBLE)
    for i, c in ((0, 1), (2, 2), (3, 0)):
        expected[i, c] = -1 / 4
    assert scores.grad is not None
    agree(scores.grad, expected)


def test_unpooling_made_in_python_brings_what_torch7_needs() -> None:
    obj = to_lua(Unpool(2, 3, (6, 9)))
    assert (obj["upsample"].class_name, obj["upsample"]["scale_factor"]) == ("nn.SpatialUpSamplingNearest", 3)


def test_channel_dropout_leaves_a_channel() -> None:
    module = ChannelDropout(2, p=0.99)
    for _ in range(20):
        assert module(torch.ones(1, 3, 2, 2))[0, :2].sum() > 0


@pytest.mark.parametrize(("channels", "p"), [(2, 1.0), (0, 0.5)])
def test_channel_dropout_that_can_keep_no_channel_is_an_error(channels: int, p: float) -> None:
    with pytest.raises(ValueError, match=f"below 1, found p {p:g} and {channels} channels"):
        ChannelDropout(channels, p)(torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize(("noise", "times"), [(0, 0), (3, 0), (0, 2), (1, 2)])
def test_a_doodle_keeps_its_mask_and_gets_noise(noise: int, times: int) -> None:
    fields = {"num_noise_channels": noise, "num_mask_noise_times": times, "n_colors": 2}
    factors = {"mult_noise_mask": 3.0, "mult_noise": 0.5, "out_size": 2 + 2 * times + noise}
    module, mask = converted(lua("nn.NoiseFill", **fields, **factors)), leaf(2, 2, 3, 3)
    out = module(mask)
    assert tuple(out.shape) == (2, 2 + 2 * times + noise, 3, 3)
    agree(out[:, :2], mask.detach())
    for i in range(times):
        ratio = out[:, 2 + 2 * i : 4 + 2 * i] / mask.detach()
        assert ((ratio >= 0) & (ratio < 3)).all()
        assert ratio.std() > 0.3
    rest = out[:, 2 + 2 * times :]
    assert ((rest >= 0) & (rest < 0.5)).all()
    out.sum().backward()
    assert mask.grad is not None
    agree(mask.grad, torch.ones(2, 2, 3, 3))
    assert to_lua(module)["out_size"] == out.shape[1]


def test_layers_that_let_no_gradient_pass_give_zeros() -> None:
    for obj in (lua("nn.GenNoise", num_planes=2, mult=1.0), lua("nn.DummyGradOutput")):
        module, x = to_torch(obj), leaf(1, 3, 2, 2)
        module(x).sum().backward()
        assert x.grad is not None
        assert not x.grad.any()


def test_noise_does_not_fill_more_channels_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"replaces 4 channels, the input has the shape \(1, 3, 2, 2\)"):
        NoiseFill(4)(torch.zeros(1, 3, 2, 2))


def test_a_border_wider_than_the_image_is_refused() -> None:
    assert ShaveImage(1)(random(2, 3, 4, 5)).shape == (2, 3, 2, 3)
    with pytest.raises(RuntimeError, match="negative"):
        ShaveImage(3)(random(2, 3, 4, 5))


@pytest.mark.parametrize("style", [(1, 3, 2, 4), (2, 2, 3, 4), (3, 2, 4)])
def test_content_and_style_have_as_many_samples_and_channels(style: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"with 3 channels.*found \(2, 3, 4, 4\)"):
        AdaptiveInstanceNormalization(3)([random(2, 3, 4, 4), random(*style)])


def test_an_image_of_one_pixel_gets_the_mean_of_the_style() -> None:
    content, style = random(2, 3, 1, 1).requires_grad_(), random(2, 3, 4, 4)
    output = AdaptiveInstanceNormalization(3)([content, style])
    assert output.allclose(style.mean((2, 3), keepdim=True))
    assert torch.autograd.grad(output.sum(), content)[0].count_nonzero() == 0


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_short_rows_are_divided_by_one_more_than_the_threshold(threshold: float) -> None:
    """The values and gradients of EntNet-babi's Normalization.lua, over the last dimension."""
    module = converted(lua("nn.Normalization", thresh=threshold))
    x = torch.stack([random(2, 3), 3 * random(2, 3, seed=1), torch.zeros(2, 3, dtype=DOUBLE)]).requires_grad_()
    out, g = module(x), random(3, 2, 3, seed=2)
    out.backward(g)
    assert x.grad is not None
    for i, j in np.ndindex(3, 2):
        row, norm = x[i, j].detach(), float(x[i, j].detach().norm())
        divisor = norm if norm > threshold else threshold + 1
        unit = row / divisor
        agree(out[i, j], unit)
        agree(x.grad[i, j], (g[i, j] - unit * (unit @ g[i, j])) / divisor)


def test_a_class_without_a_chance_may_be_that_of_ignored_targets() -> None:
    scores = torch.tensor([[-torch.inf, 0.0], [-0.5, -1.0]], dtype=DOUBLE, requires_grad=True)
    loss, correct, counted = converted(lua("nn.MaskedLoss"))([scores, torch.tensor([0, 1])])
    loss.backward()
    agree(torch.stack([loss, correct, counted]), [0.5, 1, 1])
    assert scores.grad is not None
    agree(scores.grad, [[0, 0], [-0.5, 0]])


def test_targets_of_two_levels_are_in_range_and_may_be_floats() -> None:
    def log_softmax(*modules: nn.Module) -> nn.Module:
        return nn.Sequential(*modules, nn.LogSoftmax(1))

    class ClassModel(nn.Module):
        def forward(self, input: list[torch.Tensor]) -> torch.Tensor:
            return torch.log_softmax(torch.zeros(len(input[0]), 2, dtype=DOUBLE), 1)

    mapping = torch.tensor([[1.0, 1], [2, 1], [2, 2]])  # of floats after a cast to CUDA in Lua
    loss = HLogSoftMax(log_softmax(nn.Linear(3, 2).double()), ClassModel(), mapping)
    x = random(2, 3)
    chances = loss.cluster_model(x)
    agree(loss(x, torch.tensor([1, 3])), -(chances[0, 0] + chances[1, 1]) / 2 + math.log(2))
    for target in (0, 4):
        with pytest.raises(IndexError, match="indices start at 1, as in Lua, and end at 3"):
            loss(x, torch.tensor([1, target]))
