"""A module that stands alone in a file, with CUDA tensors or as ASCII, is the module of its fixture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

import dpnn_bridge
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import to_value

TWINS = {e["name"]: e for e in manifest(kind="module")}
RAW = [e for e in manifest(kind="raw") if e["name"].rpartition(".")[0] in TWINS]


@pytest.mark.parametrize("entry", RAW, ids=fixture_id)
def test_same_module_as_in_the_fixture(entry: dict[str, Any]) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / TWINS[entry["name"].rpartition(".")[0]]["file"])
    expected, module = to_torch(fixture["module"]), dpnn_bridge.load(FIXTURES / entry["file"])
    assert repr(module) == repr(expected)
    assert [m.training for m in module.modules()] == [m.training for m in expected.modules()]
    assert module.state_dict().keys() == expected.state_dict().keys()
    for a, b in zip(module.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    outputs = []
    for m in (module, expected):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(list(nested.leaves(m(to_value(fixture["input"])))))
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
