"""Faults of rnn's modules that depend on the modules inside."""

from __future__ import annotations

import pytest
from torch import nn

from dpnn_bridge.modules.nn import SelectTable
from dpnn_bridge.modules.rnn import Recurrence, Recursor
from dpnn_bridge.parity.faults import Faults


@pytest.mark.parametrize(("last", "faulty"), [([], False), ([nn.Tanh()], True)])
def test_a_layer_after_a_step_module_in_a_recurrence_has_wrong_gradients_in_torch7(
    last: list[nn.Module], faulty: bool
) -> None:
    model = Recurrence(nn.Sequential(SelectTable(1), Recursor(nn.Linear(3, 4)), *last), 4, 1)
    reasons = [found.fault.reason for found in Faults(model).faulty_modules]
    assert any(reason.startswith("layers after a step module") for reason in reasons) is faulty
