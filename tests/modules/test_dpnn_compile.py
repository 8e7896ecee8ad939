"""torch.compile takes dpnn's layers as one graph, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dpnn_bridge.compare.nested import require_grad
from dpnn_bridge.modules.dpnn.binary import SpatialBinaryConvolution
from dpnn_bridge.modules.dpnn.category import ArgMax, CategoricalEntropy, OneHot
from dpnn_bridge.modules.dpnn.color import PCAColorTransform, SimpleColorTransform, SpatialFeatNormalization
from dpnn_bridge.modules.dpnn.constant import Clip, Constant
from dpnn_bridge.modules.dpnn.convert import Collapse, Convert
from dpnn_bridge.modules.dpnn.criterion import BinaryLogisticRegression
from dpnn_bridge.modules.dpnn.glimpse import SpatialGlimpse, SpatialUniformCrop
from dpnn_bridge.modules.dpnn.inception import Inception
from dpnn_bridge.modules.dpnn.nce import NCECriterion, NCEModule
from dpnn_bridge.modules.dpnn.noise import SpatialRegionDropout, TotalDropout, WhiteNoise
from dpnn_bridge.modules.dpnn.table import CAddTensorTable, ReverseTable, ZipTableOneToMany

IMAGE = torch.randn(2, 3, 10, 10)
PAIR = [torch.randn(2, 3), [torch.randn(2, 3), torch.randn(2, 3)]]
CASES: list[tuple[nn.Module, list[Any]]] = [
    (Clip(-0.5, 0.5), [IMAGE]),
    (Constant(torch.ones(4), 3), [IMAGE]),
    (Collapse(3), [IMAGE]),
    (Convert("bchw", "hwcb"), [IMAGE]),
    (OneHot(5), [torch.tensor([1, 5])]),
    (ArgMax(1, 3), [IMAGE]),
    (CategoricalEntropy(), [torch.rand(4, 5)]),
    (WhiteNoise(), [IMAGE]),
    (TotalDropout(), [IMAGE]),
    (SpatialRegionDropout(), [IMAGE]),
    (SimpleColorTransform(torch.ones(3)), [IMAGE]),
    (PCAColorTransform(torch.eye(3), torch.ones(3)), [IMAGE]),
    (SpatialFeatNormalization(torch.ones(3)), [IMAGE]),
    (SpatialUniformCrop(4, 5), [IMAGE]),
    (SpatialGlimpse(3, 2), [[IMAGE, torch.zeros(2, 2)]]),
    (SpatialBinaryConvolution(3, 2, 3), [IMAGE]),
    (Inception.create(3, [4], [2, 2, 2], kernel_size=[3], kernel_stride=[1]), [IMAGE]),
    (CAddTensorTable(), [PAIR]),
    (ZipTableOneToMany(), [PAIR]),
    (ReverseTable(), [PAIR]),
    (NCEModule(3, 7, 4, torch.ones(7), Z=1), [[torch.randn(2, 3), torch.tensor([1, 2])]]),
    (NCECriterion(), [[torch.rand(2), torch.rand(2, 3), torch.rand(2), torch.rand(2, 3)]]),
    (BinaryLogisticRegression(), [torch.randn(4), torch.ones(4)]),
]


@pytest.mark.parametrize(("module", "arguments"), CASES, ids=[type(m).__name__ for m, _ in CASES])
def test_one_graph(module: nn.Module, arguments: list[Any]) -> None:
    torch._dynamo.reset()
    arguments = [require_grad(a) for a in arguments]
    torch.manual_seed(0)
    expected = module(*arguments)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    output = compiled(*arguments)
    torch.testing.assert_close(output, expected)
    if isinstance(output, torch.Tensor) and output.requires_grad:
        output.sum().backward()
