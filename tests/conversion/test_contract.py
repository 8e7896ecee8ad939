"""The contract of every registered block, on one object of its class.

The object is the smallest one in the fixtures; where no fixture holds any, the test that the block names in ``test`` is
run, and an object that it converts is taken. A class without either fails here.
"""

from __future__ import annotations

import ast
import copy
import importlib
import io
import itertools
import pickle
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from conftest import FIXTURES, manifest
from lua_equal import differences
from standalone import executed
from torch import nn

import dpnn_bridge
from dpnn_bridge import read_t7, to_lua, to_torch
from dpnn_bridge.base.graph import is_module
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs import Job
from dpnn_bridge.outputs.py import program

TESTS = [Path(__file__).parents[1] / room for room in ("modules", "checkpoints")]
#: every block of a Lua class; the names of our own containers begin like this package
BLOCKS = list(
    dict.fromkeys(b for n, blocks in registry.known_names().items() if not n.startswith("dpnn_bridge.") for b in blocks)
)


def block_id(block: type) -> str:
    return f"{block.__module__.removeprefix('dpnn_bridge.modules.')}.{block.__name__}"


every_block = pytest.mark.parametrize("block", BLOCKS, ids=block_id)


# ---------------------------------------------------------------------- examples
@cache
def files() -> list[Path]:
    """All fixtures, the smallest first."""
    paths = {FIXTURES / e["file"] for e in manifest() if e["file"].endswith(".t7")}
    return sorted(paths, key=lambda p: (p.stat().st_size, p))


@cache
def content(path: Path) -> bytes:
    return path.read_bytes()


@cache
def objects_of(path: Path) -> tuple[Any, list[LuaObject]]:
    """A fixture and the objects in it, those of its module first."""
    fixture = read_t7(path)
    has_module = isinstance(fixture, LuaTable) and "module" in fixture
    found, seen, queue = [], set(), [fixture["module"] if has_module else fixture]
    while queue:
        value = queue.pop(0)
        if isinstance(value, (LuaObject, LuaTable)) and id(value) not in seen:
            seen.add(id(value))
            queue += [*value.values()]
            found += [value] if is_module(value) else []
    return fixture, found


@cache
def in_fixtures(block: type[LuaClass]) -> tuple[Any, LuaObject] | None:
    names = [name.encode() for name in block.names]
    for path in files():
        if any(name in content(path) for name in names):
            fixture, objects = objects_of(path)
            for obj in objects:
                if registry.find(obj) is block:
                    return fixture, obj
    return None


