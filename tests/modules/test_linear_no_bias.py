"""nn.LinearNoBias as rnn had it from July to September 2015: a nn.Linear whose bias does not train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import converted, leaf, lua, random
from torch import nn

from dpnn_bridge import to_lua


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_bias_of_2015_is_added_and_does_not_train(factor: float) -> None:
    weight, bias = random(2, 3, seed=1), factor * random(2, seed=2)
    fields: dict[str, Any] = {"weight": weight, "bias": bias, "gradWeight": 0 * weight, "gradBias": 0 * bias}
    module, x = converted(lua("nn.LinearNoBias", **fields)), leaf(4, 3)
    torch.testing.assert_close(module(x), nn.functional.linear(x, weight, bias))
    module(x).sum().backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["weight"]
    torch.testing.assert_close(to_lua(module)["bias"].torch(), bias)
