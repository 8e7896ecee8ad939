"""Other published classes with a name of the zoo are an error, not computed as the zoo's class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dpnn_bridge import to_torch
from dpnn_bridge.errors import UnsupportedClassError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

LEARNED = {name: LuaTensor.from_numpy(np.ones(3)) for name in ("weight", "gradWeight")}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("nn.Sampler", {"argmax": True}),
    ("nn.Sampler", {"keep_long": False}),
    ("nn.Sampler", {"eps": LuaTensor.empty(), "gradInput": LuaTensor.empty()}),
    ("nn.KLDPenalty", {"myweight": 0.5, "batchsizes": 10}),
    ("nn.MixtureCriterion", {"dimInput": 2, "sizeMixture": 3, "sizeMeanInput": 6}),
    ("nn.YHat", {"nGMM": 10}),
    ("nn.Window", {"nWindow": 5}),
    ("nn.Window", {"mask": LuaTensor.empty()}),
    ("nn.NoiseFill", {"num_noise_channels": 3, "mult": 1, "buffer": LuaTensor.empty()}),
    ("nn.TotalVariation", {"strength": 1.0, "z_diff": LuaTensor.empty()}),
    ("nn.TVLoss", {"strength": 1.0, "tv_weight": 1.0}),
    ("nn.OuterProd", {"modules": LuaTable()}),
    ("nn.TrueNLLCriterion", {"sizeAverage": True, "weights": LuaTensor.empty()}),
    ("nn.KMaxPooling", {"k": 2, "indices": LuaTensor.empty()}),
    ("nn.Upsample", {"factor": 2, "conv": LuaTable()}),
    ("nn.Upsample", {"factor": 2, **LEARNED}),
    ("nn.Scale", {"height": 3, "width": 3, "useRGB": True}),
    ("nn.Tanh", LEARNED),  # no published class, but the mapping does not read its weight
]


@pytest.mark.parametrize(("name", "fields"), OTHERS, ids=[f"{name} {next(iter(fields))}" for name, fields in OTHERS])
def test_another_class_of_the_name_is_an_error(name: str, fields: dict[str, Any]) -> None:
    obj = LuaObject(name, LuaTable({"_type": "torch.FloatTensor", "gradInput": LuaTable(), **fields}))
    with pytest.raises(UnsupportedClassError):
        to_torch(obj)