@cache
def test_functions() -> dict[str, Path]:
    """Test function -> file, of the rooms in :data:`TESTS`."""
    return {
        node.name: path
        for room in TESTS
        for path in sorted(room.glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def object_converted_by(name: str, block: type[LuaClass], tmp_path: Path) -> LuaObject | None:
    """Runs a test function, with one of its parameters after the other, until it converts an object of a block."""
    path = test_functions()[name]
    sys.path.insert(0, str(path.parent))
    function = getattr(importlib.import_module(path.stem), name)
    sys.path.remove(str(path.parent))
    found: list[LuaObject] = []
    find = registry.find

    def noted(obj: LuaObject) -> type[LuaClass] | None:
        known = find(obj)
        if known is block and not found:
            found.append(copy.deepcopy(obj))
        return known

    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    given = {"tmp_path": tmp_path} if "tmp_path" in wanted else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find", noted)
        for arguments in parameters_of(function):
            function(**given, **arguments)
            if found:
                return found[0]
    return None


def parameters_of(function: Any) -> Iterator[dict[str, Any]]:
    """The arguments of a test function, one dict for each of the values it is parametrised with."""
    choices = []
    for mark in (mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"):
        names = [n.strip() for n in mark.args[0].split(",")] if isinstance(mark.args[0], str) else [*mark.args[0]]
        values = [v.values if isinstance(v, ParameterSet) else v if len(names) > 1 else [v] for v in mark.args[1]]
        choices.append([dict(zip(names, v, strict=True)) for v in values])
    for chosen in itertools.product(*choices):
        yield {name: value for arguments in chosen for name, value in arguments.items()}


_EXAMPLES: dict[type[LuaClass], LuaObject] = {}


def example(block: type[LuaClass], tmp_path: Path) -> LuaObject:
    """An object of a block's class."""
    if block not in _EXAMPLES:
        known = in_fixtures(block)
        if known is None:
            assert block.test, f"no fixture holds an object of {block.names[0]}: name one in `test`"
            assert block.test in test_functions(), f"there is no test function {block.test} under tests/modules"
            obj = object_converted_by(block.test, block, tmp_path)
            assert obj is not None, f"{block.test} converts no {block.names[0]}"
            _EXAMPLES[block] = obj
        else:
            _EXAMPLES[block] = known[1]
    return _EXAMPLES[block]


# ---------------------------------------------------------------------- the contract
@every_block
def test_what_its_parity_rests_on_exists(block: type[LuaClass], tmp_path: Path) -> None:
    if block.checked_by == "torch7":
        assert in_fixtures(block) or block.test, "no fixture holds an object of this class"
        return
    if block.checked_by == "structure" and in_fixtures(block):
        return
    assert block.test in test_functions(), f"`test` of a block checked by a {block.checked_by} names a test function"
    assert object_converted_by(block.test, block, tmp_path) is not None, f"{block.test} does not convert it"


@every_block
def test_the_object_comes_back(block: type[LuaClass], tmp_path: Path) -> None:
    """Lua -> torch -> Lua keeps what the first way back wrote, and every plain value of the file."""
    obj = example(block, tmp_path)
    first = to_lua(to_torch(obj))
    assert differences(first, to_lua(to_torch(first))) == []
    upgraded = block.upgrade(obj)
    assert first.class_name == upgraded.class_name
    for name, value in upgraded.items():
        if isinstance(value, (bool, int, float, str)) and name not in {"output", "_type"}:
            assert first.get(name, False) == value or value != value, name


@every_block
def test_copies_are_the_same_module(block: type[LuaClass], tmp_path: Path) -> None:
    """deepcopy, pickle, torch.save and .pt give modules that Torch7 would read as the same object."""
    module = to_torch(example(block, tmp_path))
    expected = to_lua(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    dpnn_bridge.save(tmp_path / "m.pt", module)
    copies = {
        "deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
        "torch.save": torch.load(file, weights_only=False),
        ".pt": dpnn_bridge.load(tmp_path / "m.pt"),
    }
    for way, other in copies.items():
        assert differences(expected, to_lua(other)) == [], way


@every_block
def test_its_python_source_builds_it(block: type[LuaClass], tmp_path: Path) -> None:
    module = to_torch(example(block, tmp_path))
    with torch.random.fork_rng():
        built = executed(program.Program(module, Job()).text()).build()
    built.load_state_dict(module.state_dict())


def call(fixture: Any, module: nn.Module) -> Any:
    arguments = [to_value(fixture["input"])]
    if fixture["kind"] == "criterion":
        arguments.append(to_value(fixture.get("target")))
    return module(*arguments)


@every_block
def test_a_training_step(block: type[LuaClass]) -> None:
    """Every parameter that has a gradient moves against it."""
    known = in_fixtures(block)
    if known is None or not isinstance(known[0], LuaTable) or known[0].get("kind") not in ("module", "criterion"):
        pytest.skip("its own test trains it: no fixture runs")
    fixture = known[0]
    if fixture.get("forward_error") is not None:
        pytest.skip("raises in Torch7 too")
    module = to_torch(fixture["module"]).train()
    torch.manual_seed(0)
    output = [t for t in nested.leaves(call(fixture, module)) if isinstance(t, torch.Tensor) and t.requires_grad]
    if not output:
        pytest.skip("no gradient")
    dpnn_bridge.training.reinforce(module, torch.ones(output[0].shape[:1]))
    torch.autograd.backward(output, [torch.ones_like(t) for t in output])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    for name, p in module.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.detach(), before[name] - 0.1 * p.grad, equal_nan=True)


DEFAULTS = [(block, name) for block in BLOCKS for name in block.defaults]
#: fields without which the file is an older one, whose other fields mean something else
MARKS_OLD = {
    ("nn.VolumetricFullConvolution", "adjW"),  # before it the weight had outputs first
    ("nn.ReinforceCategorical", "epsilon"),  # 0 until 2016
}


@pytest.mark.parametrize(("block", "name"), DEFAULTS, ids=lambda v: v if isinstance(v, str) else block_id(v))
def test_a_field_that_a_file_lacks_has_its_default(block: type[LuaClass], name: str, tmp_path: Path) -> None:
    """Without the field the object converts to what it is with the default."""
    obj = example(block, tmp_path)
    without = obj.changed({name: None})
    if registry.find(without) is not block or (block.names[0], name) in MARKS_OLD:
        pytest.skip("the field tells this variant of the class from another")
    given = obj.changed({name: block.defaults[name]})
    assert differences(to_lua(to_torch(without)), to_lua(to_torch(given))) == []
