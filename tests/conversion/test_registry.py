"""What every registered Lua class promises."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FIXTURES, manifest
from torch import nn

from dpnn_bridge import parity, read_t7, to_lua, to_torch
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import LuaClass, torch_types
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.registry import known_names, lua_class
from dpnn_bridge.modules.dpnn import PrintSize
from dpnn_bridge.modules.nn import CMul, Sum
from dpnn_bridge.modules.rnn import MaskZero
from dpnn_bridge.objects import LuaObject, LuaTable

KNOWN_NAMES = known_names()
MAPPINGS = list(dict.fromkeys(mapping for mappings in KNOWN_NAMES.values() for mapping in mappings))
#: all Lua strings of all fixtures, in which the names of their classes occur
STRINGS = b"".join((FIXTURES / e["file"]).read_bytes() for e in manifest())
#: the smallest fixture of each class that runs forward
FIRST = {
    e["class"]: e
    for e in sorted(manifest(kind=("module", "criterion")), key=lambda e: -(FIXTURES / e["file"]).stat().st_size)
    if e["class"] in KNOWN_NAMES
}


def is_stock(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith("torch.nn.")


OWN = list(dict.fromkeys(t for mapping in MAPPINGS for t in torch_types(mapping) if not is_stock(t)))


def mapping_id(mapping: type) -> str:
    return f"{mapping.__module__.rpartition('.')[2]}.{mapping.__qualname__}"


def converted(entry: dict[str, Any]) -> tuple[LuaTable, nn.Module]:
    fixture = read_t7(FIXTURES / entry["file"])
    return fixture, to_torch(fixture["module"])


def a_mapping(name: str, module: str, **declared: Any) -> type[LuaClass]:
    return type(
        name, (LuaClass,), {"__module__": module, "torch_type": type(f"{name}Module", (nn.Module,), {})} | declared
    )


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("module", ["dpnn_bridge.modules.nn.again", "dpnn_bridge.zoo.again"])
def test_a_name_is_registered_once(module: str) -> None:
    with pytest.raises(ValueError, match=r"nn\.Linear is registered in .*linear and in .*again"):
        lua_class("nn.Linear")(a_mapping("Again", module))


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_registered_once_outside_too() -> None:
    lua_class("nn.Linear")(a_mapping("First", "one_plugin"))
    with pytest.raises(ValueError, match=r"nn\.Linear is registered in one_plugin and in another_plugin"):
        lua_class("nn.Linear")(a_mapping("Second", "another_plugin"))


@pytest.mark.usefixtures("own_registry")
def test_a_mapping_that_is_defined_again_replaces_itself() -> None:
    lua_class("my.Layer")(a_mapping("Cell", "__main__", torch_type=nn.Bilinear))
    again = lua_class("my.Layer")(a_mapping("Cell", "__main__", torch_type=nn.Bilinear))
    assert registry.mappings_of("my.Layer") == [again]
    assert again in registry._BY_TYPE[nn.Bilinear]


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("name", ["nn.Linear", "nn.LSTM", "nn.NoiseFill", "dpnn.Convert"])
@pytest.mark.parametrize("when", ["always", "matching", "not matching"])
def test_mappings_from_outside_come_first(name: str, when: str) -> None:
    own = registry.mappings_of(name)
    matches = {"matches": classmethod(lambda cls, obj: "mine" in obj)} if when != "always" else {}
    theirs = lua_class(name)(a_mapping("Theirs", "some_plugin", **matches))
    obj = LuaObject(name, LuaTable([("mine", True)] if when == "matching" else []))
    found = registry.find(obj)
    assert (found is theirs) == (when != "not matching")
    assert registry.mappings_of(name) == [theirs, *own]


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("names", "declared", "wins"),
    [
        (("my.Linear",), {}, False),
        (("nn.Linear",), {}, True),
        (("my.Linear", "nn.Linear"), {}, True),
        (("nn.Linear",), {"matches": classmethod(lambda cls, obj: "mine" in obj)}, False),
        (("my.Linear",), {"represents": classmethod(lambda cls, module: module.in_features == 2)}, True),
        (("my.Linear",), {"represents": classmethod(lambda cls, module: module.in_features == 5)}, False),
    ],
)
def test_a_mapping_from_outside_writes_modules_of_pytorch_if_it_has_the_name(
    names: tuple[str, ...], declared: dict[str, Any], wins: bool
) -> None:
    theirs = lua_class(*names)(a_mapping("Theirs", "some_plugin", torch_type=nn.Linear, **declared))
    assert (registry.mapping_of(nn.Linear(2, 3)) is theirs) == wins


def test_variants_of_a_name_are_told_apart() -> None:
    for name, mappings in known_names().items():
        general = [b for b in mappings if b.matches.__func__ is LuaClass.matches.__func__]  # type: ignore[attr-defined]
        assert len(general) <= 1, name


def test_constants_belong_to_mappings_that_export_new_modules() -> None:
    assert not [mapping_id(mapping) for mapping in MAPPINGS if mapping.import_only and "constants" in vars(mapping)]


@pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)
def test_every_mapping_has_a_torch_type(mapping: type[LuaClass]) -> None:
    assert all(issubclass(t, nn.Module) for t in torch_types(mapping))
    if mapping.checked_by == "torch7":
        found = any(name.encode() in STRINGS for name in mapping.names)
        assert found, (
            f"no fixture holds any of {', '.join(mapping.names)}: add one (tests/add_fixtures.py), or set `checked_by`"
        )


@pytest.mark.parametrize("kind", OWN, ids=mapping_id)
def test_every_own_module_is_documented(kind: type[nn.Module]) -> None:
    doc = kind.__dict__.get("__doc__") or ""
    assert doc.strip(), "a docstring is missing"
    assert "Lua:" in doc, "a section 'Lua:' with constructor and source file is missing"


def test_a_module_shows_the_arguments_of_its_constructor() -> None:
    """Numbers and text, and flags that differ from their default; a hostile text is escaped and shortened."""
    assert repr(PrintSize("\x1b[31m" + "x" * 300)).startswith("PrintSize(prefix='\\x1b[31mxxx")
    assert len(repr(PrintSize("x" * 300))) < 200
    assert repr(CMul(3, 4)) == "CMul(size=(3, 4))"
    assert repr(Sum(1, squeeze=False)) == "Sum(dimension=1, squeeze=False)"
    assert repr(MaskZero(nn.Tanh(), 1)).startswith("MaskZero(\n  input_dims=1\n  (module): Tanh()")


@pytest.mark.parametrize("name", sorted(FIRST))
def test_repr_deepcopy_and_pickle(name: str) -> None:
    fixture, module = converted(FIRST[name])
    assert type(module).__name__ in repr(module)
    assert "object at 0x" not in repr(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    again = pickle.loads(pickle.dumps(module))
    copies = [copy.deepcopy(module), again, copy.deepcopy(again), torch.load(file, weights_only=False)]
    if fixture.get("forward_error") is not None:
        return
    arguments = [to_value(fixture["input"])]
    if fixture["kind"] == "criterion":
        arguments.append(to_value(fixture.get("target")))
    expected = outputs(module, copy.deepcopy(arguments))
    for other in copies:
        assert all(d.ok for d in parity.compare("output", outputs(other, copy.deepcopy(arguments)), expected))


STRUCTURES = {e["class"]: e for e in manifest(kind="structure") if e["class"] in KNOWN_NAMES.keys() - FIRST.keys()}


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_deepcopy_and_pickle_of_what_does_not_run(name: str) -> None:
    fixture = read_t7(FIXTURES / STRUCTURES[name]["file"])
    module = to_torch(fixture["module"] if "module" in fixture else fixture["object"])
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module)
        torch.testing.assert_close(dict(other.state_dict()), dict(module.state_dict()), equal_nan=True)


def outputs(module: Callable[..., Any], arguments: list[Any]) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return module(*arguments)


FROM_TORCH = {
    "nn.Identity": nn.Identity(),
    "nn.Linear": nn.Linear(3, 2, bias=False),
    "nn.LookupTable": nn.Embedding(5, 2, padding_idx=1, max_norm=1.5),
    "nn.Dropout": nn.Dropout(0.3),
    "nn.PReLU": nn.PReLU(3),
    "nn.LeakyReLU": nn.LeakyReLU(0.2),
    "nn.ELU": nn.ELU(0.5),
    "nn.HardTanh": nn.Hardtanh(-2, 2),
    "nn.SoftPlus": nn.Softplus(2),
    "nn.TanhShrink": nn.Tanhshrink(),
    "nn.GatedLinearUnit": nn.GLU(1),
    "nn.Sequential": nn.Sequential(nn.ReLU(), nn.Tanh()),
}


@pytest.mark.parametrize("name", FROM_TORCH)
def test_stock_modules_become_lua_objects_and_come_back(name: str) -> None:
    module = FROM_TORCH[name].eval()
    obj = to_lua(module)
    assert obj.class_name == name
    again = to_torch(obj)
    assert not again.training
    if name == "nn.LookupTable":  # Torch7 counts from 1
        input = torch.tensor([[1, 2], [2, 4]])
        assert torch.equal(again(input), module(input - 1))
        return
    input = torch.randn(4, 4 if name == "nn.GatedLinearUnit" else 3)
    assert torch.equal(again(input), module(input))


COMPILED = [
    "nn.View", "nn.Reshape", "nn.JoinTable", "nn.SplitTable", "nn.SelectTable", "nn.CAddTable", "nn.CMaxTable",
    "nn.MixtureTable", "nn.LookupTable", "nn.SoftMax", "nn.LogSoftMax", "nn.PReLU", "nn.Concat", "nn.DepthConcat",
    "nn.Parallel", "nn.Bottle", "nn.Sum", "nn.Max", "nn.CMul", "nn.Add", "nn.Euclidean", "nn.CosineDistance",
    "nn.PairwiseDistance", "nn.MM", "nn.MV", "nn.Index", "nn.Sqrt", "nn.GradientReversal", "nn.Sequential",
]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in COMPILED if n in FIRST])
def test_compiles_without_graph_break(name: str) -> None:
    fixture, module = converted(FIRST[name])
    input = to_value(fixture["input"])
    expected = outputs(module, [input])
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert all(d.ok for d in parity.compare("output", outputs(compiled, [input]), expected))


def test_a_mapping_from_outside_leaves_stock_layers_alone(python: list[str]) -> None:
    """Also when its file is the first to be imported."""
    program = """
from torch import nn
from dpnn_bridge import LuaClass, lua_class, to_lua

@lua_class("my.Linear")
class My(LuaClass):
    torch_type = nn.Linear
    tensors = {"weight": "weight", "bias": "bias"}
    sizes = {"weight": ("out_features", "in_features")}

print(to_lua(nn.Linear(3, 4)).class_name)
"""
    done = subprocess.run([*python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "nn.Linear\n"
