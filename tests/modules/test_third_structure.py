"""Classes that only run on CUDA: the converted module computes what the rule of the package gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

import dpnn_bridge
from dpnn_bridge import parity, training
from dpnn_bridge.base.graph import is_module
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import UnsupportedClassError
from dpnn_bridge.objects import LuaTable

STRUCTURES = manifest(kind="structure", set="third")
#: not modules: data of training scripts
DATA = {"Dict", "nn.DataSet", "nn.DataList", "nn.FunctionWrapper", "dp.Experiment"}
#: its Lua code calls what does not exist; converting names the class as one without a mapping
UNKNOWN = {"cudnn.SpatialDivisiveNormalization"}
CONVERTIBLE = [e for e in STRUCTURES if e["class"] not in DATA | UNKNOWN]


def read(entry: dict[str, Any]) -> LuaTable:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    assert isinstance(fixture, LuaTable)
    return fixture


@pytest.mark.parametrize("entry", CONVERTIBLE, ids=fixture_id)
def test_object_becomes_a_module_and_an_object_again(entry: dict[str, Any]) -> None:
    obj = read(entry)["module"]
    module = to_torch(obj)
    back = to_lua(module)
    assert back.class_name == obj.class_name
    again = to_torch(back)
    assert again.state_dict().keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("entry", CONVERTIBLE, ids=fixture_id)
def test_parameters_are_those_that_torch7_lists(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    expected = to_value(fixture.get("params"))
    if expected:
        params = training.parameters(to_torch(fixture["module"]))[0]
        assert all(d.ok for d in parity.compare("params", params, expected, parity.Tolerance(0.0, 0.0)))


def with_formula(*classes: str) -> list[Any]:
    entries = [e for e in STRUCTURES if e["class"] in classes or not classes]
    return [pytest.param(e, id=fixture_id(e)) for e in entries if read(e).get("formula") is not None]


@pytest.mark.parametrize("entry", with_formula())
def test_computes_what_the_formula_gives(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    formula = {k: to_value(v) for k, v in fixture["formula"].items()}
    module = to_torch(fixture["module"])
    module.eval()
    inputs = nested.require_grad(formula.get("input", [formula.get("data"), formula.get("rois")]))
    output = module(inputs, formula["target"]) if "target" in formula else module(inputs)
    written = formula["output"]
    if isinstance(written, torch.Tensor) and written.isnan().any():  # places that the CUDA kernel leaves unwritten
        written, output = written.nan_to_num(), output.masked_fill(written.isnan(), 0)
    found = parity.compare("output", output, written)
    if "gradInput" in formula:
        nested.backward(output, formula.get("gradOutput"))
        found += parity.compare("gradInput", inputs.grad, formula["gradInput"])
    for name, value in formula.items():
        if name in ("gradWeight", "gradBias"):
            index = ("gradWeight", "gradBias").index(name)
            found += parity.compare(name, training.parameters(module)[1][index], value)
    assert [d.message for d in found if not d.ok] == []


@pytest.mark.parametrize("entry", [e for e in STRUCTURES if e["class"] in UNKNOWN], ids=fixture_id)
def test_class_of_unknown_meaning_is_named(entry: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedClassError, match=entry["class"]):
        to_torch(read(entry)["module"])


def test_data_of_training_scripts_is_no_module() -> None:
    wrong = [e["name"] for e in STRUCTURES if e["class"] in ("Dict", "dp.Experiment") and is_module(read(e)["module"])]
    assert wrong == []
