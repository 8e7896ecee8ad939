"""Whose class it is: a plugin comes before a Lua file, and that before what is built in, which may not fit."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import LuaClass, lua_class, to_lua
from dpnn_bridge.conversion import Options, convert_object, registry
from dpnn_bridge.conversion.constructor import takes_number
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, ConversionLimitError, UnsupportedClassError
from dpnn_bridge.files import load_with_report
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.outputs.container import pack
from dpnn_bridge.plugins import load_plugins

pytestmark = pytest.mark.usefixtures("own_registry")


def lua(name: str, **fields: Any) -> LuaObject:
    arrays = {k: LuaTensor.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in fields.items()}
    return LuaObject(name, LuaTable(arrays.items()))


def sequential(*modules: LuaObject) -> LuaObject:
    return LuaObject("nn.Sequential", LuaTable([("modules", LuaTable.from_list(modules))]))


#: names that are built in, with fields that another project gave them
CONFLICTS = [
    lua("nn.NoiseFill", channels=3),
    lua("nn.Linear", kernel=np.ones((2, 3))),
    lua("nn.Linear", weight="ours"),
    lua("nn.Linear", weight=np.ones(4), bias=np.ones(4)),
    lua("nn.SpatialConvolution", filters=np.ones((2, 3))),
    lua("nn.SpatialConvolution", nInputPlane="three", weight=np.ones((1, 3, 2, 2))),
    lua("nn.Dropout", rate=LuaTable()),
    lua("nn.View", shape=LuaTable.from_list([1, 2])),
    lua("nn.Concat", modules="none"),
    lua("nn.BatchNormalization", mean=np.ones(3)),
    lua("nn.LSTM", gates=np.ones((4, 4))),
    lua("nn.Padding", amount=LuaTable()),
    lua("dpnn.Convert", table=LuaTable()),
    lua("nn.LookupTable", vectors=np.ones((3, 2))),
    lua("nn.Sequencer", wrapped=3),
    lua("nn.LeakyReLU", negval="steep"),
    lua(
        "nn.SpatialConvolution",
        nInputPlane=1,
        nOutputPlane=1,
        kW=1,
        kH=1,
        padW="a",
        padH=0,
        weight=np.ones((1, 1, 1, 1)),
    ),
    lua("nn.TemporalMaxPooling", kW=LuaTable(), dW=1),
    lua("nn.MarginCriterion", margin="wide"),
]


@pytest.mark.parametrize("obj", CONFLICTS, ids=lambda o: f"{o.class_name}-{'-'.join(o.fields)}")
def test_an_object_that_its_class_does_not_fit_is_unsupported(obj: LuaObject, tmp_path: Path) -> None:
    model = sequential(to_lua(nn.Linear(3, 2)), lua("nn.Concat", dimension=2), obj)
    model["modules"][2]["modules"] = LuaTable.from_list([obj])
    is_known = registry.is_known(obj.class_name)
    try:
        module, report = convert_object(sequential(obj), Options(allow_unsupported=True))
    except ConversionError as error:
        pytest.fail(f"allow_unsupported raises {error}")
    assert report.unsupported
    assert isinstance(module[0], Placeholder)  # type: ignore[index]
    with pytest.raises(UnsupportedClassError) as caught:
        convert_object(model, Options(), "net")
    (entry,) = caught.value.classes
    assert entry.class_name == obj.class_name
    assert entry.paths == ["net.modules[2].modules[1]", "net.modules[3]"][: len(entry.paths)]
    for text in (obj.class_name, "net.modules[2].modules[1]", "--plugin", "--lua", "--allow-unsupported"):
        assert text in str(caught.value)
    assert (entry.reason != "") == is_known
    if is_known:
        assert "overrides `matches`" in str(caught.value)
        assert entry.reason in str(caught.value)
    for suffix in (".pt", ".t7"):  # what is written loads again, and the rest of the model with it
        path = tmp_path / f"net{suffix}"
        dpnn_bridge.write_t7(path, model) if suffix == ".t7" else dpnn_bridge.save(
            path, convert_object(model, Options(allow_unsupported=True))[0]
        )
        again = dpnn_bridge.load(path, allow_unsupported=True)
        assert torch.equal(again[0].weight.double(), model["modules"][1]["weight"].torch().double())


def test_every_class_that_does_not_fit_is_named_at_once() -> None:
    model = sequential(lua("nn.Linear", a=1), lua("nn.Unheard", b=2), lua("nn.Linear", c=3))
    with pytest.raises(UnsupportedClassError, match="a mapping and 2 Lua classes whose mapping") as caught:
        dpnn_bridge.to_torch(model)
    assert [c.paths for c in caught.value.classes] == [["modules[1]"], ["modules[2]"], ["modules[3]"]]


def test_what_is_endless_or_too_large_is_refused_all_the_same() -> None:
    model = sequential()
    model["modules"][1] = model
    one = LuaTensor.from_numpy(np.ones(1)).storage
    repeated = LuaTensor("torch.DoubleTensor", (1 << 20, 1 << 20), (0, 0), 0, one)
    big = LuaObject("nn.Linear", LuaTable([("weight", repeated)]))
    for obj, text in ((model, "contains itself"), (sequential(big), "more memory than the file contains")):
        with pytest.raises(ConversionLimitError, match=text):
            convert_object(obj, Options(allow_unsupported=True))


def test_a_module_that_was_not_finished_is_no_source_of_a_tie() -> None:
    whole, flat = nn.Linear(3, 2), np.arange(8.0)
    good = to_lua(whole.double())
    storage = LuaTensor.from_numpy(flat).storage
    good["weight"] = LuaTensor("torch.DoubleTensor", (2, 3), (3, 1), 0, storage)
    good["bias"] = LuaTensor("torch.DoubleTensor", (2,), (1,), 6, storage)
    bad = LuaObject("nn.Linear", LuaTable(good.items()))
    bad["weight"] = LuaTensor("torch.DoubleTensor", (3, 2), (1, 3), 0, storage)
    bad["bias"] = LuaTensor.from_numpy(np.ones(5))
    module, report = convert_object(sequential(bad, good), Options(allow_unsupported=True))
    assert [c.class_name for c in report.unsupported] == ["nn.Linear"]
    assert {"1.weight", "1.bias"} == {name for name, _ in module.named_parameters()}
    assert torch.equal(module.state_dict()["1.weight"], torch.arange(6.0).double().view(2, 3))


# ---------------------------------------------------------------------- the user's own
PLUGIN = """
import torch
from dpnn_bridge import LuaClass, lua_class

