"""Classes of the registry inside Lua: one fixture of each class of nn gives what Torch7 stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

pytest.importorskip("lupa")

from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.lua import LuaBridge

#: the bridge's base of nn knows the parameters weight and bias alone
PARAMETERS = ("nn.LinearWeightNorm", "nn.MapTable", "nn.PartialLinear", "nn.WeightedEuclidean", "nn.WeightNorm")
#: kept as one dense tensor in Torch7, see tests/modules/test_sparse.py
SPARSE = ("nn.IndexLinear", "nn.SparseLinear")
OTHERS = {
    "nn.CriterionTable": "its gradient is that of a criterion",
    "nn.DontCast": "it computes in single precision",
    "nn.GPU": "its file holds a number before the table",
    "nn.ModuleFromCriterion": "is no module without a checkout of nn",
    "nn.Profile": "holds a torch.Timer",
    "nn.SpatialDepthWiseConvolution": "Torch7 shows the same gradients in another shape",
    "nn.SpatialDropout": "no gradient in evaluation",
    "nn.VolumetricDropout": "no gradient in evaluation",
    "nn.WhiteNoise": "random",
    "nn.gModule": "needs a checkout of graph",
}


def _cases() -> list[dict[str, Any]]:
    entries = [e for e in manifest(set="nn", kind="module", dtype="double") if "__legacy_" not in e["name"]]
    first = {e["class"]: e for e in reversed(entries)}
    return [e for name, e in sorted(first.items()) if name not in {*PARAMETERS, *SPARSE, *OTHERS}]


BRIDGE = LuaBridge()
BRIDGE.require("nn")
RUN = BRIDGE.execute("""
    return function(module, input, gradOutput)
       module:zeroGradParameters()
       local output = module:forward(input)
       local gradInput = module:backward(input, gradOutput)
       return output, gradInput, select(2, module:parameters()) or {}
    end
""")


@pytest.mark.parametrize("entry", _cases(), ids=fixture_id)
def test_a_class_runs_in_lua_as_in_torch7(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    output, *gradients = BRIDGE.call(RUN, fixture["module"], fixture["input"], fixture.get("gradOutput"))
    found = compare("output", output, to_value(fixture["output"]), Tolerance())
    for name, gradient in zip(("gradInput", "gradParams"), gradients, strict=True):
        if fixture.get(name) is not None:
            found += compare(name, gradient, to_value(fixture[name]), Tolerance())
    assert [d.message for d in found if not d.ok] == []


def test_an_object_keeps_the_version_of_its_fields() -> None:
    """A VolumetricMaxPooling of version 1 has no ceil_mode, whatever its fields say."""
    entries = {e["name"]: e for e in manifest(**{"class": "nn.VolumetricMaxPooling", "set": "nn"})}
    for name, version in (("legacy_v1_ceil", 1), ("ceil_single", 2)):
        fixture = read_t7(FIXTURES / entries[f"VolumetricMaxPooling__{name}__double_train"]["file"])
        assert BRIDGE.to_object(BRIDGE.to_lua(fixture["module"])).version == version
        output = BRIDGE.execute("local m, x = ... return m:clone():forward(x)", fixture["module"], fixture["input"])
        torch.testing.assert_close(output, to_value(fixture["output"]))
    assert BRIDGE.to_object(BRIDGE.execute("return nn.BatchNormalization(3)")).version == 2


def test_decorated_parameters_are_found() -> None:
    fixture = read_t7(FIXTURES / manifest(**{"class": "nn.Decorator", "set": "nn"})[0]["file"])
    module = BRIDGE.to_lua(fixture["module"])
    assert BRIDGE.execute("local m = ... m:evaluate() return #m:parameters(), m.modules[1].train", module) == (2, False)


def test_an_error_inside_names_the_class() -> None:
    with pytest.raises(LuaBridgeError, match=r"nn\.Linear: .*mat1 and mat2 shapes"):
        BRIDGE.execute("nn.Linear(3, 2):forward(torch.ones(1, 4))")


def test_functions_among_the_fields_are_left_alone() -> None:
    assert BRIDGE.execute("local m = nn.Tanh() m.hook = print return m:forward(torch.zeros(2)):sum()") == 0
