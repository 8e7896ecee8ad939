"""What the converting process and a user's plugin contain beside the model does not change a ``.py`` file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from standalone import executed
from test_python_source import PLUGIN, rebuilt, source_of
from torch import nn

from dpnn_bridge import convert, plugins, write_t7
from dpnn_bridge.conversion import registry, to_torch
from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.objects import LuaObject, LuaTable


# ---------------------------------------------------------------------- the process that converts
@pytest.mark.parametrize("default", [torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_defaults_of_the_converter_are_not_those_of_the_program(
    default: torch.dtype, dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.set_default_dtype(default)
    try:
        with torch.device("meta"):
            source = source_of(nn.Sequential(nn.Linear(2, 3, device="cpu", dtype=dtype)), tmp_path)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    weight = executed(source).build()[0].weight
    assert (weight.dtype, weight.device.type) == (dtype, "cpu")


def test_random_numbers_of_the_converter_are_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    before = torch.get_rng_state()
    source_of(model, tmp_path, input=torch.ones(1, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_weights_of_a_loss_are_any_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = torch.tensor([[1.0, float("inf")], [float("-inf"), float("nan")]], dtype=dtype)
    built = executed(source_of(nn.BCELoss(weights), tmp_path)).build()
    torch.testing.assert_close(built.weight, weights, equal_nan=True)


def test_a_missing_parameter_is_named(tmp_path: Path) -> None:
    layer = nn.MultiheadAttention(4, 2, kdim=3)  # its constructor does not keep the argument bias
    with pytest.raises(VerificationError, match="the state_dict does not fit"):
        source_of(nn.MultiheadAttention(4, 2, bias=False, kdim=3).requires_grad_(False), tmp_path)
    assert rebuilt(layer, tmp_path).kdim == 3


# ---------------------------------------------------------------------- names of a plugin
@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ("OTHER, FACTOR = 1, 2", "FACTOR of .* is not defined by a statement of its own"),
        ("if True:\n    FACTOR = 2", "FACTOR of .* is not defined by a statement of its own"),
        ("FACTOR = 1\nFACTOR += 1", "FACTOR of .* is changed after its definition"),
        ("FACTOR = 1\nFACTOR = FACTOR + 1", "FACTOR of .* is changed after its definition"),
        ("FACTOR = torch.ones(1)\nFACTOR[0] = 2", "FACTOR of .* is changed after its definition"),
        ("FACTOR = torch.ones(1)\nFACTOR.add_(1)", "FACTOR of .* is changed after its definition"),
        ("for FACTOR in (1, 2):\n    pass", "FACTOR of .* is not defined by a statement of its own"),
        ("FACTOR = 2\n@torch.no_grad()\ndef count():\n    global FACTOR\n    FACTOR = 2", None),
        ("FACTOR = 2\nif __name__ == '__main__':\n    FACTOR = 3", None),
        ("N = 2\ndef sized(): return [N for N in range(1)] + [N]\nFACTOR = sized()[1]", None),
    ],
)
def test_a_name_of_a_plugin_is_copied_with_its_value_or_not_at_all(
    definition: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    code = PLUGIN.replace("self.factor\n\n@", "FACTOR\n\n@").replace(
        "from torch", f"import torch\n{definition}\nfrom torch"
    )
    (tmp_path / "layers.py").write_text(code)
    plugins.load_plugins([tmp_path / "layers.py"])
    model = to_torch(LuaObject("mine.Scale", LuaTable({"factor": 3.0})))
    if reason is None:
        assert rebuilt(model, tmp_path)(torch.ones(1)) == 2
    else:
        with pytest.raises(ConversionError, match=reason):
            source_of(model, tmp_path)


def test_modules_that_a_file_needs_besides_pytorch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_factors.py").write_text("FACTOR = MORE = 2")
    code = PLUGIN.replace("self.factor\n\n@", "FACTOR\n\n@").replace(
        "        input =", "        import own_more\n        input ="
    )
    (tmp_path / "layers.py").write_text(f"import math\nfrom own_factors import FACTOR\n{code}")
    plugins.load_plugins([tmp_path / "layers.py"])
    write_t7(tmp_path / "scale.t7", LuaObject("mine.Scale", LuaTable({"factor": 3.0})))
    report = convert(tmp_path / "scale.t7", tmp_path / "scale.py")
    assert any(note.startswith("the file needs own_factors, own_more besides PyTorch") for note in report.notes)
    write_t7(tmp_path / "tanh.t7", LuaObject("nn.Tanh", LuaTable()))
    assert convert(tmp_path / "tanh.t7", tmp_path / "tanh.py").notes == []


def test_a_class_that_uses_its_own_file_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    code = PLUGIN.replace("    power: float = 1.0", "    power: float = float(len(__file__))")
    (tmp_path / "layers.py").write_text(code)
    plugins.load_plugins([tmp_path / "layers.py"])
    with pytest.raises(ConversionError, match=r"__file__.*remove this, or write \.pt"):
        source_of(to_torch(LuaObject("mine.Scale", LuaTable({"factor": 3.0}))), tmp_path)


def test_all_submodules_that_a_plugin_imports_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    code = PLUGIN.replace("self.factor\n\n@", "len(xml.__name__)\n\n@")
    (tmp_path / "layers.py").write_text("import xml.dom\nimport xml.sax as sax, xml.sax\n" + code)
    plugins.load_plugins([tmp_path / "layers.py"])
    source = source_of(to_torch(LuaObject("mine.Scale", LuaTable({"factor": 3.0}))), tmp_path)
    assert "import xml.dom\nimport xml.sax\n" in source


def test_a_class_of_a_plugin_that_changes_a_global_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    body = "global CALLS\n        CALLS += 1\n        return input"
    (tmp_path / "layers.py").write_text(f"CALLS = 0\n{PLUGIN.replace('return input * self.factor', body)}")
    plugins.load_plugins([tmp_path / "layers.py"])
    with pytest.raises(ConversionError, match=r"CALLS of .* is changed by Scale"):
        source_of(to_torch(LuaObject("mine.Scale", LuaTable({"factor": 3.0}))), tmp_path)


ALIAS = """
from math import {function} as factor
{annotation}
from torch import nn
from dpnn_bridge import LuaClass, lua_class

