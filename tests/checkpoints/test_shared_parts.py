"""What many places of a file refer to is looked at once: the work is linear in the size of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import dpnn_bridge
from dpnn_bridge.checkpoints import describe as describing
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.checkpoints.find import affordable, candidates, looks_like_module, select
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.files import checkpoint, model_keys, summary
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable


def module(name: str, *modules: LuaObject, **fields: Any) -> LuaObject:
    return LuaObject(name, LuaTable({"modules": LuaTable.from_list(modules), **fields} if modules else fields))


@pytest.mark.parametrize("kind", ["function", "class"])
def test_a_long_name_is_not_repeated_for_every_reference(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, described = "q" * 100_000, 0
    bytecode = b"\x1bLua\x51\0\x01\x04\x08\x04\x08\0" + (len(name) + 2).to_bytes(8, "little") + b"@" + name.encode()
    value: Any = LuaFunction(bytecode + bytes(20)) if kind == "function" else module(f"my.{name}", a=1)
    write_t7(tmp_path / "m.t7", LuaTable.from_list([value] * 50))
    original = describing._kind

    def counted(value: Any) -> tuple[str, str]:
        nonlocal described
        described += isinstance(value, (LuaFunction, LuaObject))
        return original(value)

    monkeypatch.setattr(describing, "_kind", counted)
    found = describe(tmp_path / "m.t7")
    assert described == 1
    assert max(len(node.text) + len(node.class_name or "") for node in found.nodes) < 1000
    assert len(str(found.to_dict()["nodes"])) < 50_000


def test_parts_that_models_of_opennmt_share_are_copied_once() -> None:
    part = LuaTable({"args": LuaTable(), "modules": LuaTable(), "more": 1})
    first, second = (LuaTable({"encoder": part, "decoder": part}) for _ in range(2))
    found = candidates(LuaTable({"a": first, "b": second}))
    assert [c.obj.class_name for c in found] == ["onmt.Seq2Seq"] * 2
    assert found[0].obj["encoder"] is found[1].obj["encoder"]
    assert found[0].obj["decoder"].class_name == "onmt.Decoder"
    models = select(LuaTable({"a": first, "b": second}), together=True).obj["models"]
    assert [m.class_name for m in models.values()] == ["onmt.Seq2Seq"] * 2
    assert models["a"]["encoder"] is models["b"]["encoder"]


@pytest.fixture
def shared_by_all(tmp_path: Path) -> Path:
    """200 models that contain the same 2,000 modules."""
    inner = module("nn.Sequential", *(module("nn.Tanh") for _ in range(2000)))
    models = {f"m{i}": module("nn.Sequential", inner) for i in range(200)}
    write_t7(tmp_path / "m.t7", LuaTable(models))
    return tmp_path / "m.t7"


def test_models_that_share_modules_are_not_all_converted(shared_by_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = 0
    measure = summary._model

    def counted(*args: Any) -> Any:
        nonlocal converted
        converted += 1
        return measure(*args)

    monkeypatch.setattr(summary, "_model", counted)
    found = dpnn_bridge.inspect(shared_by_all)
    assert 1 <= converted < 50
    assert len(found.models) == 200
    assert found.models[0].supported == "supported"
    assert "select a model with key= (--key)" in found.models[-1].supported
    assert dpnn_bridge.inspect(shared_by_all, key="m199").models[0].supported == "supported"
    for use in (model_keys, dpnn_bridge.load_checkpoint):
        with pytest.raises(ConversionLimitError, match="share too many modules"):
            use(shared_by_all)


def test_entries_of_a_table_that_models_share_count() -> None:
    part = LuaTable({"args": LuaTable({f"option {i}": i for i in range(5000)}), "modules": LuaTable()})
    root = LuaTable({f"m{i}": LuaTable({"encoder": part, "decoder": part}) for i in range(200)})
    assert 1 <= len(affordable(root, candidates(root))) < 50


def test_models_of_their_own_are_all_converted() -> None:
    root = LuaTable({f"m{i}": module("nn.Sequential", *(module("nn.Tanh") for _ in range(100))) for i in range(300)})
    found = candidates(root)
    assert len(affordable(root, found)) == 300


class Counted:
    """A regular expression that counts its uses."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.used = pattern, 0

    def match(self, text: str) -> Any:
        self.used += 1
        return self.pattern.match(text)


def test_a_table_in_a_vocabulary_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = Counted(checkpoint._VOCABULARY)
    monkeypatch.setattr(checkpoint, "_VOCABULARY", pattern)
    value: dict[str, Any] = {"x": 1, "y": "no number"}
    for _ in range(12):
        value = {"vocab": value, "vocabulary": value}
    assert checkpoint.vocabulary_of(value) is None
    assert pattern.used < 50
    tokens = {"a": 1, "b": 2}
    assert checkpoint.vocabulary_of({"idx": value, "vocab": tokens, "vocabulary": tokens}) == tokens


def test_a_table_that_modules_share_is_converted_and_searched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Any] = []
    search = checkpoint._search_vocabulary
    monkeypatch.setattr(checkpoint, "_search_vocabulary", lambda *args: searched.append(args[0]) or search(*args))
    table = LuaTable({"a": 1, "b": "no number"})
    layers = [module("nn.Tanh", vocab=LuaTable({"word_to_idx": table}), classes=table) for _ in range(30)]
    write_t7(tmp_path / "m.t7", module("nn.Sequential", *layers))
    found = dpnn_bridge.load_checkpoint(tmp_path / "m.t7")
    assert (found.vocabulary, found.class_names) == ({}, [])
    assert len(searched) == 31
    assert len({id(value.get("word_to_idx")) for value in searched}) == 2  # one table in the 30, and that table
    assert isinstance(found.model, nn.Sequential)


def test_two_equal_vocabularies_under_many_names_are_compared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, once = 0, checkpoint._once

    def counted(function: Any) -> Any:
        def called(value: Any) -> Any:
            nonlocal compared
            compared += isinstance(value, dict)
            return function(value)

        return once(called)

    monkeypatch.setattr(checkpoint, "_once", counted)
    words = [LuaTable({"a": 1, "b": 2}) for _ in range(2)]
    write_t7(tmp_path / "c.t7", LuaTable({f"vocab{i}": words[i % 2] for i in range(30)}))
    found = dpnn_bridge.load_checkpoint(tmp_path / "c.t7")
    assert (found.vocabulary, found.rest) == ({"a": 1, "b": 2}, {})
    assert compared == 2


def test_encoders_that_share_a_list_are_converted_with_one_list() -> None:
    """The copies of the list had the size of the file squared."""
    modules = LuaTable.from_list([1.0] * 1000)
    decoder = LuaTable({"args": LuaTable(), "modules": LuaTable()})
    table = LuaTable.from_list(
        LuaTable({"encoder": LuaTable({"args": LuaTable(), "modules": modules}), "decoder": decoder}) for _ in range(50)
    )
    found = candidates(table)
    assert len(found) == 50
    assert len({id(c.obj["encoder"]["modules"]) for c in found}) == 1


def test_a_list_that_objects_share_is_not_searched_for_each() -> None:
    layer = LuaObject("nn.Tanh")
    near, far = (LuaTable.from_list([*[1.0] * n, layer]) for n in (50, 5000))
    assert looks_like_module(LuaObject("foo.Bar", LuaTable({"modules": near})))
    assert not looks_like_module(LuaObject("foo.Bar", LuaTable({"modules": far})))
