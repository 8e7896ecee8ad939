"""At a discontinuity, rounding explains other values of the elements there, and of no other element."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import FIXTURES

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.parity.verify import verify


@pytest.mark.parametrize(
    ("name", "field"), [("HardShrink", "output"), ("HardShrink", "gradInput"), ("SoftShrink", "gradInput")]
)
def test_only_elements_at_the_threshold_may_differ(name: str, field: str, tmp_path: Path) -> None:
    file = FIXTURES / f"nn/nn.{name}/{name}__default_edges__double_train.t7"
    reference = dpnn_bridge.read_t7(file)
    changed, input = reference[field].torch(), reference["input"].torch()
    original, at_threshold = changed.clone(), input.abs() == 0.5
    path = tmp_path / "reference.t7"

    def verdict() -> Verdict:
        path.write_bytes(dumps(reference))
        return verify(path).verdict

    jumped = input if field == "output" else reference["gradOutput"].torch()
    changed.copy_(jumped.where(at_threshold, original))  # as if these inputs were beyond the threshold
    assert verdict() is Verdict.ROUNDING
    changed.copy_(original + 1)
    assert verdict() is Verdict.DIFFERENT
