"""Conversions name the in-place layers that overwrite in Torch7 what other layers read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import lua
from torch import nn

from dpnn_bridge import to_lua
from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.memory import TooManyStepsError, Trace
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.nn.overwriting import note_shortcuts
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable, LuaTensor


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
    assert notes(branches(identity, sequential)) == ["modules[2].modules[2] (nn.ReLU)"]
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
    assert notes(lua("nn.ConcatTable", lua("nn.Sequential", idle, relu()), lua("nn.Tanh"))) == [
        "modules[1].modules[2] (nn.ReLU)"
    ]


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


@pytest.mark.parametrize(
    ("v2", "advice"), [(True, "; with inplace=True they overwrite them in PyTorch, too"), (False, "")]
)
def test_a_layer_that_ignores_the_option_is_named_with_the_option_too(v2: bool, advice: str) -> None:
    model = lua("nn.ConcatTable", lua("nn.Dropout", p=0.5, v2=v2, inplace=True), lua("nn.Tanh"))
    (note,) = convert_object(model, Options())[1].notes
    assert note.endswith(f"may differ from Torch7's{advice}")
    assert notes(model, inplace=True) == ([] if v2 else ["modules[1] (nn.Dropout)"])


def wrapped(name: str, module: LuaObject, **fields: Any) -> LuaObject:
    """A module with another one inside, also in the field that rnn's classes use."""
    field = "recurrentModule" if name in ("nn.Recursor", "nn.Recurrence") else "module"
    return lua(name, module, **{field: module}, **fields)


RHO = {"rho": 2, "step": 1}
RECURSOR = wrapped("nn.Recursor", relu(), **RHO)
PAIR = lua("nn.ConcatTable", lua("nn.Identity"), lua("nn.Tanh"))
ROWS = lua("nn.SplitTable", dimension=2)
EMPTY = LuaTensor.empty("torch.DoubleTensor")

#: modules inside a branch that overwrite the input of all branches, and the path of the layer inside the branch
OVERWRITING = {
    "Decorator": (wrapped("nn.Decorator", relu()), ".modules[1]"),
    "Serial": (wrapped("nn.Serial", relu()), ".modules[1]"),
    "NaN": (wrapped("nn.NaN", relu(), id=1), ".modules[1]"),
    "DontCast": (wrapped("nn.DontCast", relu()), ".modules[1]"),
    "Profile": (wrapped("nn.Profile", relu()), ".modules[1]"),
    "MaskZero": (wrapped("nn.MaskZero", relu(), nInputDim=1), ".modules[1]"),
    "Bottle": (wrapped("nn.Bottle", relu(), nInputDim=2, nOutputDim=2), ".modules[1]"),
    "Recursor": (RECURSOR, ".recurrentModule"),
    "Sequencer": (wrapped("nn.Sequencer", RECURSOR), ".modules[1].recurrentModule"),
    "BiSequencer": (
        wrapped("nn.BiSequencer", wrapped("nn.Sequencer", RECURSOR)),
        ".modules[1].modules[1].recurrentModule",
    ),
    "Repeater": (wrapped("nn.Repeater", RECURSOR, rho=2), ".modules[1].recurrentModule"),
    "Parallel": (lua("nn.Parallel", relu(), inputDimension=1, outputDimension=1), ".modules[1]"),
    "ParallelTable": (lua("nn.Sequential", ROWS, lua("nn.ParallelTable", relu())), ".modules[2].modules[1]"),
    "MapTable": (lua("nn.Sequential", ROWS, lua("nn.MapTable", relu(), shared=True)), ".modules[2].modules[1]"),
    "SelectTable": (lua("nn.Sequential", PAIR, lua("nn.SelectTable", index=1), relu()), ".modules[3]"),
    "Reverse": (
        lua("nn.Sequential", PAIR, lua("nn.ReverseTable"), lua("nn.SelectTable", index=-1), relu()),
        ".modules[4]",
    ),
    "NarrowTable": (
        lua("nn.Sequential", PAIR, lua("nn.NarrowTable", offset=1, length=1), lua("nn.CAddTable", inplace=True)),
        ".modules[3]",
    ),
    "ZipTable": (
        lua(
            "nn.Sequential",
            lua("nn.ConcatTable", PAIR, PAIR),
            lua("nn.ZipTable"),
            lua("nn.SelectTable", index=1),
            lua("nn.CAddTable", inplace=True),
        ),
        ".modules[4]",
    ),
    **{
        name: (lua("nn.Sequential", lua(f"nn.{name}", **fields), relu()), ".modules[2]")
        for name, fields in {
            "Collapse": {"nInputDim": 1},
            "Contiguous": {},
            "Convert": {"inputShape": "bf", "outputShape": "bf", "output": EMPTY},
            "Copy": {"output": EMPTY, "updateOutput": LuaFunction(b"", None)},
            "CopyGrad": {},
            "GradientReversal": {"lambda": 1},
            "L1Penalty": {"l1weight": 1},
            "Replicate": {"nfeatures": 2, "dim": 1},
            "ZeroGrad": {},
        }.items()
    },
}


