"""Classes of single published repositories: what the values of Torch7 in fixtures do not show."""

from __future__ import annotations

import pytest
import torch
from formula import DOUBLE, agree, converted, leaf, lua, random

from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.zoo.depth import ChannelDropout, Unpool
from dpnn_bridge.zoo.style import NoiseOverInput


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
