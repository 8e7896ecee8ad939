"""Objects of ``torch.legacy.nn`` compute what Torch7 computed: outputs, gradients of inputs and of parameters."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from conftest import FIXTURES, KNOWN, fixture_id, manifest

from dpnn_bridge.compare.nested import leaves
from dpnn_bridge.legacy import load_lua, nn

#: PyTorch 0.4 counted from 0 what Torch7 counts from 1: in the input, or in the target
INDICES_IN = {"Index": ("input", 1), "LookupTable": ("input", None)}
TARGETS = {
    "ClassNLLCriterion",
    "ClassSimplexCriterion",
    "CrossEntropyCriterion",
    "MultiLabelMarginCriterion",
    "MultiMarginCriterion",
    "SpatialClassNLLCriterion",
}
#: draw random numbers, or do what a base class does
LEFT_OUT = {
    "Container",
    "Criterion",
    "Dropout",
    "Module",
    "RReLU",
    "SpatialDropout",
    "SpatialFractionalMaxPooling",
    "VolumetricDropout",
}

#: fixtures that say nothing here, and why
NOT_HERE = {
    "CriterionTable__mse__double_train": "Torch7 leaves the target out of gradInput",
    "MultiCriterion__nll_margin": "one target from 1 for two criterions",
    "ParallelCriterion__basic": "one target from 1, one of numbers",
    "Sequential__net_maptable_join": "a MapTable lists the parameters of its clones once",
    "Sequential__net_mlp_bn_dropout": "random",
    "Sequential__net_siamese_sameobject": "one object used twice has one output in Torch7",
    "Sequential__net_sparse_mlp": "indices from 1 in an input of pairs",
    "Sequential__net_textcnn": "indices from 1 as the input of a net",
}

ENTRIES = [
    e
    for e in manifest(set="nn", kind=("module", "criterion"), dtype=("double", "float"))
    if e["class"].removeprefix("nn.") in nn.CLASSES
    and e["class"].removeprefix("nn.") not in LEFT_OUT
    and not e["name"].startswith(tuple(NOT_HERE))
]


def _shifted(value: Any) -> Any:
    return value - 1 if isinstance(value, (torch.Tensor, int, float)) else [_shifted(v) for v in value]


def _from_zero(name: str, fixture: Any) -> tuple[Any, Any]:
    """Input and target with indices from 0."""
    value, target = fixture["input"], fixture.get("target")
    if name in INDICES_IN:
        value = _shifted(value) if name == "LookupTable" else [value[0], _shifted(value[1])]
    return value, _shifted(target) if name in TARGETS else target


def assert_close(found: Any, expected: Any, dtype: str, what: str) -> None:
    mine, theirs = [list(leaves(v)) for v in (found, expected)]
    assert len(mine) == len(theirs), what
    for a, b in zip(mine, theirs, strict=True):
        a, b = torch.as_tensor(a).double().reshape(-1), torch.as_tensor(b).double().reshape(-1)
        finite = b[torch.isfinite(b)].abs()
        bound = (1e-10 if dtype == "double" else 1e-5) * float(finite.max() if finite.numel() else 1)
        bound += 1e-14  # where a gradient is zero but for rounding
        torch.testing.assert_close(a, b, rtol=0, atol=bound, equal_nan=True, msg=lambda m: f"{what}: {m}")


def run(fixture: Any, value: Any, target: Any) -> dict[str, tuple[Any, Any]]:
    """Every result with what Torch7 had."""
    module = fixture["module"]
    if fixture["kind"] == "criterion":
        output, gradient = module.forward(value, target), module.backward(value, target)
        return {"output": (output, fixture["output"]), "gradInput": (gradient, fixture["gradInput"])}
    module.zeroGradParameters()
    results = {"output": (module.forward(value), fixture["output"])}
    if "gradOutput" in fixture:
        scale = [fixture["scale"]] if "scale" in fixture else []
        gradient = module.backward(value, fixture["gradOutput"], *scale)
        if "gradInput" in fixture:
            results["gradInput"] = (gradient, fixture["gradInput"])
        if "gradParams" in fixture:
            results["gradParams"] = ((module.parameters() or ([], []))[1], fixture["gradParams"])
    return results


@pytest.mark.parametrize("entry", ENTRIES, ids=fixture_id)
def test_what_torch7_computed(entry: dict[str, Any]) -> None:
    fixture = load_lua(FIXTURES / entry["file"])
    if "input" not in fixture or "output" not in fixture or "error" in entry:
        pytest.skip("holds no single pass")
    value, target = _from_zero(entry["class"].removeprefix("nn."), fixture)
    for what, (found, expected) in run(fixture, value, target).items():
        patterns = [p for k in KNOWN if k.applies_to(entry["name"]) for p in k.compared]
        if not any(fnmatchcase(name, p) for name in (what, f"{what}[1]") for p in patterns):
            assert_close(found, expected, entry["dtype"], what)
