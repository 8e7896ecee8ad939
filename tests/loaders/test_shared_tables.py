"""Objects that share one table of fields are read, unless a copy of the fields for each would exhaust memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dpnn_bridge
from dpnn_bridge.errors import T7FormatError, T7LimitError
from dpnn_bridge.loaders import dumps, loads
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable
from dpnn_bridge.outputs import safetensors_file, safetensors_writer


def sharing(objects: int, fields: int, class_name: str = "nn.Tanh") -> LuaTable:
    table = LuaTable({f"f{i}": i for i in range(fields)})
    header = (LuaTable(),) if class_name == "nn.GPU" else ()
    return LuaTable.from_list(LuaObject(class_name, table, header=header) for _ in range(objects))


@pytest.mark.parametrize("class_name", ["nn.Tanh", "my.Class", "nn.GPU"])
@pytest.mark.parametrize("mode", ["binary", "ascii"])
def test_a_table_that_too_many_objects_share_is_refused(class_name: str, mode: str) -> None:
    found = loads(dumps(sharing(20, 20, class_name), mode=mode))  # type: ignore[arg-type]
    assert found[1].payload is found[20].payload
    with pytest.raises(T7LimitError, match=r"share tables so often that they have 1,99\d,\d{3} fields"):
        loads(dumps(sharing(1000, 2000, class_name), mode=mode))  # type: ignore[arg-type]


def test_a_table_that_contains_its_objects_counts_with_all_of_its_fields() -> None:
    table = LuaTable()
    for i in range(1000):
        table[f"object {i}"] = LuaObject("nn.Tanh", table)
    for i in range(2000):
        table[f"field {i}"] = i
    with pytest.raises(T7LimitError, match="share tables so often"):
        loads(dumps(table))


def test_upvalues_that_too_many_functions_share_are_refused() -> None:
    functions = [LuaFunction(b"") for _ in range(1000)]
    shared = LuaTable.from_list(functions)
    for function in functions:
        function.upvalues = shared
    with pytest.raises(T7LimitError, match=r"share tables so often that they have 999,000 fields"):
        loads(dumps(functions[0]))


def test_many_objects_with_tables_of_their_own_are_read() -> None:
    objects = [LuaObject("nn.Tanh", LuaTable({f"f{i}": i for i in range(100)})) for _ in range(2000)]
    assert len(loads(dumps(LuaTable.from_list(objects)))) == 2000


def test_the_graph_of_a_converted_file_is_bounded_alike(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    path = tmp_path / "m.safetensors"
    dpnn_bridge.save(path, dpnn_bridge.to_torch(LuaObject("nn.Tanh")))
    strings, _ = safetensors_file.read(path)
    name, text = next((name, text) for name, text in strings.items() if '"nodes"' in text)
    shared = {"table": [[f"f{i}", i] for i in range(2000)]}
    objects = [{"object": "nn.Tanh", "version": 1, "payload": [0], "header": []} for _ in range(1000)]
    graph = json.loads(text) | {"nodes": [shared, *objects], "root": [1]}
    path.unlink()
    safetensors_writer.write(path, {}, strings | {name: json.dumps(graph)})
    with pytest.raises(T7FormatError, match="share tables so often"):
        dpnn_bridge.load(path)
