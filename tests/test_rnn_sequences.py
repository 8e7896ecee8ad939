"""Recurrent modules step by step: every trace of calls that Torch7 recorded."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import FIXTURES, fixture_id, manifest
from rnn_replay import Replay

import dpnn_bridge

#: fixtures -> comparisons that are left out -> why; docs/rnn.md says what we do instead
EXCEPTIONS = [
    (r"rho2_too_far", r"call (9|\d\d) backward|gradParams", "backward beyond rho steps is silently wrong in Torch7"),
    (r"(LSTM|GRU|Recurrence)__trimZero__\w+_train", r"gradParams", "the first row of an all masked step leaks in"),
    (r"mufuru_shared_ops", r"gradParams", "both objects share operation modules, whose buffers the second overwrites"),
    (
        r"BiSequencerLM__calls",
        r"call \d+ backward\[\d\]",
        "the buffer of one gradInput is that of another after a shorter run",
    ),
    (r"Serial__seqlstm_light", r"^gradParams", "lightSerial leaves no gradients in the file; here they are zeros"),
]


@pytest.mark.parametrize("entry", manifest(kind="sequence"), ids=fixture_id)
def test_trace_gives_what_torch7_gave(entry: dict[str, Any]) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    replay = Replay(fixture)
    result = replay.run()
    left_out = [names for fixtures, names, _ in EXCEPTIONS if re.search(fixtures, entry["name"])]
    result.differences = [d for d in result.differences if not any(re.search(names, d.name) for names in left_out)]
    assert result.differences
    result.raise_for_failures()
