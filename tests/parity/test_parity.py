"""Every module and criterion fixture: the converted module computes what Torch7 computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, demand_parity, fixture_id, manifest
from devices import xla

from dpnn_bridge import parity
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.loaders.t7_reader import read_t7


@pytest.mark.parametrize("entry", manifest(kind=("module", "criterion")), ids=fixture_id)
def test_computes_what_torch7_computed(entry: dict[str, Any], device: str, tolerance: parity.Tolerance) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    try:
        demand_parity(parity.check(fixture, device=device, tolerance=tolerance), entry)
    except VerificationError:
        if device.startswith("xla") and entry["class"] in xla.FAULTS:
            pytest.xfail(xla.FAULTS[entry["class"]])
        raise


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_cuda_is_exact_and_deterministic_while_it_is_compared(
    before: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        with parity.full_precision():
            assert state() == (True, before != (True, False))
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert state() == before
    finally:
        torch.use_deterministic_algorithms(False)
