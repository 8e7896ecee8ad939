"""Options and the manifest, shared by all tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dpnn_bridge.differences import Tolerance

#: the repository's fixtures, or a folder with a larger set of the same form
FIXTURES = Path(os.environ.get("DPNN_FIXTURES") or Path(__file__).parent.parent / "fixtures")

torch.set_num_threads(1)


def manifest(**wanted: Any) -> list[dict[str, Any]]:
    """Entries of the fixture manifest whose fields have the wanted values (or one of a tuple of values)."""
    entries = json.loads((FIXTURES / "manifest.json").read_text())["fixtures"]
    return [
        e for e in entries if all(e.get(k) in v if isinstance(v, tuple) else e.get(k) == v for k, v in wanted.items())
    ]


def fixture_id(entry: dict[str, Any]) -> str:
    """``nn.Linear-nn-Linear__batch__double_train``: ``pytest -k nn.Linear`` selects a class."""
    return f"{entry['class']}-{entry.get('package') or entry['set']}-{entry['name']}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the parity fixtures run, such as cuda")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.config.getoption("--device"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return name


@pytest.fixture(scope="session")
def tolerance(device: str) -> Tolerance:
    """Accepted differences. On CUDA sums run in another order and some are atomic; TF32 is off (``full_precision``)."""
    return Tolerance(1e-9, 1e-4) if device.startswith("cuda") else Tolerance()
