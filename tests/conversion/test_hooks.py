"""What a mapping may say: a misspelled hook is refused when the mapping is made, and no field of a file is lost."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from torch import nn

from dpnn_bridge import LuaClass, lua_class, to_lua, to_torch
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.conversion import registry
from dpnn_bridge.objects import LuaObject, LuaTable


@pytest.mark.parametrize(
    ("name", "value", "hook"),
    [
        ("scalar", {"a": "b"}, "scalars"),
        ("tensor", {}, "tensors"),
        ("default", {}, "defaults"),
        ("size", {}, "sizes"),
        ("torchtype", nn.Linear, "torch_type"),
        ("Scalars", {}, "scalars"),
        ("checkedby", "formula", "checked_by"),
        ("match", classmethod(lambda cls, obj: True), "matches"),
        ("toLua", classmethod(lambda cls, module, ctx: {}), "to_lua"),
        ("argument", classmethod(lambda cls, obj, ctx: {}), "arguments"),
        ("upgrades", staticmethod(lambda obj: obj), "upgrade"),
    ],
)
@pytest.mark.parametrize("base", [LuaClass, type("Base", (LuaClass,), {"torch_type": nn.Linear})])
def test_a_misspelled_hook_is_refused(name: str, value: Any, hook: str, base: type[LuaClass]) -> None:
    with pytest.raises(TypeError, match=rf"plugin\.Mine: LuaClass has no attribute '{name}'; did you mean '{hook}'\?"):
        type("Mine", (base,), {"__module__": "plugin", name: value})


def test_one_that_resembles_none_lists_the_hooks() -> None:
    with pytest.raises(TypeError, match=r"no attribute 'xyz'; the hooks are .*scalars.*annotate it: xyz: ClassVar"):
        type("Mine", (LuaClass,), {"xyz": 3})


def test_attributes_and_methods_of_ones_own_are_taken() -> None:
    class Base(LuaClass):
        torch_type = nn.Linear
        gates: ClassVar[int] = 4
        _hidden = 3

        @classmethod
        def helper(cls) -> int:
            return cls.gates

    class Derived(Base):
        gates = 3  # type: ignore[misc]

    assert Derived.helper() == 3


@pytest.mark.parametrize("value", [3, "text", True, LuaTable([("a", 1)])], ids=["number", "text", "boolean", "table"])
def test_a_field_that_no_declaration_handles_comes_back(value: Any) -> None:
    obj = to_lua(nn.Linear(3, 2))
    obj["mine"] = value
    again = to_lua(to_torch(obj))
    assert isinstance(again, LuaObject)
    assert repr(again["mine"]) == repr(value)


def test_the_list_of_classes_holds_lua_classes_alone() -> None:
    listed = CliRunner().invoke(convert_command, ["--list-classes"]).output.splitlines()
    names = [line.partition("\t")[0] for line in listed]
    assert {"nn.Linear", "nn.NoiseFill"} <= set(names)
    assert [name for name in names if name.startswith("dpnn_bridge")] == []


def _layer(**body: Any) -> type[nn.Module]:
    return type("Mine", (nn.Module,), {"__module__": "plugin", **body})


def _mapping(**body: Any) -> type[LuaClass]:
    return type("MineClass", (LuaClass,), {"__module__": "plugin", **body})


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            lambda: lua_class("my.A")(_layer(Lua=type("Lua", (), {"scalars": ("a",)}))),
            "Mine.Lua is not a mapping; .*LuaClass",
        ),
        (lambda: lua_class("my.A")(_layer(Lua={"scalars": ("a",)})), "Mine.Lua is not a mapping; .*LuaClass"),
        (lambda: lua_class("my.A")(_layer(lua=_mapping())), "its mapping is called lua; name it Lua"),
        (lambda: lua_class("my.A")(_mapping()), "torch_type is .*; expected a module class"),
        (
            lambda: lua_class("my.A")(_mapping(torch_type="nn.Linear")),
            "torch_type is 'nn.Linear'; expected a module class",
        ),
        (
            lambda: lua_class("my.A")(_layer(Lua=_mapping(torch_type="nn.Linear"))),
            "torch_type is .*'nn.Linear'.; expected a module class",
        ),
        (lambda: lua_class("my.A")(type("A", (), {})), "expected a subclass of torch.nn.Module or LuaClass"),
        (lambda: lua_class("my.A")(max), "expected a subclass of torch.nn.Module or LuaClass"),  # type: ignore[type-var]
        (lambda: lua_class()(_layer()), 'found none; write @lua_class\\("my.Layer"\\)'),
        (lambda: lua_class(_layer()), 'found <class .plugin.Mine.>; write @lua_class\\("my.Layer"\\)'),  # type: ignore[arg-type]
        (lambda: _mapping(scalars="power"), "scalars is 'power'; expected a dict or tuple"),
        (lambda: _mapping(tensors=["weight"]), r"tensors is \['weight'\]; expected a dict or tuple"),
        (lambda: _mapping(sizes=("weight",)), r"sizes is \('weight',\); expected a dict"),
        (lambda: _mapping(container="yes"), "container is 'yes'; expected a bool"),
    ],
)
@pytest.mark.usefixtures("own_registry")
def test_a_declaration_of_another_kind_is_refused(declare: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        declare()
    assert "my.A" not in registry._BY_NAME


@pytest.mark.usefixtures("own_registry")
def test_a_subclass_has_the_mapping_of_its_base_class() -> None:
    base = _layer(Lua=_mapping(scalars=("power",)))
    one, other = (lua_class(f"my.{name}")(type(name, (base,), {"__module__": "plugin"})) for name in "AB")
    for kind, name in ((one, "my.A"), (other, "my.B")):
        module = kind()
        module.power = 3  # type: ignore[assignment]
        obj = to_lua(module)
        assert isinstance(obj, LuaObject)
        assert (obj.class_name, obj["power"]) == (name, 3)
    with pytest.raises(TypeError, match=r"C\.Lua is not a mapping"):
        lua_class("my.C")(type("C", (_layer(Lua=int),), {"__module__": "plugin"}))
