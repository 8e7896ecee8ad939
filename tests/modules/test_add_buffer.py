"""Copies of the nn.Linear of 2014 read the first size of ``addBuffer``, so Torch7 raises an error if it is empty."""

from __future__ import annotations

import pytest
import torch
from formula import lua

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.objects import LuaTensor


def tensor(*shape: int) -> LuaTensor:
    return LuaTensor.from_numpy(torch.ones(*shape).numpy())


@pytest.mark.parametrize(("name", "fields"), [("nn.LinearNB", {}), ("nn.TableLinear", {"bias": tensor(2)})])
def test_a_used_layer_is_written_without_its_buffer(name: str, fields: dict[str, LuaTensor]) -> None:
    used = lua(name, weight=tensor(2, 3), gradWeight=tensor(2, 3)).changed(addBuffer=tensor(5), **fields)
    assert "addBuffer" not in to_lua(to_torch(used))
