"""Conversions name the in-place layers that overwrite in Torch7 what other layers read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import lua
from torch import nn

from dpnn_bridge import to_lua
from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.nn.overwriting import note_shortcuts
from dpnn_bridge.objects import LuaObject, LuaTable


def notes(model: LuaObject, **options: Any) -> list[str]:
    found = convert_object(model, Options(**options))[1].notes
    return [note.split(": ")[2].split(". ")[0] for note in found if "in-place layers overwrite" in note]


def relu(**fields: Any) -> LuaObject:
    return lua("nn.ReLU", **{"inplace": True, "threshold": 0, "val": 0, **fields})


@pytest.mark.parametrize("name", ["nn.ConcatTable", "nn.Concat", "nn.DepthConcat"])
def test_a_branch_that_overwrites_the_input_of_all(name: str) -> None:
    fields = {} if name == "nn.ConcatTable" else {"dimension": 2}

    def branches(*modules: LuaObject) -> LuaObject:
        return lua(name, *modules, **fields)

    identity, sequential = lua("nn.Identity"), lua("nn.Sequential", lua("nn.Identity"), relu(), lua("nn.Tanh"))
    assert notes(branches(relu(), lua("nn.Tanh"))) == ["modules[1] (nn.ReLU)"]
    assert notes(branches(relu(inplace=2), lua("nn.Tanh"))) == ["modules[1] (nn.ReLU)"]  # as nn.CAddTable(2)
    assert notes(branches(identity, sequential)) == ["modules[2] (nn.ReLU)"]
    assert notes(branches(relu(), identity), inplace=True) == []
    assert notes(branches(relu())) == []
    assert notes(branches(relu(inplace=False), identity)) == []
    assert notes(branches(lua("nn.Sequential", lua("nn.Tanh"), relu()), identity)) == []


def test_a_sum_that_overwrites_the_input_of_all_branches() -> None:
    def block(*branches: LuaObject, inplace: bool = True) -> LuaObject:
        return lua("nn.Sequential", lua("nn.ConcatTable", *branches), lua("nn.CAddTable", inplace=inplace))

    tanh, identity = lua("nn.Tanh"), lua("nn.Identity")
    assert notes(block(identity, tanh)) == ["modules[2] (nn.CAddTable)"]
    assert notes(block(lua("nn.Sequential", identity, lua("nn.Sequential", identity)), tanh)) == [
        "modules[2] (nn.CAddTable)"
    ]
    assert notes(block(tanh, identity)) == []  # overwrites a result of its own
    assert notes(block(identity, tanh, inplace=False)) == []
    assert notes(block(identity)) == []
    assert notes(block(lua("nn.Sequential", identity, lua("nn.Tanh")), lua("nn.Tanh"))) == []


def test_a_branch_that_overwrites_the_gradient_of_the_next_ones() -> None:
    def found(*branches: LuaObject, inplace: bool = True) -> list[str]:
        table = lua("nn.ConcatTable", *branches)
        model = lua("nn.Sequential", lua("nn.Tanh"), table, lua("nn.CAddTable", inplace=inplace))
        given = convert_object(model, Options())[1].notes
        return [note.split(": ")[-1].split(". ")[0] for note in given if "overwrite the gradient" in note]

    identity, body = lua("nn.Identity"), lua("nn.Sequential", lua("nn.Tanh"), relu(), lua("nn.Identity"))
    assert found(body, identity) == ["modules[2].modules[1] (nn.ReLU)"]
    assert found(identity, body) == []  # the last branch
    assert found(body, identity, inplace=False) == []
    assert found(lua("nn.Sequential", relu(), lua("nn.Tanh")), identity) == []
    table = lua("nn.ConcatTable", lua("nn.Tanh"), identity)
    constant, total = lua("nn.AddConstant", inplace=True, constant_scalar=1), lua("nn.CAddTable", inplace=True)
    assert found(lua("nn.Sequential", lua("nn.Tanh"), constant), identity) == []  # whose gradient stays
    assert found(lua("nn.Sequential", table, total), identity) == []


def test_a_table_that_many_sums_follow_is_looked_at_a_few_times() -> None:
    class Counted(LuaTable):
        read = 0

        def get(self, *arguments: Any) -> Any:
            type(self).read += 1
            return super().get(*arguments)

        def as_list(self) -> list[Any]:
            type(self).read += len(self)
            return super().as_list()

    branches = LuaObject("nn.ConcatTable", LuaTable({"modules": Counted.from_list([lua("nn.Identity")] * 1000)}))
    model = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([branches] * 100)}))
    note_shortcuts(model, TorchConversion(Options()))
    assert Counted.read <= 100


def test_a_dropout_overwrites_nothing_in_evaluation() -> None:
    dropout = {"p": 0.5, "v2": True, "inplace": True}
    for train, expected in ((True, ["modules[1] (nn.Dropout)"]), (False, [])):
        model = lua("nn.ConcatTable", lua("nn.Dropout", train=train, **dropout), lua("nn.Tanh"))
        assert notes(model) == expected
    idle = lua("nn.Dropout", train=False, **dropout)
    assert notes(lua("nn.ConcatTable", lua("nn.Sequential", idle, relu()), lua("nn.Tanh"))) == ["modules[1] (nn.ReLU)"]


@pytest.mark.parametrize("fields", [{"v2": False}, {"v2": True, "stochastic_inference": True}])
def test_a_dropout_that_computes_in_evaluation_overwrites_its_input(fields: dict[str, bool]) -> None:
    dropout = lua("nn.Dropout", train=False, p=0.5, inplace=True, **fields)
    assert notes(lua("nn.ConcatTable", dropout, lua("nn.Tanh"))) == ["modules[1] (nn.Dropout)"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lua("nn.CAddTable", inplace=True), 4),
        (lua("nn.MulConstant", constant_scalar=3, inplace=True), 3),
        (lua("nn.AddConstant", constant_scalar=5, inplace=True), 6),
    ],
    ids=lambda value: value.class_name if isinstance(value, LuaObject) else "",
)
def test_a_layer_overwrites_its_input_as_its_file_says(layer: LuaObject, expected: float) -> None:
    """The branch behind it reads what it wrote, as in Torch7."""
    is_sum = layer.class_name == "nn.CAddTable"
    model = lua("nn.ConcatTable", layer, lua("nn.Identity"))
    for inplace in (False, True):
        first, second = torch.ones(1), torch.full((1,), 3.0)
        module = convert_object(model, Options(inplace=inplace))[0]
        module([first, second] if is_sum else first)
        assert first.item() == (expected if inplace else 1)
        assert notes(model, inplace=inplace) == ([] if inplace else [f"modules[1] ({layer.class_name})"])


def test_the_rectifier_of_both_signs_overwrites_nothing_of_others() -> None:
    crelu = lua("nn.CReLU", lua("nn.Identity"), nInputDims=1, inplace=True)
    assert notes(lua("nn.ConcatTable", crelu, lua("nn.Identity"))) == []


@pytest.mark.parametrize(("shared", "expected"), [(True, ["forwardnodes[4] (nn.ReLU)"]), (False, [])])
def test_a_node_that_overwrites_what_another_reads(shared: bool, expected: list[str]) -> None:
    """As in a U-Net whose encoder's layers begin with LeakyReLU(0.2, true), and whose decoder joins their inputs."""
    nodes = [
        GraphNode(),
        GraphNode((0,), "0"),  # Linear
        GraphNode((1,), "1"),  # Identity
        GraphNode((2,), "2"),  # ReLU
        GraphNode((1,) if shared else (3,), "3"),  # Tanh
        GraphNode((3, 4), "4"),  # JoinTable
    ]
    modules = [nn.Linear(3, 3), nn.Identity(), nn.ReLU(), nn.Tanh(), join()]
    model = to_lua(GModule(*modules, nodes=nodes, input_node=0, output_node=5))
    model["modules"][3]["inplace"] = True
    assert notes(model) == expected


def join() -> nn.Module:
    from dpnn_bridge.modules.nn.table import JoinTable

    return JoinTable(2)


@pytest.mark.parametrize(("v2", "advice"), [(True, "; with inplace=True the outputs are equal"), (False, "")])
def test_a_layer_that_ignores_the_option_is_named_with_the_option_too(v2: bool, advice: str) -> None:
    model = lua("nn.ConcatTable", lua("nn.Dropout", p=0.5, v2=v2, inplace=True), lua("nn.Tanh"))
    (note,) = convert_object(model, Options())[1].notes
    assert note.endswith(f"may differ from Torch7's{advice}")
    assert notes(model, inplace=True) == ([] if v2 else ["modules[1] (nn.Dropout)"])
