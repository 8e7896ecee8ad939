"""Recurrent layers of torch.nn return ``(output, state)`` and their Lua modules the output: what follows must fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dpnn_bridge
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.errors import EXPORT_GUIDE, ConversionError
from dpnn_bridge.modules.nn import (
    CAddTable,
    ConcatTable,
    FlattenTable,
    GModule,
    GraphNode,
    JoinTable,
    MapTable,
    NarrowTable,
    ParallelTable,
    SelectTable,
)
from dpnn_bridge.parity.torch7_jobs import class_names, job, run_jobs


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def graph(*modules: nn.Module, select: int | None = None) -> GModule:
    """The modules one after the other; with ``select``, a node that selects an element follows the first."""
    nodes = [GraphNode(), GraphNode((0,), "0")]
    if select is not None:
        nodes.append(GraphNode((1,), select=select))
    for name in range(1, len(modules)):
        nodes.append(GraphNode((len(nodes) - 1,), str(name)))
    return GModule(*modules, nodes=nodes)


class _Second(SelectTable):
    def forward(self, input: Any) -> Any:
        return input[1]


def _compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


SELECTED = {
    "LSTM": lambda: chain(nn.LSTM(3, 4), SelectTable(1), nn.Linear(4, 2)),
    "GRU, from the end": lambda: chain(nn.GRU(3, 4, 2), SelectTable(-2), nn.Tanh()),
    "RNN": lambda: chain(nn.RNN(3, 4, batch_first=True, bidirectional=True), SelectTable(1)),
    "weight norm": lambda: chain(parametrizations.weight_norm(nn.GRU(3, 4), "weight_ih_l0"), SelectTable(1)),
    "after an identity": lambda: chain(nn.GRU(3, 4), nn.Identity(), SelectTable(1)),
    "nested": lambda: chain(chain(nn.Tanh(), nn.GRU(3, 4)), chain(SelectTable(1), nn.Tanh())),
    "branches": lambda: chain(nn.GRU(3, 4), ConcatTable(SelectTable(1), chain(SelectTable(1), nn.Tanh())), CAddTable()),
    "residual": lambda: chain(ConcatTable(chain(nn.GRU(3, 3), SelectTable(1)), nn.Identity()), CAddTable()),
    "graph": lambda: graph(nn.GRU(3, 4), SelectTable(1), nn.Tanh()),
    "wrapped": lambda: chain(nn.DataParallel(nn.GRU(3, 4)), nn.DataParallel(SelectTable(1))),
    "compiled": lambda: chain(_compiled(nn.GRU(3, 4)), SelectTable(1)),
    "from a file": lambda: chain(nn.GRU(3, 4), to_torch(to_lua(SelectTable(1))), nn.Tanh()),
}


@pytest.mark.parametrize("net", SELECTED.values(), ids=SELECTED)
def test_the_selected_output_is_the_output_of_the_lua_module(net: Any) -> None:
    net, x = net(), torch.randn(5, 2, 3)
    torch.testing.assert_close(to_torch(to_lua(net))(x), net(x))
    torch.testing.assert_close(to_torch(to_lua(net, input=x))(x), net(x))


@pytest.mark.torch7
def test_torch7_computes_the_selected_output(tmp_path: Path) -> None:
    jobs, expected, x = [], [], torch.randn(5, 2, 3, dtype=torch.float64)
    for name, make in SELECTED.items():
        net = make().double()
        obj = to_lua(net, input=x)
        dpnn_bridge.write_t7(file := tmp_path / f"{len(jobs)}.t7", obj)
        jobs.append(job(file, class_names(obj), ("load", "forward"), input=lua_value(x)))
        expected.append((name, net(x)))
    for (name, y), result in zip(expected, run_jobs(jobs), strict=True):
        assert "error" not in result["forward"], (name, result["forward"]["error"])
        torch.testing.assert_close(to_value(result["forward"]["value"]), y, msg=name)


REFUSED = {
    "state": (chain(nn.GRU(3, 4), SelectTable(2)), "1 (SelectTable)", "0 (GRU)"),
    "state from the end": (chain(nn.GRU(3, 4), SelectTable(-1)), "1 (SelectTable)", "0 (GRU)"),
    "narrowed": (chain(nn.GRU(3, 4), NarrowTable(1, 1), SelectTable(1)), "1 (NarrowTable)", "0 (GRU)"),
    "flattened": (chain(nn.LSTM(3, 4), FlattenTable(), SelectTable(1)), "1 (FlattenTable)", "0 (LSTM)"),
    "parallel": (chain(nn.GRU(3, 4), ParallelTable(nn.Tanh(), nn.Tanh())), "1 (ParallelTable)", "0 (GRU)"),
    "mapped": (chain(nn.RNN(3, 4), MapTable(nn.Tanh())), "1 (MapTable)", "0 (RNN)"),
    "joined": (chain(chain(nn.GRU(3, 4)), chain(JoinTable(1))), "1.0 (JoinTable)", "0.0 (GRU)"),
    "in a list": (
        chain(ConcatTable(nn.GRU(3, 4), nn.Linear(3, 4)), FlattenTable(), SelectTable(1)),
        "1 (FlattenTable)",
        "0.0 (GRU)",
    ),
    "list in a list": (chain(ConcatTable(nn.GRU(3, 4), nn.Tanh()), SelectTable(1)), "1 (SelectTable)", "0.0 (GRU)"),
    "branch": (chain(nn.GRU(3, 4), ConcatTable(SelectTable(1), SelectTable(2))), "1.1 (SelectTable)", "0 (GRU)"),
    "element of a graph": (graph(nn.GRU(3, 4), nn.Tanh(), select=1), "root (GModule)", "0 (GRU)"),
    "subclass": (chain(nn.GRU(3, 4), _Second(1)), "1 (_Second)", "0 (GRU)"),
    "tensor expected": (chain(nn.GRU(3, 4), nn.Linear(4, 2)), "1 (Linear)", "0 (GRU)"),
    "recurrent": (chain(nn.GRU(3, 4), nn.LSTM(4, 2)), "1 (LSTM)", "0 (GRU)"),
}


@pytest.mark.parametrize(("net", "place", "layer"), REFUSED.values(), ids=REFUSED)
def test_layers_that_get_the_tuple_are_refused(net: nn.Module, place: str, layer: str) -> None:
    with pytest.raises(ConversionError) as error:
        to_lua(net)
    assert str(error.value) == (
        f"{place}: its input contains the tuple (output, state) of {layer}, and the Lua module of that layer returns "
        f"only the output; select the output directly after the layer, with SelectTable(1); see {EXPORT_GUIDE}"
    )


@pytest.mark.parametrize("net", [nn.LSTM(3, 4), chain(nn.Tanh(), nn.GRU(3, 4)), chain(nn.RNN(3, 4), nn.Identity())])
def test_the_tuple_of_the_whole_model_becomes_its_output(net: nn.Module) -> None:
    torch.testing.assert_close(to_torch(to_lua(net))(x := torch.randn(5, 2, 3)), net(x)[0])


def test_an_element_of_the_result_becomes_the_output() -> None:
    net, x = ConcatTable(nn.GRU(3, 4), nn.Linear(3, 4)), torch.randn(5, 2, 3)
    expected = net(x)
    torch.testing.assert_close(to_torch(to_lua(net))(x), [expected[0][0], expected[1]])


@pytest.mark.parametrize("tuple_first", [True, False])
def test_one_object_that_selects_from_a_tuple_and_from_a_table(tuple_first: bool, tmp_path: Path) -> None:
    """A file keeps that it is one object, and it is written once."""
    select, linear = SelectTable(1), nn.Linear(3, 4)
    branches = [chain(nn.GRU(3, 4), select), chain(ConcatTable(linear, linear), select)]
    net = ConcatTable(*(branches if tuple_first else branches[::-1]))
    dpnn_bridge.save(tmp_path / "a.pt", net)
    with pytest.raises(ConversionError, match="use two SelectTable objects"):
        to_lua(dpnn_bridge.load(tmp_path / "a.pt"))
    branches[1][1] = SelectTable(1)
    found = to_torch(to_lua(net))(x := torch.randn(5, 2, 3))
    torch.testing.assert_close(found, net(x))


def test_a_pytorch_file_keeps_the_tuple(tmp_path: Path) -> None:
    net, x = chain(nn.GRU(3, 4), FlattenTable(), SelectTable(2)), torch.randn(5, 2, 3)
    dpnn_bridge.save(tmp_path / "a.pt", net)
    torch.testing.assert_close(dpnn_bridge.load(tmp_path / "a.pt")(x), net(x))


def test_a_container_of_the_user_selects_the_output_itself() -> None:
    @lua_class("test.OutputOf")
    class OutputOf(nn.Sequential):
        def forward(self, input: Any) -> Any:
            return self[0](input)[0]

        class Lua(dpnn_bridge.LuaClass):
            container = True

    names = [m.class_name for m in to_lua(chain(OutputOf(nn.GRU(3, 4)), nn.Tanh()))["modules"].as_list()]
    assert names == ["test.OutputOf", "nn.Tanh"]
