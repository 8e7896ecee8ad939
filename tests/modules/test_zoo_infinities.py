"""Layers of published models that write zeros in Lua: a factor of 0 would turn infinite elements into NaN."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpnn_bridge.zoo.captioning import LanguageModelCriterion
from dpnn_bridge.zoo.depth import ChannelDropout, Unpool
from dpnn_bridge.zoo.stmn import STMM, AdaLinearScale

INF = math.inf


def test_zeros_beside_infinite_pixels() -> None:
    x = torch.tensor([[[[INF, 1.0]]]])
    assert Unpool(1, 2, (2, 4))(x).tolist() == [[[[INF, 0, 1, 0], [0, 0, 0, 0]]]]
    assert ChannelDropout(1).dropped(x, torch.zeros(1)).tolist() == [[[[0, 0]]]]
    assert AdaLinearScale(3.0)(x).tolist() == [[[[1, 1]]]]  # the standard deviation is NaN, so the bound is 1


def test_scores_without_a_word_do_not_count() -> None:
    scores = torch.zeros(3, 2, 3)
    scores[2, 0, 0] = -INF  # after the end of the first caption
    assert LanguageModelCriterion()(scores, torch.tensor([[0, 2]])) == 0


def test_features_of_the_previous_frame_get_no_gradient() -> None:
    class Sum(nn.Module):
        def forward(self, input: list[Tensor]) -> list[Tensor]:
            return [input[0] + input[1]]

    x = torch.ones(2, 1, 1, 1, requires_grad=True)
    STMM(Sum(), 1, 2, 1, 1)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 1]
