"""Every module and criterion fixture: the converted module computes what Torch7 computed."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import FIXTURES, demand_parity, fixture_id, manifest

from dpnn_bridge import parity
from dpnn_bridge.loaders.t7_reader import read_t7


@pytest.mark.parametrize("entry", manifest(kind=("module", "criterion")), ids=fixture_id)
def test_computes_what_torch7_computed(entry: dict[str, Any], device: str, tolerance: parity.Tolerance) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    demand_parity(parity.check(fixture, device=device, tolerance=tolerance), entry)
