"""Arguments and shapes that Torch7 refuses, and that PyTorch's operations would broadcast, truncate or ignore.

The last tests show similar shapes that Torch7 accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dpnn_bridge import memory
from dpnn_bridge.modules.dpnn.glimpse import SpatialGlimpse
from dpnn_bridge.modules.dpnn.nce import NCEModule
from dpnn_bridge.modules.dpnn.reward import BinaryClassReward, VRClassReward
from dpnn_bridge.modules.dpnn.table import CAddTensorTable
from dpnn_bridge.modules.facebook.criterion import TrueNLLCriterion
from dpnn_bridge.modules.facebook.fairseq import CAddTableMulConstant
from dpnn_bridge.modules.nn.batch_normalization import BatchNorm1dWithoutEps
from dpnn_bridge.modules.nn.criterion_classification import (
    ClassNLLCriterion,
    CrossEntropyCriterion,
    SpatialClassNLLCriterion,
)
from dpnn_bridge.modules.nn.criterion_embedding import CosineEmbeddingCriterion, HingeEmbeddingCriterion
from dpnn_bridge.modules.nn.criterion_margin import BCECriterion, SoftMarginCriterion
from dpnn_bridge.modules.nn.pooling_special import TemporalDynamicKMaxPooling
from dpnn_bridge.modules.nn.unpooling import MaxUnpooling
from dpnn_bridge.modules.nn.upsampling import UpSampling
from dpnn_bridge.modules.nnx.criterion import DistMarginCriterion, DistNLLCriterion, SuperCriterion
from dpnn_bridge.modules.nnx.resampling import SpatialReSamplingEx
from dpnn_bridge.modules.nnx.tree import SoftMaxTree
from dpnn_bridge.modules.rnn.cells import gru

ones = torch.ones


def unpooled(batch: int) -> Any:
    pooling = nn.MaxPool2d(2)
    unpooling = MaxUnpooling(pooling)
    pooling(ones(2, 1, 4, 4))
    return unpooling(ones(batch, 1, 2, 2))


SIZES: dict[str, Callable[[], Any]] = {
    "locations": lambda: SpatialGlimpse(2, 1)([ones(4, 1, 6, 6), torch.zeros(2, 2)]),
    "coordinates": lambda: SpatialGlimpse(2, 1)([ones(4, 1, 6, 6), torch.zeros(4, 1)]),
    "one location": lambda: SpatialGlimpse(2, 1)([ones(4, 1, 6, 6), torch.zeros(2)]),
    "targets of NCE": lambda: NCEModule(3, 4, 2, ones(4))([ones(5, 3), ones(1)]),
    "targets of a tree": lambda: SoftMaxTree.from_hierarchy(4, {1: [2, 3]})([ones(3, 4), torch.tensor([3])]),
    "targets of a reward": lambda: VRClassReward(nn.Identity())([ones(4, 3), ones(4, 1)], torch.tensor([1])),
    "targets of a binary reward": lambda: BinaryClassReward(nn.Identity())([ones(4), ones(4)], torch.tensor([1])),
    "classes": lambda: TrueNLLCriterion()(ones(4, 3), torch.tensor([1])),
    "pairs": lambda: CosineEmbeddingCriterion()([ones(4, 3), ones(1, 3)], ones(4)),
    "distributions": lambda: DistNLLCriterion()(ones(3), ones(2, 3)),
    "lists of targets": lambda: DistMarginCriterion()(ones(4, 3), ones(1, 3)),
    "summands": lambda: CAddTensorTable()([ones(3), [ones(2, 3)]]),
    "summands of fairseq": lambda: CAddTableMulConstant(2)([ones(3), ones(2, 3)]),
    "frames": lambda: TemporalDynamicKMaxPooling(5)(ones(3, 2)),
    "more maxima than the pooling found": lambda: unpooled(4),
    "fewer maxima than the pooling found": lambda: unpooled(1),
    "one element per channel": lambda: BatchNorm1dWithoutEps(3, eps=0)(ones(1, 3, 1)),
    "one number for several weights": lambda: BCECriterion(ones(2))(ones(2), 1),
}


@pytest.mark.parametrize("run", SIZES.values(), ids=SIZES)
def test_sizes_that_do_not_match_are_an_error(run: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"expected|invalid for input of size"):
        run()


OPTIONS: dict[str, Callable[[], Any]] = {
    "pooling": lambda: SpatialGlimpse(2, pooling="max"),
    "resampling": lambda: SpatialReSamplingEx("nearest"),
    "upsampling": lambda: UpSampling("bilinear", 2),
    "upsampling to no size": lambda: UpSampling("linear"),
    **{
        f"reduction of {criterion.__name__}": lambda criterion=criterion: criterion(reduction="none")
        for criterion in (
            ClassNLLCriterion,
            CrossEntropyCriterion,
            SpatialClassNLLCriterion,
            HingeEmbeddingCriterion,
            SoftMarginCriterion,
        )
    },
}


@pytest.mark.parametrize("create", OPTIONS.values(), ids=OPTIONS)
def test_unknown_options_are_an_error(create: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|requires"):
        create()


def test_the_state_of_a_container_is_a_list() -> None:
    with pytest.raises(TypeError, match="expected a list of states for a Sequential, found a tensor"):
        memory.set_hidden_state(nn.Sequential(gru(2, 3)), 0, ones(1, 3))


@pytest.mark.parametrize(("inputs", "targets"), [(1, 2), (2, 1)])
def test_every_criterion_needs_an_input_and_a_target(inputs: int, targets: int) -> None:
    criterion = SuperCriterion([nn.MSELoss(), nn.MSELoss()])
    with pytest.raises(IndexError):
        criterion([ones(3)] * inputs, [ones(3)] * targets)


def test_a_glimpse_uses_the_first_rows_and_columns_of_the_locations() -> None:
    glimpse, image, location = SpatialGlimpse(2, 1), torch.randn(2, 1, 6, 6), torch.rand(3, 3, requires_grad=True)
    output = glimpse([image, location])
    assert torch.equal(output, glimpse([image, location[:2, :2]]))
    output.sum().backward()
    assert location.grad is not None
    assert torch.equal(location.grad, torch.zeros(3, 3))


def test_a_normalized_nce_module_ignores_the_targets_in_evaluation() -> None:
    layer = NCEModule(3, 4, 2, ones(4), normalized=True).eval()
    assert layer([ones(5, 3), ones(1)]).shape == (5, 4)
