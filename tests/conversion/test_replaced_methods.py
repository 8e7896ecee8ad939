"""A file that replaces a method of one object by a function: the class computes, and a warning names the method."""

from __future__ import annotations

import warnings

import pytest
import torch
from formula import lua
from torch import nn

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.errors import T7Warning
from dpnn_bridge.loaders import dumps, loads
from dpnn_bridge.objects import LuaFunction, LuaTable, LuaTensor

METHODS = ["forward", "backward", "updateOutput", "updateGradInput", "accGradParameters"]


@pytest.mark.parametrize("method", [*METHODS, "evaluate", "training", "parameters"])
def test_a_replaced_method_is_named(method: str) -> None:
    layer = lua("nn.Identity").changed({method: LuaFunction(b"\x1bLJ")})
    file = loads(dumps(lua("nn.Sequential", modules=LuaTable.from_list([layer]))))
    with pytest.warns(T7Warning, match=rf"never run: modules\[1\]\.{method}\. These modules"):
        model = to_torch(file)
    assert isinstance(model[0], nn.Identity)  # type: ignore[index]
    assert method not in to_lua(model)["modules"][1]


def test_other_functions_and_those_of_copy_change_nothing() -> None:
    function = LuaFunction(b"\x1bLJ", None)
    fields = {"output": LuaTensor.from_numpy(torch.zeros(0).numpy()), "updateOutput": function}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_torch(lua("nn.Copy", **fields, updateGradInput=function))
        to_torch(lua("nn.Identity", my_callback=function))
