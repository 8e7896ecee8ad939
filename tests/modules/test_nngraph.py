"""Graphs of modules: one program in PyTorch, one graph that nngraph can run in Lua."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from lua_equal import differences
from torch import nn

import dpnn_bridge
from dpnn_bridge.conversion import convert_object, to_lua, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.members import Members
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode, JustElement, JustTable, ModuleFromCriterion
from dpnn_bridge.objects import LuaObject, LuaTable

GRAPHS = manifest(kind="module", **{"class": "nn.gModule"})


class Sum(nn.Module):
    def forward(self, input: list[torch.Tensor]) -> torch.Tensor:
        return input[0] + 2 * input[1]


def residual() -> GModule:
    """input -> Linear -> [Linear, input] -> Sum"""
    nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((1, 0), "1"), GraphNode((2,))]
    return GModule(nn.Linear(3, 3), Sum(), nodes=nodes)


def converted(entry: dict[str, Any]) -> tuple[LuaTable, GModule]:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    module = to_torch(fixture["module"])
    assert isinstance(module, GModule)
    return fixture, module


def structure(graph: LuaObject) -> list[Any]:
    """Everything that nngraph's run time reads, with positions instead of objects."""
    forward, backward = graph["forwardnodes"].as_list(), graph["backwardnodes"].as_list()
    assert len({id(node["data"]) for node in forward}) == len(forward)
    position = {id(node["data"]): i for i, node in enumerate(forward)}
    modules = [id(m) for m in graph["modules"].as_list()]

    def nodes(found: list[LuaObject]) -> list[Any]:
        result = []
        for node in found:
            children = node["children"].as_list()
            assert all(node["children"][child] == i for i, child in enumerate(children, 1))
            result.append((position[id(node["data"])], node["id"], [position[id(c["data"])] for c in children]))
        return result

    def whole(g: LuaObject) -> Any:
        for table in (g["nodes"], g["edges"]):
            assert all(table[value] == i for i, value in enumerate(table.as_list(), 1))
        edges = [(position[id(e["from"]["data"])], position[id(e["to"]["data"])]) for e in g["edges"].as_list()]
        return nodes(g["nodes"].as_list()), edges

    data = []
    for node in forward:
        d = node["data"]
        sources = d["mapindex"].as_list()
        assert all(d["mapindex"][source] == i for i, source in enumerate(sources, 1))
        module = d.get("module")
        data.append(
            (
                [position[id(source)] for source in sources],
                module is not None and modules.index(id(module)),
                d.get("selectindex"),
                d.get("nSplitOutputs"),
                d["forwardNodeId"],
                sorted(position[id(consumer["data"])] for consumer in d["reverseMap"]),
                sorted(d["annotations"].keys()),
            )
        )
    ends = position[id(graph["innode"]["data"])], position[id(graph["outnode"]["data"])]
    return [data, nodes(forward), nodes(backward), whole(graph["fg"]), whole(graph["bg"]), ends, graph.get("nInputs")]


@pytest.mark.parametrize("entry", GRAPHS, ids=fixture_id)
def test_written_back_graph_has_the_same_structure(entry: dict[str, Any]) -> None:
    fixture, module = converted(entry)
    assert structure(to_lua(module)) == structure(fixture["module"])


@pytest.mark.parametrize("entry", GRAPHS, ids=fixture_id)
def test_traces_to_the_same_program(entry: dict[str, Any]) -> None:
    fixture, module = converted(entry)
    module.eval()

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return not isinstance(m, GModule)

    traced = torch.fx.GraphModule(module, Tracer().trace(module))
    x = to_value(fixture["input"])
    torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0)


@pytest.mark.parametrize("entry", GRAPHS, ids=fixture_id)
def test_file_without_modules_has_the_same_parameters(entry: dict[str, Any]) -> None:
    fixture, module = converted(entry)
    obj = fixture["module"]
    old = LuaObject(obj.class_name, LuaTable(obj.items()))
    del old["modules"], old["nInputs"]
    rebuilt = to_torch(old)
    assert list(rebuilt.state_dict()) == list(module.state_dict())
    x = to_value(fixture["input"])
    torch.testing.assert_close(rebuilt.eval()(x), module.eval()(x), rtol=0, atol=0)


def test_compiles_without_graph_breaks() -> None:
    graph = residual()
    x = torch.randn(2, 3)
    compiled = torch.compile(graph, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), graph(x))


def test_repr_reads_as_a_program() -> None:
    nodes = [
        GraphNode(splits=2),
        GraphNode((0,), select=2, attributes={"annotations": LuaTable({"name": "h"})}),
        GraphNode((0,), select=1),
        GraphNode((2, 1), "0"),
        GraphNode((3,)),
    ]
    text = repr(GModule(Sum(), nodes=nodes, num_inputs=2))
    assert "x1 = input[1]  # h\n" in text
    assert "x3 = (0)([x2, x1])\n" in text
    assert "return x3\n" in text


@pytest.mark.parametrize("wrong", [torch.zeros(2), [torch.zeros(2)], [torch.zeros(2)] * 3])
def test_wrong_number_of_inputs_is_an_error(wrong: Any) -> None:
    graph = GModule(Sum(), nodes=[GraphNode(), GraphNode((0,), "0")], num_inputs=2)
    with pytest.raises(TypeError, match="expected a list of length 2"):
        graph(wrong)


