"""What a module may not leave to the kernels of a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from dpnn_bridge.modules.nn import SpatialClassNLLCriterion
from dpnn_bridge.modules.nn.indices import must_check_ranges


@pytest.mark.parametrize(("device", "checks"), [("cpu", True), ("xla", True), ("mps", True), ("cuda:1", False)])
def test_ranges_are_checked_where_no_kernel_does(device: str, checks: bool) -> None:
    index: Any = SimpleNamespace(device=torch.device(device))
    assert must_check_ranges(cast(torch.Tensor, index)) is checks


def test_no_class_to_ignore_is_a_number_of_32_bits() -> None:
    """XLA cuts ``ignore_index`` to 32 bits, where the least number of 64 bits is class 0."""
    ignored = SpatialClassNLLCriterion().ignore_index
    assert torch.iinfo(torch.int32).min <= ignored < 0
