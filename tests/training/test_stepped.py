"""``update_parameters`` changes what Torch7's does, as often; casts leave alone what Torch7's leave."""

from __future__ import annotations

import pytest
import torch
from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge import training
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaObject, LuaTable


def fixture(name: str) -> LuaTable:
    return dpnn_bridge.read_t7(FIXTURES / next(e["file"] for e in manifest() if e["name"] == name))


@pytest.mark.parametrize(
    "name",
    [
        "PartialLinear__partition__double_train",
        "SpatialClassifier__mlp__double_train",
        "MapTable__shared__double_train",
    ],
)
def test_every_parameter_makes_its_step(name: str) -> None:
    module = to_torch(fixture(name)["module"])
    before = [p.detach().clone() for p in module.parameters()]
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    training.update_parameters(module, 0.5)
    assert all(torch.equal(p, b - 0.5) for p, b in zip(module.parameters(), before, strict=True))
    training.zero_grad_parameters(module)
    assert not any(p.grad is None or p.grad.any() for p in module.parameters())


def test_a_weight_that_is_shared_without_its_gradient_makes_one_step_by_their_sum() -> None:
    module = to_torch(fixture("Sequential__net_siamese_weightonly__double_train")["module"])
    before = [p.detach().clone() for p in module.parameters()]
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    training.update_parameters(module, 0.5)
    assert all(torch.equal(p, b - 0.5) for p, b in zip(module.parameters(), before, strict=True))


def types(obj: LuaObject) -> set[str]:
    """Tensor classes of an object itself."""
    fields = ("weight", "gradWeight", "output", "gradInput")
    return {obj[name].class_name for name in fields if name in obj} | {obj["_type"]}


def test_what_dont_cast_holds_keeps_its_types() -> None:
    net = to_torch(fixture("2016.Composite.decorators.train.double")["module"]).float()
    obj = to_lua(net)
    inner = next(m for m in obj["modules"].as_list() if m.class_name == "nn.DontCast")
    assert types(obj) == types(inner) == {"torch.FloatTensor"}
    assert types(inner["modules"][1]) == {"torch.DoubleTensor"}


def test_a_copy_that_is_not_cast_keeps_the_type_of_its_gradient() -> None:
    table = fixture("Copy__dontcast__double_train")
    obj = to_lua(to_torch(table["module"]).float())
    assert obj["gradInput"].class_name == to_lua(to_torch(table["module"]))["gradInput"].class_name
    assert to_value(obj["gradInput"]).numel() == 0