def test_values_are_released_after_their_last_use() -> None:
    graph = residual()
    assert graph._released == [[], [], [0, 1], [2]] or graph._released == [[], [], [1, 0], [2]]


def test_deepcopy_computes_the_same() -> None:
    graph = residual()
    x = torch.randn(2, 3)
    torch.testing.assert_close(copy.deepcopy(graph)(x), graph(x), rtol=0, atol=0)


def test_long_chain_needs_no_deep_recursion() -> None:
    count = 3000
    nodes = [GraphNode(), *[GraphNode((i,), "0") for i in range(count)], GraphNode((count,))]
    graph = GModule(nn.Tanh(), nodes=nodes)
    again = to_torch(to_lua(graph))
    assert isinstance(again, GModule)
    assert [node.inputs for node in again.nodes] == [node.inputs for node in nodes]
    assert float(again(torch.ones(1))) == float(graph(torch.ones(1)))


def test_module_of_two_nodes_is_one_module_if_it_is_one_in_the_file() -> None:
    tanh = nn.Tanh()
    graph = GModule(tanh, tanh, nodes=[GraphNode(), GraphNode((0,), "0"), GraphNode((1,), "1"), GraphNode((2,))])
    obj = to_lua(graph)
    assert obj["modules"][1] is not obj["modules"][2]
    assert obj["modules"][2] is obj["forwardnodes"][3]["data"]["module"]
    obj["modules"][2] = obj["forwardnodes"][3]["data"]["module"] = obj["modules"][1]
    again = to_torch(obj)
    assert again._modules["0"] is again._modules["1"]
    assert structure(to_lua(again)) == structure(obj)


def test_module_replaced_in_a_node_only_still_runs() -> None:
    obj = to_lua(GModule(nn.Tanh(), nodes=[GraphNode(), GraphNode((0,), "0"), GraphNode((1,))]))
    obj["forwardnodes"][2]["data"]["module"] = to_lua(nn.ReLU())
    assert float(to_torch(obj)(torch.tensor([-2.0]))) == 0.0


def test_graph_out_of_order_is_an_error() -> None:
    obj = to_lua(residual_of_known_modules())
    nodes = obj["forwardnodes"].as_list()
    obj["forwardnodes"] = LuaTable.from_list([nodes[0], nodes[2], nodes[1], *nodes[3:]])
    with pytest.raises(ConversionError, match="not in execution order"):
        to_torch(obj)


def residual_of_known_modules() -> GModule:
    nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((1,), "1"), GraphNode((2,))]
    return GModule(nn.Tanh(), nn.ReLU(), nodes=nodes)


def test_a_container_without_members_is_no_missing_module() -> None:
    assert len(Members()) == 0
    assert bool(Members())


def test_just_element_and_just_table_are_inverse() -> None:
    x = torch.ones(2)
    assert JustElement()(JustTable()(x)) is x


@pytest.mark.parametrize("value", [[torch.ones(2)] * 2, torch.ones(1, 2)], ids=["two elements", "tensor"])
def test_just_element_refuses_other_values_than_a_list_of_one(value: Any) -> None:
    with pytest.raises(TypeError, match=r"list of length 1 as the input of JustElement, found (length 2|a Tensor)"):
        JustElement()(value)


def test_module_from_criterion_gives_no_gradient_to_the_target() -> None:
    prediction, target = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    loss = ModuleFromCriterion(nn.MSELoss())([prediction, target])
    assert loss.shape == (1,)
    loss.backward()
    assert prediction.grad is not None
    assert target.grad is None


@pytest.mark.parametrize("entry", GRAPHS[:1], ids=fixture_id)
def test_second_way_back_gives_the_same_object(entry: dict[str, Any]) -> None:
    _, module = converted(entry)
    first = to_lua(module)
    assert structure(to_lua(to_torch(first))) == structure(first)
    assert differences(first["modules"], to_lua(to_torch(first))["modules"]) == []


@pytest.mark.parametrize("mode", ["heavy", "medium", "light"])
def test_modules_that_serial_wrote_twice_are_one(mode: str) -> None:
    """Torch7 ran this net in evaluation before it was written; what it reads back keeps its nodes in training."""
    path = FIXTURES / "dpnn" / "head" / "hidden" / f"serial_graph_{mode}.t7"
    fixture = dpnn_bridge.read_t7(path)
    module, report = convert_object(fixture["module"], Options())
    (graph,) = (m for m in module.modules() if isinstance(m, GModule))
    assert all(name.isdigit() for name, _ in graph.named_children())
    assert len(module.state_dict()) == len(list(module.parameters())) + 3  # the batch normalization's statistics
    torch.testing.assert_close(module.eval()(to_value(fixture["input"])), to_value(fixture["output"]))
    (note,) = report.notes
    assert "wrote each of the 7 modules of this graph twice" in note
    assert "training mode" in note
    written = to_lua(module)["modules"][1]["modules"][1]
    runs = [n["data"].get("module") for n in written["forwardnodes"].as_list()]
    assert all(any(m is own for own in written["modules"].as_list()) for m in runs if m is not None)


def test_a_value_that_a_later_step_takes_can_be_the_output() -> None:
    nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((1,), "1")]
    graph = GModule(nn.Tanh(), nn.ReLU(), nodes=nodes, output_node=1)
    x = torch.randn(3)
    torch.testing.assert_close(graph(x), x.tanh())