@pytest.mark.parametrize("name", OVERWRITING)
def test_a_layer_that_gets_the_memory_of_the_input_from_another_module(name: str) -> None:
    module, path = OVERWRITING[name]
    (note,) = convert_object(lua("nn.ConcatTable", module, lua("nn.Tanh")), Options())[1].notes
    container, _, found = note.partition(" (nn.")[0].split(": ")
    assert ".".join([container, found]).removeprefix("root.") == f"modules[1]{path}"


@pytest.mark.parametrize(
    "module",
    [
        lua("nn.Sequential", lua("nn.Narrow", dimension=1, index=1, length=1), relu()),  # which Torch7 copies
        lua("nn.Sequential", lua("nn.Select", dimension=1, index=1), relu()),
        lua("nn.Sequential", lua("nn.Transpose", permutations=LuaTable()), relu()),
        lua("nn.Sequential", lua("nn.Copy", output=EMPTY), relu()),  # with forceCopy
        lua("nn.Sequential", lua("nn.Concat", lua("nn.Identity"), dimension=1), relu()),
        lua("nn.Sequential", wrapped("nn.MaskZero", lua("nn.Identity"), nInputDim=1), relu()),
        lua("nn.Sequential", PAIR, lua("nn.SelectTable", index=2), relu()),
        lua("nn.Sequential", PAIR, lua("nn.ParallelTable", lua("nn.Identity"), relu())),
    ],
)
def test_a_layer_that_gets_other_memory(module: LuaObject) -> None:
    assert notes(lua("nn.ConcatTable", module, lua("nn.Tanh"))) == []


def test_other_elements_of_a_table_are_other_memory() -> None:
    def selected(index: int, *modules: LuaObject) -> LuaObject:
        return lua("nn.Sequential", lua("nn.SelectTable", index=index), *modules)

    assert notes(lua("nn.ConcatTable", selected(1, relu()), selected(2))) == []
    assert notes(lua("nn.ConcatTable", selected(1, relu()), selected(1))) == ["modules[1].modules[2] (nn.ReLU)"]
    assert notes(lua("nn.ConcatTable", selected(1, relu()), selected(-1))) == ["modules[1].modules[2] (nn.ReLU)"]


def test_a_sum_reads_its_first_term_again_after_it_changed() -> None:
    identity, total = lua("nn.Identity"), lua("nn.CAddTable", inplace=True)
    assert notes(lua("nn.Sequential", lua("nn.ConcatTable", identity, identity), total)) == []  # x + x
    terms = lua("nn.ConcatTable", identity, identity, identity)
    assert notes(lua("nn.Sequential", terms, total)) == ["modules[2] (nn.CAddTable)"]  # (x + x) + (x + x)


def test_the_note_names_the_container_of_both_layers() -> None:
    inner = lua("nn.ConcatTable", relu(), lua("nn.Tanh"))
    found = convert_object(lua("nn.ConcatTable", lua("nn.Sequential", inner), lua("nn.Tanh")), Options())[1].notes
    assert [note.split(". ")[0] for note in found] == [
        "modules[1].modules[1]: in Torch7, these in-place layers overwrite values that other layers also read: "
        "modules[1] (nn.ReLU)"
    ]


def test_modules_of_a_class_that_tells_nothing_are_examined_too() -> None:
    criterion = lua("nn.ModuleCriterion", inputModule=lua("nn.ConcatTable", relu(), lua("nn.Tanh")))
    trace = Trace()
    trace.run_model(criterion)
    assert [access.path for access, _ in trace.conflicts()] == [(("inputModule",), ("modules", 1))]


def test_the_examination_of_a_large_model_ends() -> None:
    """Each table contains the previous one twice: 2 ** 100 calls of the first layer, and as many elements."""
    model, values = relu(), [lua("nn.ConcatTable", lua("nn.Identity"), lua("nn.Identity")) for _ in range(100)]
    for _ in range(90):
        model = lua("nn.ConcatTable", model, model)
    for hostile in (model, lua("nn.Sequential", *values, lua("nn.FlattenTable"))):
        trace = Trace(10_000)
        with pytest.raises(TooManyStepsError):
            trace.run_model(hostile)
    cycle = lua("nn.Sequential", relu())
    cycle["modules"][2] = cycle
    Trace().run_model(cycle)
