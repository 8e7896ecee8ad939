"""SoftMaxTree's gradients, of which Torch7's ``parameters()`` shows the visited nodes only, as whole tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import Tensor

from dpnn_bridge import read_t7, to_lua, to_torch
from dpnn_bridge.compare.nested import backward
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.nnx.tree import SoftMaxTree
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity import Tolerance, compare

ENTRIES = [e for name in ("nn.SoftMaxTree", "nn.SoftMaxForest") for e in manifest(kind="module", **{"class": name})]


def objects(obj: LuaObject) -> Iterator[LuaObject]:
    """``obj`` and the objects below ``modules``, depth first."""
    yield obj
    table = obj.get("modules")
    for child in table.as_list() if isinstance(table, LuaTable) else []:
        yield from objects(child)


@pytest.mark.parametrize("entry", ENTRIES, ids=fixture_id)
def test_whole_gradients_equal_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    inputs = to_value(fixture["input"])
    output = module(inputs)
    # the gater's SoftMax of 2015 approximates exp to 6 digits
    old = entry["class"] == "nn.SoftMaxForest" and entry.get("tree") == "2015"
    tolerance = Tolerance(double=1e-6) if old else Tolerance()
    differences = compare("output", output, to_value(fixture["output"]), tolerance)
    if "gradOutput" in fixture:
        backward(output, to_value(fixture["gradOutput"]))
    layers = [m for m in module.modules() if isinstance(getattr(m, "weight", None), Tensor)]
    expected = [o for o in objects(fixture["after"]) if "weight" in o]
    for layer, obj in zip(layers, expected, strict=True):
        for name, gradient in (("weight", "gradWeight"), ("bias", "gradBias")):
            if gradient in obj and "gradOutput" in fixture:  # with accUpdate there is none
                grad = getattr(layer, name).grad * (fixture.get("scale") or 1)
                differences += compare(gradient, grad, to_value(obj[gradient]), tolerance)
    assert [f"{d.name}: {d.message}" for d in differences if not d.ok] == []


def test_a_tree_made_here_is_what_lua_makes() -> None:
    tree = SoftMaxTree.from_hierarchy(4, {7: [1, 2, 3], 8: [4, 5], 9: [7, 8, 6]}, root=9)
    obj = to_lua(tree)
    fixture = next(e for e in ENTRIES if e["class"] == "nn.SoftMaxTree" and e.get("tree") == "2016")
    made = read_t7(FIXTURES / fixture["file"])["module"]  # of the same hierarchy
    for name in ("nChildNode", "nParentNode", "minNodeId", "maxNodeId", "maxParentId", "maxChildId", "maxFamily"):
        assert obj[name] == made[name]
    assert (obj["maxFamilyPath"], obj["maxDept"]) == (made["maxFamilyPath"], made["maxDept"])
    for name in ("childIds", "parentIds", "childParent", "parentChildren"):
        assert torch.equal(obj[name].torch(), made[name].torch())
    x, target = torch.randn(3, 4), torch.tensor([1, 5, 6])
    assert torch.equal(to_torch(obj)([x, target]), tree([x, target]))
    with pytest.raises(ValueError, match="node 3 has no path to the root 1"):
        SoftMaxTree.from_hierarchy(4, {1: [2], 3: [4]})


def test_leaves_have_probability_one_together() -> None:
    (entry, *_) = ENTRIES
    tree = to_torch(read_t7(FIXTURES / entry["file"])["module"])
    assert isinstance(tree, SoftMaxTree)
    parents = {int(i) + 1 for i in (tree.parent_children[:, 0] > 0).nonzero()}
    leaves = [n for n in range(1, len(tree.child_parent) + 1) if n not in parents and tree.child_parent[n - 1, 0] > 0]
    x = torch.randn(1, tree.in_features, dtype=tree.weight.dtype).expand(len(leaves), -1)
    assert float(tree([x, torch.tensor(leaves)]).detach().exp().sum()) == pytest.approx(1, abs=1e-6)
