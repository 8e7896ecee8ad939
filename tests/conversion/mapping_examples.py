"""One object of every registered mapping, and one call of a module of it: from the fixtures, or from a test.

The example is the smallest fixture that holds an object of the mapping. Where no fixture does, the test that the
mapping names in ``test`` is run, and what it converts and calls is noted.
"""

from __future__ import annotations

import ast
import copy
import importlib
import itertools
import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from conftest import FIXTURES, manifest
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dpnn_bridge import read_t7, to_lua, to_torch
from dpnn_bridge.base.graph import is_module
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaObject, LuaTable

ClassMapping = type[LuaClass]

TESTS = [Path(__file__).parents[1] / room for room in ("modules", "checkpoints")]
#: every mapping of a Lua class; the names of our own containers begin like this package
MAPPINGS: list[ClassMapping] = list(
    dict.fromkeys(m for n, found in registry.known_names().items() if not n.startswith("dpnn_bridge.") for m in found)
)


def mapping_id(mapping: ClassMapping) -> str:
    return f"{mapping.__module__.removeprefix('dpnn_bridge.').removeprefix('modules.')}.{mapping.__qualname__}"


@dataclass(frozen=True)
class Call:
    """A module as it was before its first forward, and what it was given."""

    module: nn.Module
    arguments: tuple[Any, ...]

    def copy(self) -> Call:
        return Call(copy.deepcopy(self.module), tuple(nested.copied(a) for a in self.arguments))

    def run(self) -> Any:
        torch.default_generator.manual_seed(0)
        return self.module(*self.arguments)


TOKENS = torch.tensor([[1, 2], [3, 0]])
#: what the modules of classes get that Torch7 cannot run without a GPU and that no test of a formula calls
GIVEN: dict[str, tuple[Any, ...]] = {
    "cudnn.SpatialCrossEntropyCriterion": (torch.rand(1, 3, 2, 2), torch.ones(1, 2, 2)),
    "cudnn.VolumetricCrossEntropyCriterion": (torch.rand(1, 3, 2, 2, 2), torch.ones(1, 2, 2, 2)),
    "neuralconvo.Seq2Seq": ([TOKENS, TOKENS],),
    "nn.BoxSamplerHelper": ([[torch.rand(1, 3, 4), torch.rand(1, 3, 2)], [torch.rand(1, 1, 4), torch.ones(1, 1, 1)]],),
    "nn.CrossMapNormalization": (torch.rand(1, 6, 2, 2),),
    "nn.DataParallel": (torch.rand(2, 3),),
    "nn.LogisticCriterion": (torch.rand(2, 3), torch.tensor([1.0, 3])),
    "nn.TrainTestLayer": (torch.rand(2, 3, dtype=torch.float64),),
    "nn.WeightedLookupTable": (torch.tensor([[1.0, 0.5], [3.0, 2.5]]),),
}
#: modules that compute with what another one in their network saw: the whole fixture is the example
PARTNERS = {"nn.PullTable", "nn.PushTable", "nn.SpatialMaxUnpooling"}
#: classes whose modules raise in every forward, as in Torch7
NEVER_RUN = {
    "nn.SparseCriterion": "nnx no longer holds its C code",
    "nn.SpatialRecursiveFovea": "its Lua code calls what does not exist",
    "w2nn.AuxiliaryLossCriterion": "its criterions are made at the first call, by a class that the file does not hold",
}


# ---------------------------------------------------------------------- fixtures
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
def files_naming(names: tuple[str, ...]) -> list[Path]:
    """The fixtures in which one of the names stands."""
    encoded = [name.encode() for name in names]
    return [path for path in files() if any(name in content(path) for name in encoded)]


def in_fixtures(mapping: ClassMapping) -> Iterator[tuple[Any, LuaObject]]:
    """The fixtures that hold an object of a mapping, the smallest first, with the first such object."""
    for path in files_naming(tuple(mapping.names)):
        fixture, objects = objects_of(path)
        found = next((obj for obj in objects if registry.find(obj) is mapping), None)
        if found is not None:
            yield fixture, found


def runs(fixture: Any) -> bool:
    """Whether Torch7 ran the module of a fixture, on numbers."""
    if not isinstance(fixture, LuaTable) or fixture.get("kind") not in ("module", "criterion"):
        return False
    if fixture.get("forward_error") is not None or "input" not in fixture:
        return False
    return not any(isinstance(leaf, str) for leaf in nested.leaves(to_value(fixture["input"])))


def call_of(fixture: LuaTable) -> Call:
    """The call that Torch7 made of the module of a fixture."""
    arguments = [to_value(fixture["input"])]
    if fixture["kind"] == "criterion":
        arguments.append(to_value(fixture.get("target")))
    return Call(to_torch(fixture["module"]), tuple(arguments))


