"""``load_checkpoint``: what a script saved, wherever it kept it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge import load_checkpoint, to_lua, write_t7
from dpnn_bridge.errors import ModelNotFoundError, OptionError
from dpnn_bridge.files import checkpoint
from dpnn_bridge.files.checkpoint import vocabulary_of
from dpnn_bridge.objects import LuaTable, LuaTensor

CHAR_RNN = SAMPLES / "char-rnn__lstm" / "model.t7"


def table(**items: Any) -> LuaTable:
    return LuaTable(items)


def test_boolean_keys_beside_numbers_are_kept(tmp_path: Path) -> None:
    options = table(seen=LuaTable([(1, "one"), (True, "yes")]))
    write_t7(tmp_path / "m.t7", table(model=to_lua(nn.Linear(2, 2)), opt=options))
    assert load_checkpoint(tmp_path / "m.t7").options["seen"] == {1: "one", "true": "yes"}


def test_char_rnn(tmp_path: Path) -> None:
    found = load_checkpoint(CHAR_RNN)
    assert list(found.models) == ["protos.rnn"]
    assert found.model is found.models["protos.rnn"]
    assert list(found.criterions) == ["protos.criterion"]
    assert (found.vocabulary["^"], found.tokens[30]) == (30, "^")
    assert found.options["rnn_size"] == 24
    assert (found.counters["i"], sorted(found.losses)) == (1000, ["train_losses", "val_loss", "val_losses"])
    assert "vocabulary of 31" in repr(found)
    dpnn_bridge.convert(CHAR_RNN, tmp_path / "rnn.pt")
    again = load_checkpoint(tmp_path / "rnn.pt")
    assert list(again.models) == ["protos.rnn"]
    assert (again.vocabulary, again.options, again.losses) == (found.vocabulary, found.options, found.losses)


@pytest.mark.parametrize(
    "name", ["torch-rnn__lstm", "neuraltalk2__LanguageModel", "rnn__recurrent-language-model_lstm"]
)
def test_vocabularies_stand_in_many_places(name: str) -> None:
    assert load_checkpoint(SAMPLES / name / "model.t7").vocabulary


def test_the_first_of_several_vocabularies_is_that_of_the_words() -> None:
    found = load_checkpoint(SAMPLES / "lstm-char-cnn__lstmtdnn_words0" / "model.t7")
    assert found.vocabulary == {"a": 1}  # {idx2word, word2idx, idx2char, char2idx}


def test_every_part(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    state = table(learningRate=0.1, dfdx=LuaTensor.from_numpy(np.ones(6)))
    checkpoint = table(
        model=to_lua(net),
        best_model=to_lua(nn.Sequential(nn.Linear(2, 3))),
        optimState=state,
        mean=LuaTensor.from_numpy(np.array([0.4, 0.5, 0.6])),
        std=0.25,
        classes=LuaTable.from_list(["cat", "dog"]),
        epoch=3,
        train_loss=LuaTable.from_list([2, 1]),
        note="hello",
    )
    write_t7(tmp_path / "c.t7", checkpoint)
    found = load_checkpoint(tmp_path / "c.t7")
    assert list(found.models) == ["model", "best_model"]
    assert found.mean.tolist() == [0.4, 0.5, 0.6]
    assert (found.std, found.class_names, found.counters) == (0.25, ["cat", "dog"], {"epoch": 3})
    assert (found.losses, found.rest) == ({"train_loss": [2, 1]}, {"note": "hello"})
    optimizer = dpnn_bridge.optim.from_lua("sgd", found.optimizer["optimState"], found.model)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_file_that_is_the_model_and_one_without(tmp_path: Path) -> None:
    found = load_checkpoint(SAMPLES / "torch-demos__mnist_convnet" / "model.t7")
    assert list(found.models) == [""]
    write_t7(tmp_path / "d.t7", table(a=1))
    with pytest.raises(ModelNotFoundError):
        _ = load_checkpoint(tmp_path / "d.t7").model


def test_face() -> None:
    assert dpnn_bridge.__version__.count(".") == 2
    assert dir(dpnn_bridge) == sorted(dpnn_bridge.__all__)
    assert "Any" not in dir(dpnn_bridge)
    for name in dpnn_bridge.__all__:
        getattr(dpnn_bridge, name)


def test_booleans_are_no_numbers_of_tokens() -> None:
    assert vocabulary_of({"lower": True, "strip": False}) is None


def test_a_boolean_is_no_counter(tmp_path: Path) -> None:
    write_t7(tmp_path / "c.t7", {"epoch": True, "iter": 3})
    found = load_checkpoint(tmp_path / "c.t7")
    assert (found.counters, found.rest) == ({"iter": 3}, {"epoch": True})


def test_dtype_by_name() -> None:
    path = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
    for name, dtype in (("float16", torch.float16), ("torch.float64", torch.float64), ("half", torch.float16)):
        assert next(dpnn_bridge.load(path, dtype=name).parameters()).dtype == dtype
    for wrong in ("flaot16", torch.int32, torch.complex64):
        with pytest.raises(OptionError, match="expected a floating point dtype such as 'float16'"):
            dpnn_bridge.load(path, dtype=wrong)


def test_nothing_beside_the_models_is_dropped(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "word_to_idx": {"a": 1, "b": 2},
        "idx_to_word": ["a", "b"],
        "char_to_idx": {"x": 1},
        "classes": ["cat", "dog"],
        "attribute_labels": ["red"],
        "mean": 0.5,
        "norm": {"mean": 1, "std": 2},
        "vocab": {"\u00b2": "a", "--1": "b"},
    }
    write_t7(tmp_path / "c.t7", data)
    found = load_checkpoint(tmp_path / "c.t7")
    assert (found.vocabulary, found.class_names, found.mean, found.std) == ({"a": 1, "b": 2}, ["cat", "dog"], 0.5, None)
    assert found.rest == {name: data[name] for name in ("char_to_idx", "attribute_labels", "norm", "vocab")}
    write_t7(tmp_path / "n.t7", {"norm": {"mean": 1, "std": 2, "scale": 3}})
    found = load_checkpoint(tmp_path / "n.t7")
    assert (found.mean, found.std, found.rest) == (1, 2, {"norm": {"scale": 3}})


def test_entries_that_are_one_table_are_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Any] = []
    search = checkpoint._search_vocabulary
    monkeypatch.setattr(checkpoint, "_search_vocabulary", lambda *args: searched.append(args[0]) or search(*args))
    words = LuaTable({"a": 1, "b": 2.5})  # no vocabulary
    write_t7(tmp_path / "c.t7", LuaTable({f"{name}{i}": words for name in ("vocab", "config") for i in range(20)}))
    found = load_checkpoint(tmp_path / "c.t7")
    assert len(searched) == 1
    assert (found.vocabulary, found.options) == ({}, {"a": 1, "b": 2.5})
    assert len(found.rest) == 20


def test_a_tensor_that_many_modules_and_entries_share(tmp_path: Path) -> None:
    gold = LuaTensor.from_numpy(np.arange(250_000.0))
    net = to_lua(nn.Sequential(*(nn.Tanh() for _ in range(100))))
    layers = net["modules"].as_list()
    for i, layer in enumerate(layers):
        layer["labels"] = gold if i % 2 else LuaTensor(gold.class_name, (200_000,), (1,), i, gold.storage)
        layer["vocab"] = table(gold=gold, size=5)
    layers[-1]["classes"] = LuaTable.from_list(["cat", "dog"])
    write_t7(tmp_path / "m.t7", table(model=net, **{f"gold{i}": gold for i in range(100)}))
    found = load_checkpoint(tmp_path / "m.t7")
    assert (found.class_names, found.vocabulary) == (["cat", "dog"], {})
    assert len(found.rest) == 100
    assert all(value is found.rest["gold0"] for value in found.rest.values())


def test_a_model_under_two_keys_is_under_both(tmp_path: Path) -> None:
    net, loss = to_lua(nn.Linear(2, 2)), to_lua(nn.MSELoss())
    write_t7(tmp_path / "m.t7", table(model=net, best=net, criterion=loss, other=loss, epoch=3.0))
    found = load_checkpoint(tmp_path / "m.t7")
    assert (found.models.keys(), found.criterions.keys()) == ({"model", "best"}, {"criterion", "other"})
    assert found.model is found.models["best"]
    assert (found.counters, found.rest) == ({"epoch": 3.0}, {})
