"""Writing takes time in proportion to the number of modules."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.batch import tasks_for_models
from dpnn_bridge.outputs.py import settings
from dpnn_bridge.outputs.py.closure import SourceClosure
from dpnn_bridge.outputs.py.helpers import load_weights


def seconds(count: int, path: Path) -> float:
    """The least of two times, since other programs run too."""
    model, found = nn.Sequential(*[nn.Linear(2, 2)] * count), []
    for _ in range(2):
        start = time.process_time()
        dpnn_bridge.save(path, model)
        found.append(time.process_time() - start)
    return min(found)


def test_references_to_one_module_take_linear_time(tmp_path: Path) -> None:
    short, long = (seconds(n, tmp_path / "m.py") for n in (1000, 4000))
    assert long < 8 * short + 0.2, (short, long)  # it took 16 times as long, 2.8 s


def test_modules_of_other_types_are_cast_one_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each cast compared the types of all modules: 5 s for 1,000 modules."""
    asked: list[object] = []
    looked = settings._casts
    monkeypatch.setattr(settings, "_casts", lambda pair: asked.append(pair) or looked(pair))
    counts = []
    for count in (10, 40):
        asked.clear()
        layers = [nn.Linear(2, 2, dtype=torch.float64 if i % 2 else torch.float32) for i in range(count)]
        dpnn_bridge.save(tmp_path / f"{count}.py", nn.Sequential(*layers))
        counts.append(len(asked))
    assert counts[1] < 5 * counts[0], counts


def test_many_modules_of_one_kind_get_names_in_linear_time() -> None:
    closure, start = SourceClosure(), time.process_time()
    names = {closure.unique("shared_linear") for _ in range(20_000)}
    assert len(names) == 20_000
    assert time.process_time() - start < 2  # it took 8 s


def test_models_whose_keys_give_one_name_get_others_in_linear_time(tmp_path: Path) -> None:
    keys = ["".join("!?"[i >> bit & 1] for bit in range(12)) for i in range(4000)]
    start = time.process_time()
    tasks = tasks_for_models(tmp_path / "m.t7", tmp_path / "m.pt", keys)
    assert len({task.target for task in tasks}) == 4000
    assert time.process_time() - start < 2  # it took 16 s


def test_a_program_takes_the_weights_that_pytorch_would_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program does not use load_state_dict, which takes quadratic time; it must refuse what that would refuse."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))
    dpnn_bridge.save(tmp_path / "m.py", model)
    program = runpy.run_path(str(tmp_path / "m.py"))
    state = model.state_dict()
    with monkeypatch.context() as without:
        without.setattr(nn.Module, "load_state_dict", None)
        for suffix in (".pt", ".npz", ".safetensors"):
            dpnn_bridge.save(tmp_path / f"m{suffix}", model)
            loaded = program["load"](str(tmp_path / f"m{suffix}"))
            assert all(a.equal(b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    for wrong in (
        {k: v for k, v in state.items() if k != "1.1.bias"},
        {**state, "1.1.more": state["0.bias"]},
        {**state, "2.weight": state["0.bias"]},
        {**state, "0": state["0.bias"]},
        {**state, "0.bias": state["1.1.bias"]},
    ):
        with pytest.raises(RuntimeError):
            program["build"]().load_state_dict(wrong)
        with pytest.raises(RuntimeError, match="the state_dict does not fit Sequential"):
            program["load_weights"](program["build"](), wrong)


class Loaded(nn.Linear):
    """A layer that counts how often it was loaded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.times = 0
        self.register_load_state_dict_post_hook(type(self).count)

    def count(self, _names: object) -> None:
        self.times += 1


def test_hooks_of_the_loaded_modules_run() -> None:
    layer = Loaded(2, 3)
    model = nn.Sequential(nn.Tanh(), layer)
    weights = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    load_weights(model, weights)
    assert layer.times == 1
    assert not layer.weight.any()
