"""A short selection on the device ``strict``, with ``DPNN_STRICT_DEVICE=1``.

The nightly workflow runs it, and all that takes ``--device``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FIXTURES
from devices import strict

ROOT = Path(__file__).parents[2]
#: layers of each kind, criterions, and a folder for the pytest plugin
CHOSEN = (
    "on_device and (not half_precision or mnist) or Linear__ or BatchNormalization__ or LookupTable__ or gModule__"
    " or ClassNLLCriterion__ or LSTM__"
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not os.environ.get("DPNN_STRICT_DEVICE"):
        pytest.skip(
            "builds a device, which takes half a minute: DPNN_STRICT_DEVICE=1 runs it, as the nightly workflow does"
        )
    if reason := strict.missing():
        pytest.skip(reason)
    tests = ["tests/devices/test_on_device.py", "tests/parity/test_parity.py", "-k", CHOSEN]
    plugin = [f"--t7-fixtures={FIXTURES / 'nn' / 'nn.Linear'}", "--t7-device", "strict"]
    options = ["-rpfE", "-p", "dpnn_bridge.pytest_plugin", "--device", "strict"]
    command = [sys.executable, "-m", "pytest", *options, *tests, *plugin]
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path_factory.mktemp("strict"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    return done.stdout + done.stderr


def test_a_device_that_the_host_cannot_touch(outcome: str) -> None:
    assert not re.search("^(FAILED|ERROR)", outcome, re.M), outcome[-3000:]
    assert len(re.findall(r"^PASSED .*test_on_device", outcome, re.M)) > 20, outcome[-3000:]
    assert len(re.findall(r"^PASSED .*test_parity", outcome, re.M)) > 100
    assert len(re.findall(r"^PASSED .*Linear__\w+\.t7::parity", outcome, re.M)) > 3
