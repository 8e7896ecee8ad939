"""Copies of Lua objects and new ones."""

from __future__ import annotations

from dpnn_bridge.base.graph import without_entries
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.modules.cuda.parallel import DataParallelTable
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def test_a_changed_copy_keeps_class_version_header_and_values() -> None:
    inner = LuaTable()
    obj = LuaObject("nn.GPU", LuaTable({"a": 1, "lambda": 2, "kept": inner}), version=3, header=(inner,))
    copy = obj.changed({"lambda": 5}, a=None, b=4)
    assert (copy.class_name, copy.version, copy.header) == ("nn.GPU", 3, (inner,))
    assert dict(copy) == {"lambda": 5, "kept": inner, "b": 4}
    assert dict(obj) == {"a": 1, "lambda": 2, "kept": inner}


def test_a_copy_of_an_object_without_a_table_keeps_its_payload() -> None:
    obj = LuaObject("torch.Generator", b"state", version=0)
    assert obj.changed().payload == without_entries(obj).payload == b"state"


def test_a_copy_to_be_filled_keeps_what_stands_before_the_fields() -> None:
    assert without_entries(LuaObject("nn.GPU", LuaTable({"a": 1}), version=2, header=(7,))).header == (7,)  # type: ignore[union-attr]


def test_a_fresh_object_has_a_type_and_empty_results_of_its_own() -> None:
    layers = [fresh("nn.Tanh", "torch.DoubleTensor") for _ in range(2)]
    obj = fresh("nn.Sequential", "torch.DoubleTensor", *layers, output=LuaTable())
    assert obj["modules"].as_list() == layers
    assert isinstance(obj["output"], LuaTable)
    assert obj["gradInput"].class_name == obj["_type"] == "torch.DoubleTensor"
    assert layers[0]["output"] is not layers[1]["output"]
    assert "modules" not in layers[0]
    assert isinstance(layers[0]["output"], LuaTensor)


def test_the_first_replica_of_several_takes_the_place_of_all() -> None:
    replicas = LuaTable.from_list([LuaObject("nn.Tanh"), LuaObject("nn.Tanh")])
    fields = {"modules": replicas, "impl": LuaTable(), "gpuAssignments": LuaTable.from_list([3, 4])}
    upgraded = DataParallelTable.Lua.upgrade(LuaObject("nn.DataParallelTable", LuaTable(fields), version=1))
    assert upgraded["modules"].as_list() == [replicas[1]]
    assert upgraded.header == (fields["gpuAssignments"],)
    assert "impl" not in upgraded
