"""Files of nn.Serial: what was left out on writing is not missed, everything else is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

from dpnn_bridge import read_t7, to_torch, training, write_t7
from dpnn_bridge.compare.nested import leaves
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.parity import Tolerance, compare

ENTRIES = manifest(kind="serial")
#: nn of 2015 approximates exp in LogSoftMax, which shows in the 6th digit
OLD = Tolerance(double=1e-5, single=1e-5)


@pytest.mark.parametrize("entry", ENTRIES, ids=fixture_id)
def test_a_serialized_module_runs_and_trains(entry: dict[str, Any]) -> None:
    path = FIXTURES / entry["file"]
    reference = read_t7(path.with_name(f"{entry['name']}.ref.t7"))
    module = to_torch(read_t7(path), gradients=True)
    params, grads = training.parameters(module)
    differences = compare("params", params, to_value(reference["loadedParams"]), Tolerance(0, 0))
    if entry["mode"] != "light":  # light leaves gradients out
        differences += compare("gradParams", grads, to_value(reference["loadedGradParams"]), Tolerance(0, 0))
    x = to_value(reference["input"])
    x = x.to(params[0].dtype) if x.is_floating_point() else x
    with torch.no_grad():
        output = module.eval()(x)
    tolerance = OLD if entry["tree"] == "2015" else Tolerance()
    differences += compare("output", output, to_value(reference["loadedEvalOutput"]), tolerance)
    assert [f"{d.name}: {d.message}" for d in differences if not d.ok] == []
    training.zero_grad_parameters(module)
    next(leaves(module.train()(x))).square().sum().backward()
    assert any(bool(p.grad.any()) for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("mode", ["heavy", "medium", "light"])
def test_a_module_is_written_as_dpnn_writes_it(mode: str, tmp_path: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    module(torch.randn(2, 4)).sum().backward()
    training.update_grad_parameters(module, 0.9)
    write_t7(tmp_path / "m.t7", training.serialized(module, mode, "torch.DoubleTensor"))
    written = read_t7(tmp_path / "m.t7")
    linear = written["module"]["modules"][1]
    assert written.class_name == "nn.Serial"
    assert linear["weight"].class_name == "torch.DoubleTensor"
    assert (linear["gradWeight"].size == 0) is (mode == "light")
    x = torch.randn(5, 4)
    torch.testing.assert_close(to_torch(written)(x.double()).float(), module(x))
