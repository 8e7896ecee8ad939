"""What a module remembers of a call in one precision does not stand in the way of a call in another."""

from __future__ import annotations

import copy
from typing import Any

import mapping_examples
import pytest
import torch
from mapping_examples import MAPPINGS, Call, ClassMapping, mapping_id
from torch import nn

from dpnn_bridge.compare import nested
from dpnn_bridge.memory import forget

every_mapping = pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)


def single(mapping: ClassMapping) -> Call:
    """A call of a module of the mapping in single precision."""
    made = mapping_examples.call(mapping)
    if made is None:
        pytest.skip("never runs")
    call = made.copy()
    return Call(call.module.float(), nested.cast(call.arguments, torch.float32))


def runs(module: nn.Module, arguments: Any) -> Any:
    """What the module gives, None where it raises."""
    try:
        return Call(module, tuple(arguments)).run()
    except Exception:
        return None


@every_mapping
def test_a_plain_call_follows_one_under_autocast(mapping: ClassMapping) -> None:
    call = single(mapping)
    module = copy.deepcopy(call.module)
    with torch.autocast("cpu", torch.bfloat16):
        first = runs(module, call.copy().arguments)
    expected = runs(copy.deepcopy(call.module), call.copy().arguments)
    if first is None or expected is None:
        pytest.skip("does not run so")
    Call(module, call.arguments).copy().run()
    remembers = any(hasattr(m, "forget_own") for m in module.modules())
    if remembers and not call.module.training:
        forget(module)
        torch.testing.assert_close(
            list(nested.leaves(runs(module, call.copy().arguments))), list(nested.leaves(expected))
        )


@every_mapping
def test_a_call_in_double_follows_one_in_single(mapping: ClassMapping) -> None:
    call = single(mapping)
    if runs(call.copy().module.double(), nested.cast(call.arguments, torch.float64)) is None:
        pytest.skip("does not run so")
    module = copy.deepcopy(call.module)
    if runs(module, call.copy().arguments) is not None:
        Call(module.double(), nested.cast(call.copy().arguments, torch.float64)).run()
