"""Recurrent modules step by step: every trace of calls that Torch7 recorded."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import FIXTURES, demand_parity, fixture_id, manifest
from rnn_replay import Replay

import dpnn_bridge
from dpnn_bridge import parity


@pytest.mark.parametrize("entry", manifest(kind="sequence"), ids=fixture_id)
def test_trace_gives_what_torch7_gave(entry: dict[str, Any], device: str, tolerance: parity.Tolerance) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    result = Replay(fixture, device, tolerance).run()
    assert result.differences
    demand_parity(result, entry)
