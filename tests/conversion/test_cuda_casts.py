"""A model with CUDA tensors that is cast is written with CUDA tensors of the new type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.base.graph import values_in
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype

CLASSES = {
    torch.float16: "torch.CudaHalfTensor",
    torch.float32: "torch.CudaTensor",
    torch.float64: "torch.CudaDoubleTensor",
}


@pytest.mark.parametrize("source", CLASSES.values())
@pytest.mark.parametrize("dtype", CLASSES, ids=str)
def test_a_cast_keeps_the_device(source: str, dtype: torch.dtype) -> None:
    weight, bias = (LuaTensor.from_numpy(np.ones(shape, element_dtype(source)), source) for shape in ((2, 3), 2))
    layer = to_torch(LuaObject("nn.Linear", LuaTable({"_type": source, "weight": weight, "bias": bias})))
    values = list(values_in(to_lua(layer.to(dtype))))
    assert {v.class_name for v in values if isinstance(v, LuaTensor)} == {CLASSES[dtype]}
    assert {v.class_name for v in values if isinstance(v, LuaStorage)} <= {CLASSES[dtype].replace("Tensor", "Storage")}
