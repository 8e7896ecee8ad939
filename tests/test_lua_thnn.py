"""The kernels behind nn's Lua files, called as those call them: results are what real Torch7 stored in the fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES, fixture_id, manifest

pytest.importorskip("lupa")

from dpnn_bridge.differences import Result, Tolerance, compare
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua_values import to_value
from dpnn_bridge.objects import LuaTable

LAYERS = Path(__file__).parent / "thnn_layers.lua"
BRIDGE = LuaBridge()
CLASSES, RUN = BRIDGE.run_file(LAYERS)
#: their gradInput is computed in Lua, if at all
NO_GRAD_INPUT = ("nn.LookupTable", "nn.SparseLinear", "nn.IndexLinear")
CASES = [
    pytest.param(number, entry, id=fixture_id(entry) + f"-{CLASSES[: number + 1].count(name)}")
    for number, name in enumerate(CLASSES)
    for entry in manifest(**{"class": name, "set": ("nn", "third"), "kind": ("module", "criterion")})
    if "__legacy_" not in entry["name"]  # fields of older versions, which nn's Lua files bring up to date
]


@pytest.mark.parametrize(("number", "entry"), CASES)
def test_a_layer_computes_what_torch7_computed(number: int, entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    BRIDGE.manual_seed(int(fixture.get("seed", 0)))
    names = ("module", "input", "target", "gradOutput", "scale")
    found = BRIDGE.call(RUN, number + 1, LuaTable({name: fixture.get(name) for name in names}))
    tolerance = Tolerance() if entry["dtype"] == "double" else Tolerance().in_single()
    result = Result()

    def check(name: str, expected: Any) -> None:
        value, expected = found[name], to_value(expected)
        if name in ("weight", "gradWeight") and value.numel() == expected.numel():
            value = value.reshape(expected.shape)  # nn shows some weights to THNN in another shape
        result.differences += compare(name, value, expected, tolerance)

    check("output", fixture["output"])
    if entry["class"] not in NO_GRAD_INPUT:
        check("gradInput", fixture["gradInput"])
    gradients = fixture.get("gradParams") or LuaTable()
    if entry["class"] == "nn.IndexLinear" and gradients:
        gradients[1] = gradients[1]["gradWeight"][1]
    for key, name in enumerate(("gradWeight", "gradBias"), 1):
        if key in gradients:
            check(name, gradients[key])
    for name in ("indices", "running_mean", "running_var", "noise", "isTarget", "weight"):
        if name in found and name in fixture["after"]:
            check(name, fixture["after"][name])
    result.raise_for_failures()
