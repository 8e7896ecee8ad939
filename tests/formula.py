"""For tests of values worked out from a rule: Lua objects, a conversion both ways, and a tight comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from standalone import executed
from torch import Tensor, nn

from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.outputs import ExportContext
from dpnn_bridge.outputs.py import program

DOUBLE = torch.float64


def lua(class_name: str, *modules: LuaObject, version: int = 1, **fields: Any) -> LuaObject:
    """A Lua object of double type; torch tensors become Lua tensors, objects go into ``modules``."""
    values = {k: LuaTensor.from_numpy(v.numpy()) if isinstance(v, Tensor) else v for k, v in fields.items()}
    if modules:
        values["modules"] = LuaTable.from_list(modules)
    return LuaObject(class_name, LuaTable({"_type": "torch.DoubleTensor", **values}), version=version)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def linear(inputs: int, outputs: int, seed: int = 0) -> LuaObject:
    return lua("nn.Linear", weight=random(outputs, inputs, seed=seed), bias=random(outputs, seed=seed + 1))


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).requires_grad_()


def converted(obj: LuaObject) -> nn.Module:
    """The module of ``obj``, after a round trip that must keep the names and values of its fields.

    It can also be written as Python source.
    """
    module = to_torch(obj)
    with torch.random.fork_rng():
        built = executed(program.Program(module, ExportContext()).text()).build()
    built.load_state_dict(module.state_dict())
    again = to_lua(module)
    assert again.class_name == obj.class_name
    for name, value in obj.items():
        if isinstance(value, LuaTensor) and name != "output":
            assert torch.equal(to_value(again[name]), to_value(value)), name
        elif not isinstance(value, (LuaTensor, LuaObject, LuaTable)):
            assert again[name] == value, name
    return to_torch(again)


def agree(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual.detach(), torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-10, atol=1e-12)
