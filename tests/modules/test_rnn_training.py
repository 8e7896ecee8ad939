"""Whole training loops: every loss and every parameter after every step, as in Torch7."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import FIXTURES, fixture_id, manifest

import dpnn_bridge
from dpnn_bridge import parity, training
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.torch7.draws import torch7_random


@pytest.mark.parametrize("entry", manifest(kind="training", set="rnn"), ids=fixture_id)
def test_training_gives_the_same_losses_and_parameters(
    entry: dict[str, Any], device: str, tolerance: parity.Tolerance
) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    model, criterion = (to_torch(fixture[name]).to(device) for name in ("module", "criterion"))
    inputs, targets = (to_value(fixture[name], device=device) for name in ("inputs", "targets"))
    if entry["dtype"] == "float":
        tolerance = tolerance.in_single()
    result = parity.Result()
    with parity.full_precision(), torch7_random(fixture.get("seed")):
        for i, (x, y) in enumerate(zip(inputs, targets, strict=True), 1):
            training.zero_grad_parameters(model)
            loss = criterion(model(x), y)
            loss.backward()
            result.differences += parity.compare(f"loss {i}", loss, fixture["losses"][i], tolerance)
            if fixture.get("clip") is not None:
                norm = training.grad_param_clip(model, fixture["clip"])
                result.differences += parity.compare(f"norm {i}", norm, fixture["norms"][i], tolerance)
            if fixture.get("momentum") is not None:
                training.update_grad_parameters(model, fixture["momentum"], 0, False)
            training.update_parameters(model, fixture["lr"])
            if fixture.get("maxnorm") is not None:
                training.max_param_norm(model, fixture["maxnorm"])
            expected = to_value(fixture["paramsAfter"][i])
            result.differences += parity.compare(f"params {i}", training.parameters(model)[0], expected, tolerance)
    result.raise_for_failures()
