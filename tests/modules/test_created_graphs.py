"""Graphs that were created in Python are written as nngraph can run them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge import load, save, to_lua, to_torch
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.modules.nn import CAddTable, ConcatTable, GModule
from dpnn_bridge.modules.nn import GraphNode as N
from dpnn_bridge.modules.nn.graph_nodes import unused_elements
from dpnn_bridge.objects import LuaTable

#: number of inputs, nodes; the modules are two linear layers and a sum
GRAPHS: dict[str, tuple[int, list[N]]] = {
    "the input is used twice": (1, [N(), N((0,), "0"), N((1, 0), "2"), N((2,))]),
    "the output node has a module": (1, [N(), N((0,)), N((1,), "0")]),
    "the output node has a consumer": (1, [N(), N((0,), "0"), N((1,)), N((2,), "1")]),
    "the input node has a module": (1, [N(module="0"), N((0,), "1"), N((1,))]),
    "a module runs twice": (1, [N(), N((0,)), N((1,), "0"), N((2,), "0"), N((2, 3), "2"), N((4,))]),
    "a value twice in a list": (1, [N(), N((0,)), N((1,), "0"), N((2, 2), "2"), N((3,))]),
    "one output twice": (1, [N(), N((0,)), N((1,), "0"), N((2, 2))]),
    "a result without use": (1, [N(), N((0,)), N((1,), "0"), N((1,), "1"), N((2,))]),
    "the output is the input": (1, [N()]),
    "an element is selected twice": (
        2,
        [N(), N((0,), splits=2), *(N((1,), select=k) for k in (1, 1, 2)), N((2,), "0"), N((3, 4, 5, 2), "2"), N((6,))],
    ),
    "a list is used as a whole too": (
        2,
        [N(), N((0,), splits=2), N((1,), select=1), N((1,), select=2), N((1,), "2"), N((2, 3, 4), "2"), N((5,))],
    ),
    "two nodes split one list": (
        2,
        [
            N(),
            *(N((i,), splits=2) for i in (0, 1)),
            *(N((i,), select=k) for i in (1, 2) for k in (1, 2)),
            N((3, 6), "2"),
        ],
    ),
    "a list of unknown length": (2, [N(), N((0,)), N((1,), select=1), N((1,), select=2), N((2, 3), "2"), N((4,))]),
    "a node runs a module instead of selecting": (
        1,
        [N(), N((0,)), N((1,), "0", select=1), N((2,), "1", splits=3), N((3,))],
    ),
    "the output is a list": (2, [N(), N((0,), splits=2)]),
    "two inputs": (2, [N(), N((0,), splits=2), N((1,), select=2), N((1,), select=1), N((2, 3), "2"), N((4,))]),
}
SCRIPT = """
require 'nngraph'
local path, input, gradOutput = ...
local model = torch.load(path)
return model:forward(input), model:backward(input, gradOutput)
"""


def read_again(model: nn.Module, folder: Path) -> Any:
    """The model after it was saved in PyTorch's format."""
    save(folder / "graph.pt", model)
    return load(folder / "graph.pt").double()


def graph(name: str) -> tuple[GModule, Any]:
    torch.manual_seed(0)
    count, nodes = GRAPHS[name]
    output = 2 if name == "the output node has a consumer" else -1
    model = GModule(nn.Linear(4, 4), nn.Linear(4, 4), CAddTable(), nodes=nodes, num_inputs=count, output_node=output)
    inputs = [torch.randn(2, 4, dtype=torch.double, requires_grad=True) for _ in range(count)]
    return model.double(), inputs[0] if count == 1 else inputs


def listed(value: Any) -> list[Tensor]:
    return [t.detach() for t in nested.tensors(value)]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_created_graph_is_written_in_the_form_of_nngraph(name: str) -> None:
    model, x = graph(name)
    obj = to_lua(model)
    assert obj["outnode"]["data"].get("module") is None
    assert obj["innode"]["data"].get("module") is None
    assert len(obj["innode"]["children"].as_list()) == 1
    nodes = [node["data"] for node in obj["forwardnodes"].as_list()]
    run = [id(data["module"]) for data in nodes if data.get("module") is not None]
    assert len(run) == len(set(run))
    followed = {id(node["data"]) for data in nodes for node in data["reverseMap"]}
    assert followed <= {id(data) for data in nodes}  # nngraph refuses nodes that lead nowhere
    again = to_torch(obj)
    assert all(map(torch.equal, listed(model(x)), listed(again(x))))
    assert {name: p.shape for name, p in model.named_parameters()}.items() <= {
        name: p.shape for name, p in again.named_parameters()
    }.items()
    assert {name for name, _ in again.state_dict().items()} == set(model.state_dict())
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.torch7
@pytest.mark.parametrize("form", ["created", "saved"])
@pytest.mark.parametrize("name", GRAPHS)
def test_torch7_computes_what_a_created_graph_computes(name: str, form: str, tmp_path: Path) -> None:
    model, x = graph(name)
    if form == "saved":
        model = read_again(model, tmp_path)
    output = model(x)
    gradients = [torch.randn_like(y) for y in listed(output)]
    torch.autograd.backward(list(nested.tensors(output)), gradients)
    given = [lua_value(v.detach() if isinstance(v, Tensor) else listed(v)) for v in (x, gradients)]
    if len(gradients) == 1:
        given[1] = lua_value(gradients[0])
    write_t7(tmp_path / "graph.t7", to_lua(model))
    found, grad = run_torch7(SCRIPT, str(tmp_path / "graph.t7"), *given, program=os.environ["DPNN_TORCH7"])
    for actual, expected in zip(listed(to_value(found)), listed(output), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)
    for actual, t in zip(listed(to_value(grad)), nested.tensors(x), strict=True):
        torch.testing.assert_close(actual, t.grad, rtol=1e-12, atol=1e-13)


