"""A module that was loaded can be written back: the same object for Torch7, the same numbers for PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from lua_equal import differences

import dpnn_bridge
from dpnn_bridge.base.graph import is_module
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import noise, registry, to_lua, to_torch
from dpnn_bridge.conversion.buffers import BUFFERS
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable, LuaTensor

MODULES = manifest(kind=("module", "criterion"))
#: fields that Torch7 computes anew; an object without them is the same module
RESULTS = {"output", "gradInput", "train", "_type"}
#: fields of a node of nngraph that hold values of one run
NODE_BUFFERS = {"input", "gradOutput", "gradOutputBuffer"}


def converted(entry: dict[str, Any]) -> tuple[LuaTable, torch.nn.Module]:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    return fixture, to_torch(fixture["module"])


def reduced(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """A Lua value without functions and without the content of buffers, which are not written back."""
    memo = {} if memo is None else memo
    if isinstance(value, LuaFunction):
        return None
    if not isinstance(value, (LuaObject, LuaTable)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    mapping = None
    if isinstance(value, LuaObject):
        mapping = registry.find(value)
        upgraded = mapping.upgrade(value) if mapping else value
        mapping = registry.find(upgraded)
        copy: Any = LuaObject(upgraded.class_name, version=mapping.version if mapping else value.version)
        items = upgraded.fields.items()
    else:
        copy, items = LuaTable(), value.items()
    memo[id(value)] = copy
    for k, v in items:
        if isinstance(value, LuaTable) and "mapindex" in value and k in NODE_BUFFERS:
            continue
        is_gradient = isinstance(k, str) and k.startswith("grad") and mapping is not None
        is_buffer = mapping is not None and (k in RESULTS or k in mapping.scratch or k in BUFFERS)
        if isinstance(v, LuaFunction) or (k in RESULTS and is_module(value)) or is_gradient:
            continue
        if k == "running_std":  # its square is what is kept
            v = LuaTensor.from_numpy(v.numpy().round(5))
        copy[reduced(k, memo)] = LuaTensor.empty() if is_buffer else reduced(v, memo)
    for k, v in {**mapping.defaults, **mapping.constants}.items() if mapping else ():
        is_buffer = k in RESULTS or k in mapping.scratch or k in BUFFERS
        value = v("torch.DoubleTensor") if callable(v) else v
        copy.setdefault(k, LuaTensor.empty() if is_buffer else reduced(value))  # what an old file lacks is written
    return copy


@pytest.mark.parametrize("entry", MODULES, ids=fixture_id)
def test_written_back_object_holds_the_same_fields(entry: dict[str, Any]) -> None:
    fixture, module = converted(entry)
    assert differences(reduced(fixture["module"]), reduced(to_lua(module))) == []


@pytest.mark.parametrize(
    "name", ["nn.CMaxTable", "nn.CMinTable", "nn.JoinTable", "nn.ELU", "nn.SpatialFullConvolution"]
)
def test_fields_that_an_old_version_lacked_are_written(name: str) -> None:
    entry = next(e for e in MODULES if e["class"] == name)
    obj = dpnn_bridge.read_t7(FIXTURES / entry["file"])["module"]
    constants = registry.find(obj).constants.keys() - set(RESULTS)
    old = obj.changed(**dict.fromkeys(constants))
    assert constants
    assert constants <= dict(to_lua(to_torch(old))).keys()


def test_a_model_from_torch7_without_any_tensor_has_torch7s_type() -> None:
    fields = LuaTable({"numElements": 6, "size": size_storage([2, 3])})
    assert to_lua(to_torch(LuaObject("nn.View", fields)))["_type"] == "torch.DoubleTensor"
    assert to_lua(torch.nn.ReLU())["_type"] == "torch.FloatTensor"


NAMES = {entry["name"] for entry in MODULES}
#: those of one model in single and in double precision once
OF_EACH_MODEL = [e for e in MODULES if e["name"].replace("__float", "__double") not in NAMES - {e["name"]}]


@pytest.mark.parametrize("entry", OF_EACH_MODEL, ids=fixture_id)
def test_pt_file_gives_the_same_numbers(entry: dict[str, Any], tmp_path: Path) -> None:
    fixture, module = converted(entry)
    dpnn_bridge.save(tmp_path / "m.pt", module)
    loaded = dpnn_bridge.load(tmp_path / "m.pt")
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert [m.training for m in loaded.modules()] == [m.training for m in module.modules()]
    if fixture.get("forward_error") is not None:
        return
    arguments = [to_value(fixture["input"])]
    if entry["kind"] == "criterion":
        arguments.append(to_value(fixture.get("target")))
    outputs = []
    for m in (module, loaded):
        torch.manual_seed(0)
        with torch.no_grad(), noise.replayed(m, fixture.get("after")):
            outputs.append(m(*arguments))
    for a, b in zip(nested.leaves(outputs[0]), nested.leaves(outputs[1]), strict=True):
        if isinstance(a, str):  # tables may hold anything
            assert a == b
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