class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)

@lua_class("nn.Linear")
class DoubledClass(LuaClass):
    torch_type = Doubled
    tensors = {"weight": "weight", "bias": "bias"}
    sizes = {"weight": ("out_features", "in_features")}
"""
LUA = """
require 'nn'
local Linear = torch.class('nn.Linear', 'nn.Module')
function Linear:updateOutput(x)
   self.output = torch.mm(x, self.weight:t()):mul(3)
   return self.output
end
"""


def test_plugin_then_lua_then_what_is_built_in(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "mine.lua").write_text(LUA)
    layer = nn.Linear(3, 2).double()
    nn.init.zeros_(layer.bias)
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Sequential(layer, nn.Tanh()))
    x = torch.randn(4, 3, dtype=torch.float64)

    def factor(**options: Any) -> tuple[float, str]:
        path = tmp_path / "b.pt"
        report = dpnn_bridge.convert(tmp_path / "a.t7", path, force=True, **options)
        model = dpnn_bridge.load(path, **options)
        return round(float((model[0](x) / layer(x)).mean()), 6), "\n".join(report.notes)

    files = {"plugins": [tmp_path / "mine.py"], "lua": tmp_path / "mine.lua"}
    assert factor() == (1, "")
    assert factor(lua=files["lua"]) == (3, "nn.Linear: the Lua class takes precedence over the built-in mapping")
    found, notes = factor(**files)
    assert found == 2
    assert notes == "nn.Linear: DoubledClass of mine.py takes precedence over the built-in mapping"
    assert dpnn_bridge.inspect(tmp_path / "a.t7", plugins=files["plugins"]).models[0].notes == [notes]
    written = to_lua(dpnn_bridge.load(tmp_path / "a.t7"))
    assert written["modules"][1].class_name == "nn.Linear"


def test_a_plugin_that_writes_a_file_that_it_names_runs_once(tmp_path: Path) -> None:
    (tmp_path / "log.py").write_text(f"with open({str(tmp_path / 'ran')!r}, 'a') as file: file.write('x')\n")
    for _ in range(2):
        load_plugins([tmp_path / "log.py"])
    assert (tmp_path / "ran").read_text() == "x"


@pytest.mark.parametrize("where", ["plugin", "helper"])
def test_a_plugin_that_changed_runs_again(where: str, tmp_path: Path) -> None:
    plugin, helper = tmp_path / "mine.py", tmp_path / "factor_of_mine.py"
    files = {"plugin": plugin, "helper": helper}
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport factor_of_mine as other\nfactor = 2\n"
    plugin.write_text(start + PLUGIN.replace("2 *", "factor * other.factor *"))
    helper.write_text("factor = 2\n")
    layer = nn.Linear(3, 2).double()
    dpnn_bridge.write_t7(tmp_path / "a.t7", layer)
    x, found = torch.randn(4, 3, dtype=torch.float64), []
    for value in (2, 3, 3):  # the size of the file and the second of its change stay the same
        files[where].write_text(files[where].read_text().replace("factor = 2", f"factor = {value}"))
        first = dpnn_bridge.load(tmp_path / "a.t7", plugins=[plugin])
        found.append(round(float((first(x) / layer(x)).mean()), 6))
        assert dpnn_bridge.to_lua(first).class_name == "nn.Linear"
    assert found == [4, 6, 6]
    plugin.write_text("")  # what it registered goes
    assert type(dpnn_bridge.load(tmp_path / "a.t7", plugins=[plugin])) is nn.Linear


def test_a_plugin_imports_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_mine.py").write_text("factor = 2\n")
    (tmp_path / "json.py").write_text("raise KeyError('a module of Python comes first')\n")
    (tmp_path / "mine.py").write_text(f"import json\nimport beside_mine\nassert json.loads\n{PLUGIN}")
    before = list(sys.path)
    load_plugins([tmp_path / "mine.py"])
    assert sys.path == before
    (tmp_path / "mine.py").write_text("")
    load_plugins([tmp_path / "mine.py"])


def test_a_plugin_that_raises_registers_nothing(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Linear(3, 2))
    (tmp_path / "mine.py").write_text(f"{PLUGIN}\nraise KeyError('no')\n")
    with pytest.raises(ConversionError, match=r"loading the plugin .* KeyError"):
        load_plugins([tmp_path / "mine.py"])
    assert type(dpnn_bridge.load(tmp_path / "a.t7")) is nn.Linear
    (tmp_path / "mine.py").write_text(PLUGIN)
    assert type(dpnn_bridge.load(tmp_path / "a.t7", plugins=[tmp_path / "mine.py"])) is not nn.Linear
    (tmp_path / "mine.py").write_text("")
    load_plugins([tmp_path / "mine.py"])


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Convert two layers with options, and forget the plugins among them."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "mine.lua").write_text(LUA)
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double())

    def convert(name: str, **options: Any) -> Path:
        with monkeypatch.context() as patch:
            for known in ("_BY_NAME", "_BY_TYPE"):
                patch.setattr(registry, known, {k: [*v] for k, v in getattr(registry, known).items()})
            dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / name, **options)
        return tmp_path / name

    return convert


@pytest.mark.parametrize("name", ["b.pt", "b.safetensors"])
def test_a_file_of_a_plugin_needs_it(name: str, written: Callable[..., Path]) -> None:
    path = written(name, plugins=[written("a.pt").with_name("mine.py")])
    with pytest.raises(UnsupportedClassError, match=r"DoubledClass of mine\.py\n") as caught:
        dpnn_bridge.load(path)
    (entry,) = caught.value.classes
    assert (entry.class_name, entry.paths, entry.reason) == ("nn.Linear", ["modules[1]"], "")
    assert "--plugin, plugins=" in str(caught.value)
    with pytest.raises(
        ConversionError, match=r"the names and layouts of a class mapping .*DoubledClass of mine\.py.*--plugin"
    ) as other:
        dpnn_bridge.load(path, allow_unsupported=True)
    assert (other.value.path, other.value.class_name) == ("0", "nn.Linear")
    content = pack(dpnn_bridge.load(path.with_name("a.t7")))
    content["graph"] = content["graph"].replace(
        '"object": "nn.Linear"', '"object": "nn.Linear", "mapping": "\\u001b\\n"'
    )
    torch.save(content, path.with_name("hostile.pt"))
    for options in ({}, {"allow_unsupported": True}):
        with pytest.raises(ConversionError, match=r"written with \\x1b\\n|mapping \(\\x1b\\n\)"):
            dpnn_bridge.load(path.with_name("hostile.pt"), **options)


def test_a_source_has_the_class_of_a_plugin_and_says_so(written: Callable[..., Path]) -> None:
    text = written("b.py", plugins=[written("a.pt").with_name("mine.py")]).read_text()
    assert "class Doubled(torch.nn.Linear):" in text
    assert "\nClasses of plugins: DoubledClass of mine.py.\n" in text


def test_a_file_of_a_lua_class_needs_it(written: Callable[..., Path]) -> None:
    pytest.importorskip("lupa")
    path = written("b.pt", lua=written("a.pt").with_name("mine.lua"))
    with pytest.raises(UnsupportedClassError, match=r"modules\[1\]\n    the file was written with mine\.lua\n.*"):
        dpnn_bridge.load(path)
    placeholder = dpnn_bridge.load(path, allow_unsupported=True)[0]  # type: ignore[index]
    assert torch.equal(placeholder.obj["weight"].torch(), dpnn_bridge.load(path.with_name("a.t7"))[0].weight)
    dpnn_bridge.save(path.with_name("c.pt"), nn.Sequential(placeholder))
    with pytest.raises(UnsupportedClassError, match=r"mine\.lua"):
        dpnn_bridge.load(path.with_name("c.pt"))
    assert "NOT supported: nn.Linear" in str(dpnn_bridge.inspect(path))
    assert type(dpnn_bridge.load(path, lua=path.with_name("mine.lua"))[0]).__name__ == "LuaModule"  # type: ignore[index]


def test_a_plugin_for_one_variant_leaves_the_others() -> None:
    class Ours(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    @lua_class("nn.Linear")
    class OursClass(LuaClass):
        torch_type = Ours

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "kernel" in obj

    model = dpnn_bridge.to_torch(sequential(lua("nn.Linear", kernel=1), to_lua(nn.Linear(3, 2))))
    assert [type(m) for m in model.children()] == [Ours, nn.Linear]
    assert re.findall(r'"mapping": "(.*?)"', pack(model)["graph"]) == [
        f"{OursClass.__qualname__} of test_precedence.py"
    ]
    again = to_lua(model)
    assert again["modules"][1]["kernel"] == 1
    assert again["modules"][2]["weight"].shape == (2, 3)


def test_a_method_that_a_lua_file_replaces_takes_precedence(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    (tmp_path / "patch.lua").write_text(
        "require 'nn'\nfunction nn.ReLU:updateOutput(x) self.output = x * 7 return self.output end\n"
    )
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Sequential(nn.ReLU(), nn.Tanh()).double())
    x = torch.randn(2, 3, dtype=torch.float64)
    model = dpnn_bridge.load(tmp_path / "a.t7", lua=tmp_path / "patch.lua")
    torch.testing.assert_close(model(x), torch.tanh(7 * x))
    assert [type(m).__name__ for m in model.children()] == ["LuaModule", "Tanh"]


def test_a_package_that_a_lua_file_requires_is_not_the_users_own(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    from dpnn_bridge.lua import LuaBridge

    (tmp_path / "nn").mkdir()
    (tmp_path / "nn" / "init.lua").write_text(
        "nn = {} torch.class('nn.Module')\n" + LUA.replace("require 'nn'", "") + "return nn"
    )
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "init.lua").write_text("require 'nn'\ntorch.class('nn.Mine', 'nn.Linear')")
    bridge = LuaBridge(tmp_path)
    bridge.execute("require 'layers' torch.class('nn.Here', 'nn.Mine')")
    names = ("nn.Module", "nn.Linear", "nn.Mine", "nn.Here", "nn.Unheard")
    assert [bridge.defines(name) for name in names] == [False, False, True, True, False]
    dpnn_bridge.write_t7(tmp_path / "a.t7", nn.Linear(3, 2))
    module, report = load_with_report(
        tmp_path / "a.t7", None, Options(fallback=bridge.convert, overrides=bridge.defines)
    )
    assert type(module) is nn.Linear
    assert report.notes == []


def test_an_object_that_no_class_of_its_name_accepts_has_a_reason() -> None:
    with pytest.raises(UnsupportedClassError, match="1 Lua class whose mapping cannot convert an object") as caught:
        dpnn_bridge.to_torch(sequential(lua("nn.FastLSTM", k=1)))
    assert "modules[1] (nn.FastLSTM): its fields are not those of a known class of this name" in str(caught.value)
    assert "nearest known class" not in str(caught.value)


def test_texts_of_a_plugin_are_kept_whatever_the_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    @lua_class("my.Resize")
    class Resize(nn.Module):
        def __init__(self, mode: str, axes: tuple[str, str]) -> None:
            super().__init__()
            self.mode, self.axes = mode, axes

        class Lua(LuaClass):
            scalars = {"mode": "mode", ("first", "second"): "axes"}

    obj = lua("my.Resize", mode="nearest", first="x", second="y")
    module = dpnn_bridge.to_torch(obj)
    assert (module.mode, module.axes) == ("nearest", ("x", "y"))
    takes_number.cache_clear()
    monkeypatch.setitem(Resize.__init__.__annotations__, "mode", "OnlyForTypeCheckers")
    assert dpnn_bridge.to_torch(obj).mode == "nearest"