def of_three_results(*selected: int) -> GModule:
    """A graph that adds elements of the list that a module returns, whose length no node states."""
    branches = ConcatTable(*(nn.Linear(4, 4) for _ in range(3)))
    nodes = [N(), N((0,), "0"), *(N((1,), select=k) for k in selected), N((2, 3), "1"), N((4,))]
    return GModule(branches, CAddTable(), nodes=nodes)


def test_a_list_of_unknown_length_is_written_without_one() -> None:
    """A length of 2, the last element that is used, was stated: Torch7 refused the list of three."""
    model, x = of_three_results(2, 1), torch.randn(2, 4)
    obj = to_lua(model)
    assert all("nSplitOutputs" not in node["data"] for node in obj["forwardnodes"].as_list())
    assert torch.equal(to_torch(obj)(x), model(x))


@pytest.mark.torch7
def test_torch7_runs_a_list_of_unknown_length(tmp_path: Path) -> None:
    model, x = of_three_results(2, 1).double(), torch.randn(2, 4).double()
    write_t7(tmp_path / "graph.t7", to_lua(model))
    script = "require 'nngraph' local path, input = ... return torch.load(path):forward(input)"
    found = run_torch7(script, str(tmp_path / "graph.t7"), lua_value(x), program=os.environ["DPNN_TORCH7"])
    torch.testing.assert_close(to_value(found[0]), model(x).detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("nodes", "inputs", "unused"),
    [
        ([N(), N((0,), select=1), N((0,), select=2), N((1, 2), "1"), N((3,))], 3, "3 of 3"),
        ([N(), N((0,)), N((0,), "0"), N((1, 2)), N((3,), select=2), N((4,))], 1, "1 of 2"),
        ([N(), N((0,)), N((0,), "0"), N((1, 2)), N((3,), select=1), N((4,))], 1, "2 of 2"),
    ],
)
def test_lists_of_known_length_are_used_completely(nodes: list[N], inputs: int, unused: str) -> None:
    with pytest.raises(ConversionError, match=f"element {unused} has no effect on the output"):
        to_lua(GModule(nn.Linear(4, 4), CAddTable(), nodes=nodes, num_inputs=inputs))


@pytest.mark.parametrize("first", [[N(select=2), N((0,), "0")], [N(), N((0,), select=2), N((1,), "0")]])
def test_an_input_of_which_one_element_is_used_is_refused(first: list[N]) -> None:
    with pytest.raises(ConversionError, match="element 1 of 2 has no effect on the output"):
        to_lua(GModule(nn.Linear(4, 4), nodes=[*first, N((len(first) - 1,))], num_inputs=2))


def test_an_input_without_use_is_refused() -> None:
    nodes = [N(), N((0,), splits=2), N((1,), select=1), N((1,), select=2), N((2,), "0"), N((4,))]
    with pytest.raises(ConversionError, match="element 2 of 2 has no effect on the output"):
        to_lua(GModule(nn.Linear(4, 4), nodes=nodes, num_inputs=2))


def test_a_module_of_a_container_and_two_graphs_is_written_for_each() -> None:
    """Torch7 has one buffer for all uses of an object."""
    shared, nodes = nn.Linear(4, 4), [N(), N((0,)), N((1,), "0"), N((2,))]
    graphs = (GModule(shared, nodes=nodes) for _ in range(2))
    model = nn.Sequential(shared, *graphs, shared).double()
    obj = to_lua(model)
    first, one, two, last = obj["modules"].as_list()
    written = [first, last, *(g["modules"][1] for g in (one, two))]
    assert len({id(layer) for layer in written}) == 4
    assert len({id(layer["weight"].storage) for layer in written}) == 1
    assert one["forwardnodes"][3]["data"]["module"] is one["modules"][1]
    x = torch.randn(2, 4).double()
    assert torch.equal(to_torch(obj)(x), model(x))
    assert len(list(to_torch(obj).parameters())) == 2


def test_an_input_without_use_is_refused_after_a_file_too(tmp_path: Path) -> None:
    nodes = [N(), N((0,), splits=2), N((1,), select=1), N((2,), "0"), N((3,))]
    model = read_again(GModule(nn.Linear(4, 4), nodes=nodes, num_inputs=2), tmp_path)
    with pytest.raises(ConversionError, match="element 2 of 2 has no effect on the output"):
        to_lua(model)


@pytest.mark.parametrize("listed", ["once", "not at all"])
def test_a_file_may_list_a_module_once_that_several_nodes_run(listed: str) -> None:
    """As files of earlier versions, and graphs that Lua code changed; its parameters are stepped once."""
    model, x = graph("a module runs twice")
    obj = to_lua(model)
    nodes = [node["data"] for node in obj["forwardnodes"].as_list()]
    run = [data for data in nodes if data.get("module") is not None]
    run[1]["module"] = run[0]["module"]
    modules = [data["module"] for data in (run[0], run[2])] if listed == "once" else []
    read = to_torch(obj.changed(modules=LuaTable.from_list(modules)))
    assert torch.equal(read(x), model(x))
    assert len(list(read.state_dict())) == 2
    assert len(to_lua(read)["modules"].as_list()) == len(modules)


def test_a_length_of_any_size_takes_no_time() -> None:
    nodes = [N(), N((0,), splits=1 << 60), N((1,), select=1), N((2,), "0"), N((3,))]
    assert unused_elements(nodes) == (2, 1 << 60)
    assert unused_elements([N(), N((0,), splits=1 << 60)]) == (1, 1 << 60)
