"""A text in place of a number is refused, in place of a flag it is a flag: its escape sequences reach no terminal."""

from __future__ import annotations

from typing import Any

import pytest

from dpnn_bridge import to_torch
from dpnn_bridge.conversion.memory import Trace
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

TEXT = "\x1b[31m\u202e"
POOLING = {"kT": 2, "kH": 2, "kW": 2, "dT": 2, "dH": 2, "dW": 2}
OBJECTS: list[tuple[str, dict[str, Any]]] = [
    ("nn.Dropout", {"p": TEXT}),
    ("nn.Dropout", {"p": TEXT, "v2": True}),
    ("nn.SpatialDropout", {"p": TEXT}),
    ("nn.SpatialMaxPooling", {**POOLING, "ceil_mode": TEXT}),
    ("nn.SpatialDilatedMaxPooling", {**POOLING, "dilationH": 1, "dilationW": 1, "ceil_mode": TEXT}),
    ("nn.SpatialAveragePooling", {**POOLING, "ceil_mode": TEXT}),
    ("nn.VolumetricMaxPooling", {**POOLING, "ceil_mode": TEXT}),
]


@pytest.mark.parametrize(("name", "fields"), OBJECTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_text_in_place_of_another_value_is_not_shown(name: str, fields: dict[str, Any]) -> None:
    try:
        shown = repr(to_torch(LuaObject(name, LuaTable(fields.items()))))
    except ConversionError as error:
        shown = str(error)
        assert "expected a number in field 'p', found str" in shown
    assert shown.isprintable() or set(shown) & {"\x1b", "\u202e"} == set()


def test_flags_that_are_no_booleans_are_those_of_the_kernel() -> None:
    for value, expected in ((2, True), (TEXT, True), (0, False), (False, False), (None, False)):  # 0 in the kernel
        fields = {**POOLING, "ceil_mode": value} if value is not None else POOLING
        module: Any = to_torch(LuaObject("nn.SpatialMaxPooling", LuaTable(fields.items())))
        assert module.ceil_mode is expected


#: class, its fields and a flag that is a number, and the attribute with its meaning in Torch7
FLAGS: list[tuple[str, dict[str, Any], str, Any]] = [
    ("nn.Sum", {"dimension": 1, "sizeAverage": 0}, "size_average", True),
    ("nn.MM", {"transA": 0, "transB": False}, "transpose_a", True),
    ("nn.Dropout", {"p": 0.5, "v2": 0, "stochastic_inference": 0}, "v2", True),
    ("nn.L1Penalty", {"l1weight": 1, "sizeAverage": 1}, "size_average", False),
    ("nn.L1Penalty", {"l1weight": 1, "provideOutput": 1}, "provide_output", False),
    ("nn.FeatureLPPooling", {"width": 2, "stride": 1, "power": 2, "batch_mode": 0}, "batch_mode", False),
    ("nn.HingeEmbeddingCriterion", {"margin": 1, "sizeAverage": 1}, "reduction", "sum"),
    ("nn.Copy", {"dontCast": 0, "output": LuaTensor.empty("torch.DoubleTensor")}, "dont_cast", True),
    ("nn.ReinforceBernoulli", {}, "stochastic", None),
]


@pytest.mark.parametrize(
    ("name", "fields", "attribute", "expected"), FLAGS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_number_is_a_flag_as_in_torch7(name: str, fields: dict[str, Any], attribute: str, expected: Any) -> None:
    """Lua takes 0 as true, a comparison with ``true`` takes every number as false, C functions take 0 as false."""
    assert getattr(to_torch(LuaObject(name, LuaTable(fields.items()))), attribute) == expected


@pytest.mark.parametrize(
    ("name", "fields", "flag", "expected"),
    [
        (
            "nn.SpatialFractionalMaxPooling",
            {"poolSizeW": 2, "poolSizeH": 2, "outW": 2, "outH": 2},
            "newRandomPool",
            "FixedFractionalMaxPool2d",
        ),
        ("nn.Dropout", {"p": 0.5, "v2": True, "flag": True}, "lazy", "LazyDropout"),
    ],
)
def test_a_number_chooses_the_module_as_true_does(name: str, fields: dict[str, Any], flag: str, expected: str) -> None:
    numbered, true, false = (to_torch(LuaObject(name, LuaTable({**fields, flag: v}))) for v in (0, True, False))
    assert type(numbered).__name__ == type(true).__name__ == expected
    assert type(false).__name__ != expected


def test_a_dropout_of_version_two_is_idle_in_evaluation_also_if_its_version_is_a_number() -> None:
    fields = {"p": 0.5, "inplace": True, "train": False}
    overwritten = []
    for v2 in (0, True, False):
        trace = Trace()
        trace.run_model(LuaObject("nn.Dropout", LuaTable({**fields, "v2": v2})))
        overwritten.append(len(trace.overwritten))
    assert overwritten == [0, 0, 1]
