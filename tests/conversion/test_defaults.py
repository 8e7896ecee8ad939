"""Every default that a mapping declares is what its class does without the field."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from conftest import FIXTURES
from lua_equal import differences
from mapping_examples import MAPPINGS, ClassMapping, example, mapping_id
from torch import nn

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import has_tensor
from dpnn_bridge.objects import LuaTensor

DEFAULTS = [(mapping, name) for mapping in MAPPINGS for name in mapping.defaults]
OPTIONAL = [(mapping, name) for mapping in MAPPINGS for name in mapping.optional]
#: fields without which the file is an older one, whose other fields mean something else
MARKS_OLD = {
    ("nn.VolumetricFullConvolution", "adjW"),  # before it the weight had outputs first
    ("nn.ReinforceCategorical", "epsilon"),  # 0 until 2016
    ("onmt.WordEmbedding", "fix"),  # until May 2017 the gradient was missing instead
}
#: Lua class and field -> why a default or constant is another value than constructors of today give
NOT_CONSTRUCTED = {
    ("nn.Dropout", "v2"): "files without it are of version 1, which scaled in evaluation",
    ("nn.L1Penalty", "provideOutput"): "files without it are older and gave no gradient but that of the penalty",
    ("nn.Mean", "sizeAverage"): "nil sums, as Sum.lua does; the report says that files before 2016 averaged",
    ("nn.NCEModule", "batchnoise"): "files without it are older and drew noise for each sample",
    ("nn.Profile", "name"): "the class of the module inside, for Torch7's printing",
    ("nn.ReinforceCategorical", "epsilon"): "no field in Torch7, where it is written into the formula",
    ("nn.ReinforceNormal", "rewardsStdev"): "only a fork has it",
    **{
        (name, field): "given to the constructor, which needs the one pair or the other"
        for name in ("nn.SpatialReSampling", "nn.SpatialReSamplingEx")
        for field in ("owidth", "oheight")
    },
}


def cases(found: list[tuple[ClassMapping, str]]) -> Any:
    return pytest.mark.parametrize(("mapping", "name"), found, ids=lambda v: v if isinstance(v, str) else mapping_id(v))


@cases(DEFAULTS)
def test_a_field_that_a_file_lacks_has_its_default(mapping: ClassMapping, name: str) -> None:
    """Without the field the object converts to what it is with the default."""
    obj = example(mapping)
    without = obj.changed({name: None})
    if registry.find(without) is not mapping or (mapping.names[0], name) in MARKS_OLD:
        pytest.skip("the field tells this variant of the class from another")
    given = obj.changed({name: mapping.defaults[name]})
    assert differences(to_lua(to_torch(without)), to_lua(to_torch(given))) == []


@cases(OPTIONAL)
def test_an_optional_tensor_that_a_file_lacks_stays_away(mapping: ClassMapping, name: str) -> None:
    obj = example(mapping)
    kept = LuaTensor.empty(obj[name].class_name) if name in obj and mapping.optional[name] is None else None
    without = obj.changed({name: kept})
    if registry.find(without) is not mapping:
        pytest.skip("the field tells this variant of the class from another")
    back = to_lua(to_torch(without))
    if mapping.optional[name] is not None:
        assert not has_tensor(back, name)
    assert differences(back, to_lua(to_torch(back))) == []


def test_indices_of_a_module_made_in_python_begin_at_1() -> None:
    kinds, left = set[type[nn.Module]](), [nn.Module]
    while left:
        found = left.pop().__subclasses__()
        kinds.update(found)
        left += found
    settings = {kind: inspect.signature(kind.__init__).parameters for kind in kinds if "dpnn_bridge" in kind.__module__}
    bases = {kind: s["index_base"].default for kind, s in settings.items() if "index_base" in s}
    assert len(bases) > 10
    assert set(bases.values()) == {1}


# ---------------------------------------------------------------------- what constructors of Torch7 set
def constructed() -> dict[str, dict[str, Any]]:
    """Lua class -> plain fields after a constructor got the fewest arguments; made by fixtures/gen/constructors.lua."""
    found = {}
    for line in (FIXTURES / "constructors.txt").read_text().splitlines():
        name, *fields = line.split("\t")
        found[name] = {key: value_of(text) for key, _, text in (field.partition("=") for field in fields)}
    return found


def value_of(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


CONSTRUCTED = constructed() if (FIXTURES / "constructors.txt").exists() else {}


def measured_in(declarations: str) -> Any:
    """Parametrizes a test by the fields of a declaration whose values constructors of Torch7 set."""
    found = [
        (mapping, lua, name)
        for mapping in MAPPINGS
        for name, value in getattr(mapping, declarations).items()
        for lua in mapping.names
        if lua in CONSTRUCTED and not callable(value)
    ]
    label = lambda v: v if isinstance(v, str) else mapping_id(v)  # noqa: E731
    return pytest.mark.parametrize(("mapping", "lua", "name"), found, ids=label)


def demand(value: Any, lua: str, name: str) -> None:
    """Fails for a value that Torch7's constructor does not set; a field that it leaves nil counts as false."""
    measured = CONSTRUCTED[lua].get(name)
    if (lua, name) in NOT_CONSTRUCTED:
        assert measured != value, NOT_CONSTRUCTED[lua, name]
    else:
        assert measured == value or (measured is None and value is False)


@measured_in("defaults")
def test_default_is_that_of_torch7s_constructor(mapping: ClassMapping, lua: str, name: str) -> None:
    demand(mapping.defaults[name], lua, name)


@measured_in("constants")
def test_constant_is_that_of_torch7s_constructor(mapping: ClassMapping, lua: str, name: str) -> None:
    demand(mapping.constants[name], lua, name)
