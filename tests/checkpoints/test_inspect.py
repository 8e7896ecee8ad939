"""``describe`` and ``dpnn-inspect``: the tree, the totals, what is shared; no tensor is loaded, nothing is run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES

import dpnn_bridge
from dpnn_bridge.checkpoints.bytecode import describe_bytecode
from dpnn_bridge.checkpoints.describe import describe, format_bytes
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.errors import OptionError
from dpnn_bridge.loaders import read_t7, write_t7
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.pictures import model_graph, to_mermaid

FORMAT = FIXTURES / "format"
READABLE = [p for p in sorted(FORMAT.rglob("*.t7")) if not p.name.startswith(("bad_", "class_custom_write"))]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weight = LuaTensor.from_numpy(np.zeros((2, 3), np.float32))
    row = LuaTensor(weight.class_name, (3,), (1,), 3, weight.storage)
    linear = LuaObject("nn.Linear", LuaTable({"weight": weight, "bias": row, "name": "fc", "train": True}))
    modules = LuaTable.from_list([linear, linear])
    write_t7(tmp_path / "m.t7", LuaObject("nn.Sequential", LuaTable({"modules": modules, "a b": 1.5}), version=2))
    return tmp_path / "m.t7"


def test_tree_and_totals(model: Path) -> None:
    lines = list(describe(model).lines())
    assert lines[0] == f"{model}: binary, little endian, 8-byte longs, {model.stat().st_size} bytes"
    assert lines[1:] == [
        "nn.Sequential (version 2)",
        "├─ modules: table of 2",
        "│  ├─ [1]: nn.Linear 'fc'",
        "│  │  ├─ weight: torch.FloatTensor 2x3, 24 bytes, storage 1",
        "│  │  ├─ bias: torch.FloatTensor 3, 12 bytes, shares storage 1",
        "│  │  ├─ name: 'fc'",
        "│  │  └─ train: true",
        "│  └─ [2]: nn.Linear 'fc', the same as modules[1]",
        "└─ ['a b']: 1.5",
        "",
        "model nn.Sequential, the file itself",
        "2 tensors in 1 storage, 24 bytes",
        "     1 nn.Linear",
        "     1 nn.Sequential",
    ]


def test_json(model: Path) -> None:
    result = CliRunner().invoke(inspect_command, [str(model), "--json"])
    assert result.exit_code == 0
    data = json.loads(result.output)
    assert data["classes"] == {"nn.Linear": 1, "nn.Sequential": 1}
    assert (data["tensors"], data["storages"], data["tensor_bytes"]) == (2, 1, 24)
    nodes = {node["path"]: node for node in data["nodes"]}
    bias = nodes["modules[1].bias"]
    assert (bias["shape"], bias["stride"], bias["offset"], bias["bytes"]) == ([3], [1], 3, 12)
    assert bias["storage"] == nodes["modules[1].weight"]["storage"]
    assert nodes["modules[2]"]["first"] == "modules[1]"
    assert (nodes["modules[1]"]["name"], "name" in nodes[""]) == ("fc", False)


def test_names_of_nngraph_are_those_of_the_modules(tmp_path: Path) -> None:
    model = dpnn_bridge.read_t7(FIXTURES / "samples" / "char-rnn__lstm" / "model.t7")["protos"]["rnn"]
    nodes = [node["data"] for node in model["forwardnodes"].values() if "module" in node["data"]]
    nodes[0]["annotations"]["name"] = "in\x1b[31m"
    expected = sorted({data["annotations"].get("name") for data in nodes} - {None})
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    description = describe(tmp_path / "m.t7")
    assert sorted({node.name for node in description.nodes if node.name}) == expected
    assert any(line.endswith("nn.Linear 'i2h_1'") for line in description.lines())
    summary = dpnn_bridge.inspect(tmp_path / "m.t7")
    named = {layer.name for layer in summary.models[0].layers if layer.name}
    assert named == {shown.replace("\x1b", "\\x1b") for shown in expected}
    assert "\x1b" not in str(summary)
    assert "i2h_1" in to_mermaid(model_graph(dpnn_bridge.load(tmp_path / "m.t7")))


def test_a_summary_counts_objects_and_names_what_follows_the_last_one(tmp_path: Path) -> None:
    file = tmp_path / "m.t7"
    write_t7(file, LuaObject("nn.Identity", version=1))
    dpnn_bridge.convert(file, tmp_path / "m.pt")
    assert [dpnn_bridge.inspect(path).objects for path in (file, tmp_path / "m.pt")] == [1, 1]
    size = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"\x63\0\0\0")
    summary = dpnn_bridge.inspect(file)
    assert summary.objects == 1
    assert any(
        note.startswith(f"after the first object, at byte {size}: unknown type code 99") for note in summary.notes
    )


def test_limits_shorten_the_tree_and_not_the_totals(tmp_path: Path) -> None:
    table = LuaTable.from_list(LuaObject("nn.Identity") for _ in range(50))
    write_t7(tmp_path / "m.t7", LuaTable({"list": table}))
    description = describe(tmp_path / "m.t7", limit=3)
    assert "   └─ … 47 more" in list(description.lines())
    assert description.classes == {"nn.Identity": 50}
    shallow = describe(tmp_path / "m.t7", depth=1)
    assert [node.path for node in shallow.nodes] == ["", "list"]
    assert shallow.nodes[1].omitted == 50
    assert shallow.classes == {"nn.Identity": 50}


def test_paths_of_first_occurrences_that_are_not_listed(tmp_path: Path) -> None:
    """Below the depth or after the limit, an object has its own path, not that of the root."""
    shared, root = LuaObject("nn.Identity"), LuaTable()
    root["a"] = LuaTable({"b": LuaTable({"c": shared})})
    root["d"], root["e"] = shared, root
    write_t7(tmp_path / "m.t7", root)
    nodes = {node.path: node for node in describe(tmp_path / "m.t7", depth=1).nodes}
    assert (nodes["d"].first, nodes["d"].text) == ("a.b.c", "nn.Identity, the same as a.b.c")
    assert (nodes["e"].first, nodes["e"].text) == ("", "table of 3, the same as the root")
    assert nodes["e"].first in nodes


@pytest.mark.parametrize("name", ["limit", "depth"])
def test_negative_limits_are_refused(name: str, model: Path) -> None:
    with pytest.raises(OptionError, match=f"{name}=-1.*: expected numbers from 0"):
        describe(model, **{name: -1})  # type: ignore[arg-type]


def test_totals_count_objects_that_are_keys(tmp_path: Path) -> None:
    key = LuaTensor.from_numpy(np.zeros(3))
    write_t7(tmp_path / "m.t7", LuaTable({key: 1, LuaObject("nn.Identity"): LuaTable(), "last": 2}))
    description = describe(tmp_path / "m.t7")
    assert (description.tensors, description.tensor_bytes, description.classes) == (1, 24, {"nn.Identity": 1})
    assert "├─ [<nn.Identity with no fields>] (key): nn.Identity" in list(description.lines())


def test_long_keys_lead_to_their_models(tmp_path: Path) -> None:
    models = {"a" * 800 + end + "b" * 800: LuaObject("nn.Identity") for end in ("x", "y")}
    write_t7(tmp_path / "m.t7", LuaTable(models))
    found = describe(tmp_path / "m.t7").models
    assert list(found) == list(models)
    assert dpnn_bridge.load(tmp_path / "m.t7", key=next(iter(found))) is not None


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (99_960, "100 kB"), (999_499, "999 kB"), (999_999, "1.0 MB")],
)
def test_sizes_are_rounded_to_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_functions_are_named_and_not_run() -> None:
    lines = list(describe(FORMAT / "function_upvalues.t7").lines())
    assert lines[1] == "function, LuaJIT 2 bytecode, 94 bytes, gen/format.lua:168"
    assert "3 Lua functions, kept as bytes and never run" not in lines
    assert "2 Lua functions, kept as bytes and never run" in lines


@pytest.mark.parametrize("file", READABLE, ids=lambda p: p.stem)
def test_every_format_fixture(file: Path) -> None:
    description = describe(file)
    assert description.nodes
    assert json.loads(json.dumps(description.to_dict()))["nodes"]
    assert all(line.isprintable() for line in description.lines())


def test_no_tensor_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_t7(tmp_path / "m.t7", LuaTensor.from_numpy(np.zeros(1 << 20)))
    monkeypatch.setattr(LuaStorage, "numpy", lambda self: pytest.fail("loaded"))
    monkeypatch.setattr(LuaStorage, "copy", lambda self: pytest.fail("loaded"))
    start = time.perf_counter()
    assert describe(tmp_path / "m.t7").tensor_bytes == 8 << 20
    assert time.perf_counter() - start < 0.1


def test_deep_and_cyclic_graphs(tmp_path: Path) -> None:
    root = table = LuaTable()
    for _ in range(20_000):
        table["next"] = table = LuaTable()
    table["root"] = root
    write_t7(tmp_path / "deep.t7", root)
    description = describe(tmp_path / "deep.t7")
    assert len(description.nodes) == 51
    assert json.dumps(description.to_dict())


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "nn.\x1b[2J\udcff\n"
    write_t7(tmp_path / "m.t7", LuaTable({evil: LuaObject(evil), "s": evil}))
    result = CliRunner().invoke(inspect_command, [str(tmp_path / "m.t7")])
    assert result.exit_code == 0
    assert all(line.isprintable() for line in result.output.splitlines())


def test_errors_have_their_exit_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(inspect_command, [str(tmp_path / "none.t7")])
    assert result.exit_code == 3
    result = CliRunner().invoke(inspect_command, [str(FORMAT / "long4.t7"), "--long-size", "8"])
    assert result.exit_code == 3
    assert CliRunner().invoke(inspect_command, [str(FORMAT / "long4.t7"), "--long-size", "4"]).exit_code == 0


def test_bytecode_headers() -> None:
    function = read_t7(FORMAT / "function_plain.ascii.t7")
    assert isinstance(function, LuaFunction)
    info = describe_bytecode(function.bytecode)
    assert (info.dialect, info.source, info.first_line) == ("LuaJIT 2", "@gen/format.lua", 166)
    lua51 = b"\x1bLua\x51\0\1\4\x08\4\x08\0" + (9).to_bytes(8, "little") + b"@main.l\0\0" + (7).to_bytes(4, "little")
    assert describe_bytecode(lua51).source == "@main.l\0"
    assert describe_bytecode(lua51).first_line == 7
    lua53 = b"\x1bLua\x53\0\x19\x93\r\n\x1a\n\4\x08\4\x08\x08\x78\x56" + bytes(6) + bytes(8) + b"\1\x08@main.l"
    assert describe_bytecode(lua53 + (5).to_bytes(4, "little")).first_line == 5
    for n in range(len(function.bytecode)):
        assert describe_bytecode(function.bytecode[:n]).size == n
        assert describe_bytecode(lua53[:n]).size == len(lua53[:n])
    assert describe_bytecode(b"\x1bLJ\2\0" + b"\xff" * 50).source is None


def test_format_bytes() -> None:
    assert [format_bytes(n) for n in (0, 999, 1000, 123456, 10**9, 10**13)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "123 kB",
        "1.0 GB",
        "10.0 TB",
    ]


def test_lists_the_models_of_a_checkpoint_without_pytorch() -> None:
    source = Path(__file__).parents[2] / "fixtures" / "samples" / "char-rnn__lstm" / "model.t7"
    code = (
        "import sys; from dpnn_bridge.checkpoints.describe import describe\n"
        f"print(describe({str(source)!r}).models); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "{'protos.rnn': 'nn.gModule', 'protos.criterion': 'nn.ClassNLLCriterion'}\n"


@pytest.mark.usefixtures("own_registry")
def test_the_next_command_has_the_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "my layers.py"
    plugin.write_text(
        "from torch import nn\nfrom dpnn_bridge import LuaClass, lua_class\n\n"
        "class Mine(nn.ReLU):\n    pass\n\n@lua_class('mine.Layer')\nclass Layer(LuaClass):\n    torch_type = Mine\n"
    )
    (tmp_path / "other.py").write_text("")
    write_t7(tmp_path / "m.t7", LuaObject("nn.Sequential", LuaTable({"modules": LuaTable([(1, _mine())])})))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt", plugins=[plugin])
    for name in ("m.t7", "m.pt"):
        shown = CliRunner().invoke(
            inspect_command, [str(tmp_path / name), "--plugin", str(plugin), "--plugin", str(tmp_path / "other.py")]
        )
        (line,) = (line for line in shown.output.splitlines() if line.startswith("next: "))
        assert f" --plugin '{plugin}' --plugin {tmp_path / 'other.py'}" in line


def test_the_next_command_has_the_key(tmp_path: Path) -> None:
    model = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable([(1, LuaObject("nn.Tanh", LuaTable()))])}))
    nets = LuaTable.from_list([model, model.changed()])
    write_t7(
        tmp_path / "m.t7", LuaTable({"a": LuaTable({"nets": nets}), "b": model.changed(), "c": LuaTable({"d": 1})})
    )
    commands = {}
    for key in ("a.nets", "b", "c"):
        found = dpnn_bridge.inspect(tmp_path / "m.t7", key=key)
        commands[key] = found.next[0].partition("m.")[2].partition("m.")[2]
        for listed in found.models:
            assert isinstance(dpnn_bridge.load(tmp_path / "m.t7", key=listed.key), torch.nn.Sequential)
    assert commands["a.nets"] == "pt --key 'a.nets[1]'"
    assert commands["b"] == "pt --key b"
    assert commands["c"].startswith("json --key c ")


@pytest.mark.parametrize(("inside", "margin"), [(False, 1.0), (True, 1.0), (False, "wide"), (True, "wide")])
def test_criterions_are_the_models_of_a_file_without_other_models(inside: bool, margin: object, tmp_path: Path) -> None:
    criterion = LuaObject("nn.MarginCriterion", LuaTable({"margin": margin, "sizeAverage": True}))
    write_t7(tmp_path / "c.t7", LuaTable({"criterion": criterion}) if inside else criterion)
    [model] = dpnn_bridge.inspect(tmp_path / "c.t7").models  # convert takes it as the model, too
    assert (model.key, model.is_supported) == ("criterion" * inside, margin == 1)
    report = dpnn_bridge.convert(tmp_path / "c.t7", tmp_path / "c.pt", allow_unsupported=True)
    assert report.metadata["modules"] == model.modules == 1


def test_long_keys_of_other_entries_are_shortened(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", LuaTable({"a" * 10_000: 1, "b": 2}))
    [long, short] = dpnn_bridge.inspect(tmp_path / "m.t7").beside
    assert long.startswith("aaa")
    assert "9,880 more characters" in long
    assert len(long) < 200
    assert short == "b: a number"


_TENSOR = LuaTensor.from_numpy(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("content", "command"),
    [
        ({"a": LuaTable({"b": _TENSOR}), "a.b": 1}, "pt    # or .json"),
        ({"a": LuaTable({"b": 2}), "a.b": 1}, "json    # or .pt"),
        ({"list": LuaTable({1: _TENSOR, "1": _TENSOR})}, "t7"),
        ({"a.b": _TENSOR, True: 1, 2: 3}, "npz    # or .safetensors, .json, .pt"),
    ],
)
def test_the_next_command_writes_a_format_that_distinguishes_all_names(
    content: dict, command: str, tmp_path: Path
) -> None:
    write_t7(tmp_path / "data.t7", LuaTable(content))
    [found] = dpnn_bridge.inspect(tmp_path / "data.t7").next
    suffix = command.partition(" ")[0]
    assert found.endswith(f".{command}")
    dpnn_bridge.convert(tmp_path / "data.t7", tmp_path / f"written.{suffix}")


def test_criterions_of_pytorch_have_no_input_in_the_next_command(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "c.pt", torch.nn.TripletMarginLoss())
    found = dpnn_bridge.inspect(tmp_path / "c.pt")
    assert found.next[0].endswith("c.pt c.safetensors")
    assert "--input" not in str(found)
    dpnn_bridge.convert(tmp_path / "c.pt", tmp_path / "c.safetensors")


def test_the_next_command_reads_stdin(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", LuaTable({"x": 1}))
    result = CliRunner().invoke(inspect_command, ["-"], input=(tmp_path / "m.t7").read_bytes())
    assert "next: dpnn-convert - model.json " in result.output


def test_a_limit_applies_beside_verbose(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", LuaTable.from_list(range(300)))
    shown = CliRunner().invoke(inspect_command, [str(tmp_path / "m.t7"), "-v", "--limit", "5"]).output
    assert len(shown.splitlines()) < 20


def _mine() -> LuaObject:
    return LuaObject("mine.Layer", LuaTable({"train": False}))


def test_a_converted_file_has_no_tree_of_entries(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.pt", torch.nn.Linear(2, 2))
    assert "--raw" not in str(dpnn_bridge.inspect(tmp_path / "m.pt"))
    for option in ("--raw", "--json"):
        result = CliRunner().invoke(inspect_command, [str(tmp_path / "m.pt"), option])
        assert result.exit_code == 3
        assert "m.pt: a tree of entries needs a .t7 file; for a summary, omit --raw" in result.stderr


def test_the_suggested_command_of_a_converted_file_works(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "several.pt", Models({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(3, 3)}))
    several = dpnn_bridge.inspect(tmp_path / "several.pt", input=torch.ones(1, 2))
    assert [(m.key, m.lua, m.parameters, m.inputs) for m in several.models] == [
        ("a", "Linear", 6, ["1x2"]),
        ("b", "Linear", 12, []),
    ]
    assert several.models[0].layers[0].shape == "1x2"
    assert several.models[1].refused
    assert several.next[0].endswith("several.onnx --key a --input 1x2")
    dpnn_bridge.save(tmp_path / "loss.pt", dpnn_bridge.to_torch(dpnn_bridge.to_lua(torch.nn.MSELoss())))
    loss = dpnn_bridge.inspect(tmp_path / "loss.pt")
    assert loss.next[0].endswith("loss.pt loss.t7")
    assert "--input" not in str(loss)


def test_models_of_a_converted_file_are_described_as_those_of_its_source(tmp_path: Path) -> None:
    models = LuaTable({name: dpnn_bridge.to_lua(torch.nn.Linear(2, 2)) for name in "ab"})
    dpnn_bridge.write_t7(tmp_path / "m.t7", models)
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt")
    source, converted = (dpnn_bridge.inspect(tmp_path / name, input=torch.ones(1, 2)) for name in ("m.t7", "m.pt"))
    assert [m.layers[0].shape for m in source.models] == ["1x2", "1x2"]
    assert converted.models == source.models


def test_a_converted_file_without_models_is_described(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "none.pt", Models({}))
    assert dpnn_bridge.inspect(tmp_path / "none.pt").models[0].parameters == 0


@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("nn.WeightNorm/WeightNorm__conv__double_train", "1x2x32x32"),
        ("nn.LinearWeightNorm/LinearWeightNorm__batch__double_train", "1x5"),
        ("nn.PartialLinear/PartialLinear__full__double_train", "1x5"),
    ],
)
def test_layers_with_computed_weights_and_those_with_submodules_are_listed(
    file: str, shape: str, tmp_path: Path
) -> None:
    write_t7(tmp_path / "m.t7", read_t7(FIXTURES / "nn" / f"{file}.t7")["module"])
    (model,) = dpnn_bridge.inspect(tmp_path / "m.t7").models
    assert sum(layer.parameters for layer in model.layers) == model.parameters
    assert next(layer.lua for layer in model.layers if layer.parameters).startswith("nn.")
    assert (model.inputs or model.likely) == [shape]
