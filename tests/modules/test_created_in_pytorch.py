"""Modules that a program creates, not a file: their parameters, attributes and representation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dpnn_bridge.modules.dpnn.category import CategoricalEntropy
from dpnn_bridge.modules.nn.convolution_special import SpatialConvolutionLocal
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.nn.subsampling import SpatialSubSampling, TemporalSubSampling
from dpnn_bridge.zoo.depth import Unpool


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (SpatialConvolutionLocal(2, 3, (2, 2), (3, 4)), 24),
        (SpatialSubSampling(3, (2, 3)), 6),
        (TemporalSubSampling(3, 5), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_are_drawn_from_the_uniform_distribution_of_torch7(layer: nn.Module, inputs: int) -> None:
    for parameter in layer.parameters():
        assert 0 < parameter.abs().max() <= 1 / math.sqrt(inputs)


def test_a_graph_that_returns_its_input_says_so() -> None:
    assert repr(GModule(nodes=[GraphNode()])) == "GModule(return input)"


def test_there_is_no_entropy_before_the_first_batch() -> None:
    layer = CategoricalEntropy()
    assert layer.entropy is None
    layer(torch.full((2, 2), 0.5))
    torch.testing.assert_close(layer.entropy, torch.tensor(math.log(2)), rtol=1e-4, atol=0)


def test_a_transposed_image_is_enlarged() -> None:
    image = torch.randn(1, 2, 3, 3).transpose(1, 3)
    assert torch.equal(Unpool(3, 2, (6, 4))(image), Unpool(3, 2, (6, 4))(image.contiguous()))