class {name}(nn.Module):
    def forward(self, input: Other) -> Other:
        return input * factor(2.0)

@lua_class("mine.{name}")
class Mapping(LuaClass):
    torch_type = {name}
"""


def test_a_name_that_two_plugins_import_means_the_same_in_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    for name, function, other in (("Root", "sqrt", "Any"), ("Exp", "exp", "Any"), ("Again", "sqrt", "List")):
        annotation = f"from typing import {other} as Other"
        (tmp_path / f"{name}.py").write_text(ALIAS.format(name=name, function=function, annotation=annotation))
        plugins.load_plugins([tmp_path / f"{name}.py"])
    root, exp, again = (to_torch(LuaObject(f"mine.{name}")) for name in ("Root", "Exp", "Again"))
    with pytest.raises(ConversionError, match=r"factor of the module .* means something else in another definition"):
        source_of(nn.Sequential(root, exp), tmp_path)
    torch.testing.assert_close(rebuilt(nn.Sequential(root, again), tmp_path)(torch.ones(1)), torch.full((1,), 2.0))


def test_a_class_that_imports_this_package_when_it_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    body = "from dpnn_bridge.modules.nn.arithmetic import CAddTable\n        return CAddTable()([input])"
    (tmp_path / "layers.py").write_text(PLUGIN.replace("return input * self.factor", body))
    plugins.load_plugins([tmp_path / "layers.py"])
    with pytest.raises(ConversionError, match=r"Scale of the module .* imports when it runs"):
        source_of(to_torch(LuaObject("mine.Scale", LuaTable({"factor": 3.0}))), tmp_path)
