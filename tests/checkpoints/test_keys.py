"""The same key means the same entry for every command and in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import dpnn_bridge
from dpnn_bridge import batch
from dpnn_bridge.checkpoints.find import matching_key
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.errors import ConversionLimitError, ModelNotFoundError
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaObject, LuaTable


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def layers(count: int) -> LuaObject:
    return dpnn_bridge.to_lua(nn.Sequential(*(nn.Linear(1, 1) for _ in range(count))))


def test_the_entry_that_was_converted_as_data_is_verified_as_data(tmp_path: Path) -> None:
    source, target, manifest = tmp_path / "d.t7", tmp_path / "d.npz", tmp_path / "done.jsonl"
    obj = LuaObject("my.Batch", LuaTable({"x": 1}))
    dpnn_bridge.write_t7(source, LuaTable({"nets": LuaTable({"a": layers(1)}), "batch": obj}))
    for key in ("nets", "batch"):
        converted = run(convert_command, source, target, "--key", key, "--force")
        assert ("a table with 1 model; for a file that loads, select one with --key: nets.a" in converted.stdout) == (
            key == "nets"
        )
        assert run(verify_command, source, target, "--key", key).stdout.startswith("PASS: data without a model")
        for _ in batch.run([batch.Task(source, target, key)], manifest=manifest, force=True):
            assert "1 equal" in run(verify_command, manifest).stdout


def test_a_wrong_key_of_a_converted_file_is_an_error_about_the_key(tmp_path: Path) -> None:
    for name in ("m.pt", "m.npz"):
        dpnn_bridge.save(tmp_path / name, Models({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
    result = run(verify_command, tmp_path / "m.pt", tmp_path / "m.npz", "--key", "c")
    assert result.exit_code == 5
    assert "no entry at key 'c'. Models in the file: a, b" in result.stderr


@pytest.mark.parametrize("suffix", ["npz", "pt"])
@pytest.mark.parametrize("key", ["2", "[2]"])
def test_a_number_as_key_selects_the_model_in_a_file_of_one_or_all(tmp_path: Path, suffix: str, key: str) -> None:
    source, one, both = tmp_path / "m.t7", tmp_path / f"one.{suffix}", tmp_path / f"both.{suffix}"
    dpnn_bridge.write_t7(source, LuaTable.from_list([layers(3), layers(3)]))
    dpnn_bridge.convert(source, one, key=key)
    dpnn_bridge.convert(source, both)
    for target in (one, both):
        for spelled in ("2", "[2]"):
            assert dpnn_bridge.verify(source, target, key=spelled).ok
        assert target.suffix == ".npz" or isinstance(dpnn_bridge.load(target, key="2"), nn.Sequential)


def test_other_models_of_an_npz_file_are_not_compared(tmp_path: Path) -> None:
    source, target = tmp_path / "m.t7", tmp_path / "m.npz"
    parts = {"a": layers(60), "b": dpnn_bridge.to_lua(nn.ReLU()), "c": layers(1)}
    dpnn_bridge.write_t7(source, LuaTable(parts.items()))
    dpnn_bridge.convert(source, target)
    for key in parts:
        assert dpnn_bridge.verify(source, target, key=key).ok


@pytest.mark.parametrize("other", [nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1))])
def test_an_npz_file_of_another_model_is_no_file_of_a_model_without_tensors(tmp_path: Path, other: nn.Module) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaTable({"a": dpnn_bridge.to_lua(nn.ReLU())}))
    dpnn_bridge.save(tmp_path / "m.npz", other)
    for key in (None, "a"):
        assert not dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.npz", key=key).ok


def test_a_table_with_a_model_that_is_no_data_names_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(*_: object, **__: object) -> None:
        raise ConversionLimitError("its shared tables are used too often")

    monkeypatch.setattr("dpnn_bridge.outputs.data.collect", collect)
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaTable({"protos": LuaTable({"rnn": layers(1)})}))
    with pytest.raises(ModelNotFoundError, match=r"a table with 1 model; .* select one with key=.*: protos\.rnn"):
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt", key="protos")


@pytest.mark.parametrize("key", ["modules[1]", "modules"])
def test_a_key_that_is_also_a_path_in_the_converted_file_names_the_source(tmp_path: Path, key: str) -> None:
    source, target = tmp_path / "m.t7", tmp_path / "one.t7"
    parts = [layers(2), layers(3)]
    dpnn_bridge.write_t7(source, LuaTable({"modules": LuaTable.from_list(parts) if key != "modules" else parts[0]}))
    dpnn_bridge.convert(source, target, key=key)
    assert dpnn_bridge.verify(source, target, key=key).ok
    assert dpnn_bridge.verify(source, source, key=key).ok
    dpnn_bridge.write_t7(target, layers(3))
    assert not dpnn_bridge.verify(source, target, key=key).ok


def test_a_fixture_of_a_sequencer_is_compared_with_its_converted_file(tmp_path: Path) -> None:
    step = LuaObject("nn.Linear", LuaTable({"weight": lua_value(torch.ones(2, 2)), "bias": lua_value(torch.ones(2))}))
    fixture = LuaTable({"module": LuaObject("nn.Sequencer", LuaTable({"module": step})), "input": LuaTable()})
    dpnn_bridge.write_t7(tmp_path / "fixture.t7", fixture)
    dpnn_bridge.convert(tmp_path / "fixture.t7", tmp_path / "m.t7")
    assert dpnn_bridge.verify(tmp_path / "fixture.t7", tmp_path / "m.t7").ok


def test_the_order_of_a_number_and_its_text_as_keys_makes_no_difference(tmp_path: Path) -> None:
    items = [(1, lua_value(torch.ones(2))), ("1", lua_value(torch.zeros(2)))]
    for name, order in (("a", items), ("b", items[::-1]), ("c", [(1, items[1][1]), ("1", items[0][1])])):
        dpnn_bridge.write_t7(tmp_path / f"{name}.t7", LuaTable(order))
    assert run(verify_command, tmp_path / "a.t7", tmp_path / "b.t7").exit_code == 0
    assert run(verify_command, tmp_path / "a.t7", tmp_path / "c.t7").exit_code == 4


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("1", "['1']"),
        ("[1]", "[1]"),
        ('["1"]', "['1']"),
        ("2", "[2]"),
        ("[2]", "[2]"),
        ("[true]", "[true]"),
        ("3", None),
    ],
)
def test_a_key_matches_as_in_the_table(key: str, expected: str | None) -> None:
    assert matching_key(key, ["[true]", "[1]", "['1']", "[2]"]) == expected