# ---------------------------------------------------------------------- tests
@cache
def functions() -> dict[str, Path]:
    """Test function -> file, of the rooms in :data:`TESTS`."""
    return {
        node.name: path
        for room in TESTS
        for path in sorted(room.glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def runs_of(name: str) -> Iterator[Any]:
    """A test function, called with one of its parameters after the other; each is a function without arguments."""
    path = functions()[name]
    sys.path.insert(0, str(path.parent))
    function = getattr(importlib.import_module(path.stem), name)
    sys.path.remove(str(path.parent))
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    for arguments in parameters_of(function):
        with tempfile.TemporaryDirectory() as folder:
            given = {"tmp_path": Path(folder)} if "tmp_path" in wanted else {}
            yield lambda arguments={**given, **arguments}: function(**arguments)


def parameters_of(function: Any) -> Iterator[dict[str, Any]]:
    """The arguments of a test function, one dict for each of the values it is parametrised with."""
    choices = []
    for mark in (mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"):
        names = [n.strip() for n in mark.args[0].split(",")] if isinstance(mark.args[0], str) else [*mark.args[0]]
        values = [v.values if isinstance(v, ParameterSet) else v if len(names) > 1 else [v] for v in mark.args[1]]
        choices.append([dict(zip(names, v, strict=True)) for v in values])
    for chosen in itertools.product(*choices):
        yield {name: value for arguments in chosen for name, value in arguments.items()}


# ---------------------------------------------------------------------- what runs give
_OBJECTS: dict[ClassMapping, LuaObject] = {}
_CALLS: dict[ClassMapping, Call] = {}


@contextmanager
def noted() -> Iterator[None]:
    """While the block runs, the first object of each mapping that is converted and the first call are kept."""
    find = registry.find

    def found(obj: LuaObject) -> ClassMapping | None:
        mapping = find(obj)
        if mapping is not None and mapping not in _OBJECTS:
            _OBJECTS[mapping] = copy.deepcopy(obj)
        return mapping

    def called(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        mapping = registry.mapping_of(module)
        if mapping not in _CALLS:
            try:
                made = Call(module, arguments).copy()
                pickle.dumps(made.module)
            except (RuntimeError, AttributeError):  # it holds tensors with a history, or a function that a test put in
                return
            _CALLS[mapping] = made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find", found)
        hook = register_module_forward_pre_hook(called)
        try:
            yield
        finally:
            hook.remove()


@cache
def example(mapping: ClassMapping) -> LuaObject:
    """An object of a mapping's class."""
    known = next(in_fixtures(mapping), None)
    if known is not None:
        return known[1]
    _OBJECTS.clear()
    _CALLS.clear()
    _note_test(mapping, _OBJECTS)
    if mapping not in _OBJECTS and mapping in _CALLS:  # its test makes the module in PyTorch
        _OBJECTS[mapping] = to_lua(_CALLS[mapping].module)
    assert mapping in _OBJECTS, f"{mapping.test} converts no {mapping.names[0]}"
    return _OBJECTS[mapping]


@cache
def call(mapping: ClassMapping) -> Call | None:
    """A call of a module of the mapping, the same in any order of the tests; None for :data:`NEVER_RUN`."""
    _CALLS.clear()
    if mapping.names[0] in GIVEN:
        return Call(to_torch(example(mapping)), GIVEN[mapping.names[0]])
    runnable = (fixture for fixture, _ in in_fixtures(mapping) if runs(fixture))
    if mapping.names[0] in PARTNERS:
        return call_of(next(f for f in runnable if registry.find(f["module"]) is not mapping))
    for fixture in itertools.islice(runnable, 3):
        if mapping in _CALLS:
            break
        made = call_of(fixture)
        if registry.find(fixture["module"]) is mapping:  # some become modules that another mapping writes
            _CALLS[mapping] = made.copy()
        with noted():
            made.run()
    if mapping not in _CALLS and mapping.test and mapping.names[0] not in NEVER_RUN:
        _note_test(mapping, _CALLS)
    return _CALLS.get(mapping)


def _note_test(mapping: ClassMapping, found: dict[ClassMapping, Any]) -> None:
    assert mapping.test, (
        f"no fixture holds an object of {mapping.names[0]}: add one (tests/add_fixtures.py), or name a test in `test`"
    )
    assert mapping.test in functions(), f"there is no test function {mapping.test} under tests/modules"
    for test in runs_of(mapping.test):
        with noted():
            test()
        if mapping in found:
            return
