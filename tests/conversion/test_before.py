"""Files, pickles and plugins of November 2026, when a module and its mapping were two classes, go on working."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.hooks import RENAMED
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

BEFORE = Path(__file__).parent / "before"
#: pickles of converted modules; :func:`converted` makes each from the fixture that it was made of
PICKLED = [
    *("nn.Cosine", "nn.Inception", "nn.LookupTable", "nn.NCEModule", "nn.PReLU", "nn.SeqLSTM", "nn.SoftMaxTree"),
    *("nn.WeightNorm", "nn.gModule"),
]


def converted(name: str) -> torch.nn.Module:
    file = next(e["file"] for e in manifest(kind="module") if e["class"] == name)
    return dpnn_bridge.to_torch(dpnn_bridge.read_t7(FIXTURES / file)["module"])


def assert_same(old: torch.nn.Module, new: torch.nn.Module) -> None:
    assert repr(old) == repr(new)
    assert registry.mapping_of(old) is registry.mapping_of(new)
    torch.testing.assert_close(old.state_dict(), new.state_dict(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_load(name: str) -> None:
    assert_same(torch.load(BEFORE / "modules.pickle", weights_only=False)[name], converted(name))


@pytest.mark.parametrize("name", ["nn.NCEModule", "nn.SeqLSTM", "nn.gModule"])
def test_files_load(name: str) -> None:
    assert_same(dpnn_bridge.load(BEFORE / f"{name}.pt"), converted(name))


def test_plugins_map_their_classes_in_both_directions(tmp_path: Path) -> None:
    layer = LuaObject("before.Scale", LuaTable([("power", 2), ("weight", LuaTensor.from_numpy(np.array([1.0, 3.0])))]))
    dpnn_bridge.write_t7(tmp_path / "scale.t7", layer)
    module = dpnn_bridge.load(tmp_path / "scale.t7", plugins=[BEFORE / "plugin.py"])
    assert module(torch.ones(2, dtype=torch.float64)).tolist() == [1, 9]
    assert dpnn_bridge.to_lua(module).class_name == "before.Scale"


def test_plugins_may_use_the_earlier_names_of_hooks(tmp_path: Path) -> None:
    weight = LuaTensor.from_numpy(np.array([1.0, 3.0]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, value in ("Square", 9), ("Cube", 27):
            layer = LuaObject(f"before.{name}", LuaTable([("weight", weight), ("square", 5)]))
            dpnn_bridge.write_t7(tmp_path / f"{name}.t7", layer)
            module = dpnn_bridge.load(tmp_path / f"{name}.t7", plugins=[BEFORE / "plugin_hooks.py"])
            assert module(torch.ones(2, dtype=torch.float64)).tolist() == [1, value]
            assert not module.training
            written = dpnn_bridge.to_lua(module)["wrapped"]
            assert (written.class_name, "square" in written) == (f"before.{name}", False)
    made = type(module)(torch.ones(1), 1, 1)
    assert registry.mapping_of(made).names[0] == "before.Square"  # the other is for files only
    renamed = [w for w in caught if "of LuaClass is now called" in str(w.message)]
    assert {Path(w.filename).name for w in renamed} == {"plugin_hooks.py"}
    assert [new for new in RENAMED.values() if not any(f"now called {new!r}" in str(w.message) for w in renamed)] == []


def test_hooks_are_read_by_their_earlier_names() -> None:
    mapping = registry.mappings_of("nn.Copy")[0]
    assert {new: getattr(mapping, old) for old, new in RENAMED.items()} == {
        new: getattr(mapping, new) for new in RENAMED.values()
    }
