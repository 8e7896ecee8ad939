"""Tensors that an export creates have the type of the model: Torch7's functions do not mix types."""

from __future__ import annotations

import pytest
from torch import nn

from dpnn_bridge import to_lua
from dpnn_bridge.base.graph import values_in
from dpnn_bridge.modules.dpnn.category import CategoricalEntropy
from dpnn_bridge.modules.facebook.sparse import SparseNLLCriterion
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.zoo.onmt import VariationalDropout
from dpnn_bridge.zoo.pyramid_packer import PyramidPacker

NEW = [PyramidPacker([1.0]), CategoricalEntropy(), SparseNLLCriterion(3), VariationalDropout()]


@pytest.mark.parametrize("module", NEW, ids=lambda module: type(module).__name__)
def test_created_tensors_have_the_type_of_the_model(module: nn.Module) -> None:
    written = to_lua(nn.Sequential(module, nn.Linear(1, 1)).double())
    assert {value.class_name for value in values_in(written) if isinstance(value, LuaTensor)} == {"torch.DoubleTensor"}
