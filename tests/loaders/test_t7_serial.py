"""``serial_form`` gives what dpnn's nn.Serial wrote, from the same module saved with everything in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from formula import lua

from dpnn_bridge import to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import OptionError
from dpnn_bridge.loaders import loads, read_t7
from dpnn_bridge.loaders.serial import serial_form
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.parity import compare

#: files of one network and tree hold the same weights, whatever the mode; the 2015 tree had other rules
ENTRIES = [e for e in manifest(kind="serial") if e["tree"] != "2015" and "undecorated" not in e["name"]]


def source_of(entry: dict[str, Any]) -> dict[str, Any] | None:
    """A file of the same network, in the same state, that holds everything."""
    tree, _, net, _, _, *suffix = entry["name"].split(".")
    for mode in ("default.none", "heavy.none"):
        name = ".".join([tree, "Serial", net, mode, *suffix])
        for other in manifest(kind="serial", name=name):
            return other
    return None


PAIRS = [(e, source_of(e)) for e in ENTRIES]
PAIRS = [(e, s) for e, s in PAIRS if s]


def assert_same(expected: Any, found: Any, where: str, partners: dict[int, Any]) -> None:
    """Same content and same sharing, whatever the order of the fields."""
    assert type(found) is type(expected), where
    if isinstance(expected, (LuaTable, LuaObject, LuaTensor)):
        if id(expected) in partners:
            assert partners[id(expected)] is found, f"{where} is shared in Torch7's file only"
            return
        partners[id(expected)] = found
    for name in ("class_name", "shape", "stride"):
        assert getattr(found, name, None) == getattr(expected, name, None), where
    if isinstance(expected, (LuaTable, LuaObject)):
        assert set(found) == set(expected), where
        for key in expected:
            assert_same(expected[key], found[key], f"{where}.{key}", partners)
    elif not isinstance(expected, (LuaTensor, LuaStorage)):
        assert found == expected, where
    else:
        np.testing.assert_array_equal(found.numpy(), expected.numpy(), where)


def test_a_mode_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionError, match="mode: expected 'heavy', 'medium', 'light' or None, found 'Light'"):
        serial_form(LuaObject("nn.Identity"), "Light")  # type: ignore[arg-type]


def test_a_gpu_module_without_header_is_cast() -> None:
    form = serial_form(LuaObject("nn.GPU", LuaTable({"modules": LuaTable()})), tensor_type="torch.FloatTensor")
    assert form["module"].header == ()


@pytest.mark.parametrize(("entry", "source"), PAIRS, ids=[fixture_id(e) for e, _ in PAIRS])
def test_serial_form(entry: dict[str, Any], source: dict[str, Any]) -> None:
    mode, tag = entry["mode"], entry["name"].split(".")[4]
    tensor_type = None if tag == "none" else f"torch.{tag.title()}Tensor"
    module = read_t7(FIXTURES / source["file"])
    form = serial_form(module, None if mode == "default" else mode, tensor_type)
    assert_same(read_t7(FIXTURES / entry["file"]), loads(dumps(form)), "serial", {})


GRAPHS = [
    e for kind in ("module", "structure") for e in manifest(kind=kind) if e["class"] in ("nn.gModule", "onmt.GRU")
]


@pytest.mark.parametrize("mode", ["heavy", "medium", "light"])
@pytest.mark.parametrize("entry", GRAPHS, ids=fixture_id)
def test_keys_that_are_tables_stay_shared(entry: dict[str, Any], mode: Any) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    serial = to_torch(loads(dumps(serial_form(fixture["module"], mode))))
    x = to_value(fixture["input"])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = module(x)
        torch.manual_seed(1)
        assert compare("output", serial(x), expected)[0].ok


def test_a_cast_keeps_what_the_class_does_not_cast() -> None:
    """ArgMax's ``type`` leaves its indices as they are: ArgMax.lua."""
    indices = LuaTensor.from_numpy(np.ones((2, 1), np.int64))
    module = lua("nn.ArgMax", _indices=indices, output=LuaTensor.from_numpy(np.ones(2)))
    form = serial_form(module, "heavy", "torch.FloatTensor")["module"]
    assert (form["_indices"].class_name, form["output"].class_name) == ("torch.LongTensor", "torch.FloatTensor")
    module["asLong"] = True
    form = serial_form(module, "heavy", "torch.FloatTensor")["module"]
    assert (form["output"].class_name, form["output"].size) == ("torch.LongTensor", 0)


#: class and field -> the field after a cast to float in medium mode, as Torch7 writes it; before it has two integers
AFTER_A_CAST = {
    "nn.SelectTable output": "table",
    "nn.SoftMaxTree hierarchy": "torch.LongTensor of 2",
    "nn.MaskedSelect _maskIndices": "torch.LongTensor of 2",
    "nn.CosineEmbeddingCriterion _idx": "torch.LongTensor of 0",
    "nn.LookupTableMaskZero _input": "torch.LongTensor of 0",
    "nn.CMul _sum": "torch.FloatTensor of 0",
    "nn.SpatialDilatedMaxPooling indices": "torch.FloatTensor of 0",
    "nn.SpatialDilatedConvolution fgradInput": "torch.FloatTensor of 0",
    "nn.TrimZero zeroMask": "nothing",
    "nn.GPU output": "nothing",
    "nn.Linear buffer": "torch.FloatTensor of 2",
}


@pytest.mark.parametrize("case", AFTER_A_CAST)
def test_a_cast_changes_buffers_as_the_class_does(case: str) -> None:
    name, field = case.split()
    module = lua(name)
    module[field] = LuaTensor.from_numpy(np.ones(2, np.int64))
    value = serial_form(module, "medium", "torch.FloatTensor")["module"].get(field)
    found = f"{value.class_name} of {value.size}" if isinstance(value, LuaTensor) else "nothing"
    assert ("table" if isinstance(value, LuaTable) else found) == AFTER_A_CAST[case]


def test_modules_and_criterions_are_distinguished() -> None:
    names = ("nn.ModuleFromCriterion", "nngraph.JustElement", "nn.L1Cost", "nn.MSECriterion")
    marked = [name for name in names if "dpnn_typename" in serial_form(lua(name), "medium")["module"]]
    assert marked == ["nn.ModuleFromCriterion", "nngraph.JustElement"]


def test_names_of_emptied_fields_may_be_in_the_object() -> None:
    module = lua("nn.Sequencer", _output=LuaTensor.from_numpy(np.ones(2)), output=LuaTensor.from_numpy(np.ones(2)))
    module["dpnn_mediumEmpty"] = LuaTable.from_list(["_output"])
    form = serial_form(module, "medium")["module"]
    assert (form["_output"].size, form["output"].size) == (0, 2)


@pytest.mark.parametrize("name", ["nn.ArgMax", "nn.LookupTable", "nn.NCEModule", "nn.DontCast"])
def test_a_cast_changes_the_type_of_a_module_that_keeps_fields(name: str) -> None:
    """``nn.DontCast`` is the only one of them whose ``type`` does not call that of ``nn.Module``."""
    module = lua(name, _type="torch.DoubleTensor")
    cast = "torch.DoubleTensor" if name == "nn.DontCast" else "torch.FloatTensor"
    assert serial_form(module, "medium", "torch.FloatTensor")["module"]["_type"] == cast
