"""The graph of a model: what is in it, what hands its value to what, and what Graphviz and Mermaid make of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES, RESIDUAL, manifest
from torch import nn

import dpnn_bridge
from dpnn_bridge import modules, to_torch
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.modules.nn import ConcatTable, GModule, GraphNode
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.pictures import kinds, model_graph, page, to_dot, to_mermaid

LENET = FIXTURES / "samples" / "torch-demos__mnist_convnet" / "model.t7"


def test_layers_have_both_names_shapes_parameters_and_fields() -> None:
    graph = model_graph(dpnn_bridge.load(LENET), torch.randn(2, 1, 32, 32), histograms=True)
    first = graph.children[0]
    assert (first.path, first.torch_class, first.lua_class) == (
        "modules[1]",
        "torch.nn.Conv2d",
        "nn.SpatialConvolutionMM",
    )
    assert (first.input, first.output, first.parameters) == ("2×1×32×32", "2×32×28×28", 832)
    assert first.fields["kW"] == 5
    weight = first.tensors[0]
    assert (weight.name, weight.shape, sum(weight.histogram)) == ("weight", (32, 1, 5, 5), 800)
    assert (weight.low or 0) < 0
    assert graph.parameters == 169_506


def test_chains_forks_and_graphs_have_the_arrows_of_their_forward() -> None:
    fork = ConcatTable(nn.Linear(3, 3), nn.Linear(3, 3))
    assert model_graph(nn.Sequential(nn.Tanh(), fork)).edges == [("in", 0), (0, 1), (1, "out")]
    assert model_graph(fork).edges == [("in", 0), (0, "out"), ("in", 1), (1, "out")]
    nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((1,), select=1), GraphNode((2, 0), "1")]
    graph = model_graph(GModule(nn.Linear(3, 3), nn.Tanh(), nodes=nodes, output_node=3))
    assert graph.edges == [("in", 0), (0, 1), ("in", 1), (1, "out")]


def test_a_module_that_occurs_twice_is_drawn_twice_and_unfolded_once() -> None:
    shared = nn.Sequential(nn.Linear(3, 3))
    first, second = model_graph(nn.Sequential(shared, shared)).children
    assert (len(first.children), len(second.children)) == (1, 0)


def test_text_folds_containers_and_joins_arrows_at_their_ends() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), ConcatTable(nn.ReLU(), nn.Sigmoid())))
    graph = model_graph(model)
    assert re.findall(r"(n\w+) -> (n\w+);", to_dot(graph, 1)) == [("n1", "n2")]
    unfolded = re.findall(r"(n\w+) -> (n\w+);", to_dot(graph))
    assert set(unfolded) == {
        ("n1", "n3"),
        ("n3", "n4in"),
        ("n4in", "n5"),
        ("n4in", "n6"),
        ("n5", "n4out"),
        ("n6", "n4out"),
    }
    assert re.findall(r"(n\w+) --> (n\w+)", to_mermaid(graph)) == unfolded


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("entry", manifest(**{"class": ("nn.gModule", "nn.Sequential")})[:40], ids=lambda e: e["name"])
def test_graphviz_accepts_every_graph(entry: dict[str, str]) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    text = to_dot(model_graph(dpnn_bridge.to_torch(fixture["module"])))
    subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True)


def test_every_kind_of_module_has_a_graph() -> None:
    """Every arrow of one fixture of each class leads to a child or a side, so that no picture can fail."""
    entries = {e["class"]: e for e in manifest(kind=("module", "criterion"))}
    for entry in entries.values():
        fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
        graph = model_graph(dpnn_bridge.to_torch(fixture["module"]), histograms=True)
        ends = {end for node in graph.walk() for edge in node.edges for end in edge if isinstance(end, str)}
        assert ends <= {"in", "out"}
        assert all(
            end < len(node.children) for node in graph.walk() for e in node.edges for end in e if isinstance(end, int)
        )
        to_dot(graph), to_mermaid(graph), page(graph, entry["name"])


def test_kinds_name_modules_that_exist() -> None:
    homes = [Path(nn.modules.__path__[0]), *Path(modules.__path__[0]).iterdir()]
    missing = [name for name in kinds._FILES if not any((home / f"{name}.py").is_file() for home in homes)]
    assert missing == []


def test_every_kind_has_its_color_on_the_page() -> None:
    text = page(model_graph(nn.Tanh()), "m")
    assert all(f".k-{kind} {{ --kind: {color} }}" in text for kind, color in kinds.KINDS.items())


def test_names_from_a_file_cannot_leave_their_place() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    obj = dpnn_bridge.to_lua(model)
    obj["modules"][1]["name"] = '</script><script>alert(1)</script>"];\x1b[31m\u2028'
    graph = model_graph(dpnn_bridge.to_torch(obj))
    html = page(graph, "<b>title</b>")
    assert "<script>alert" not in html
    assert "<h1>&lt;b&gt;title&lt;/b&gt;</h1>" in html
    assert "<b>title" not in html
    assert "\x1b[31m" not in html
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert data is not None
    assert not set("<>&\u2028") & set(data[1])  # "</script " ends a script too
    assert "default-src 'none'" in html
    assert json.loads(data[1])["root"]["children"][0]["name"].startswith("</script>")
    for text in (to_dot(graph), to_mermaid(graph)):
        assert "\x1b" not in text
    assert '\\"];' in to_dot(graph)


def test_names_from_a_file_are_text_for_graphviz_and_mermaid() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    obj = dpnn_bridge.to_lua(model)
    obj["modules"][1]["name"] = "%%{init: {'theme': 'x'}}%% #quot; `**b**` a\\nb &lt;" + "x" * 100_000
    graph = model_graph(dpnn_bridge.to_torch(obj))
    label = next(line for line in to_mermaid(graph).splitlines() if "init" in line)
    assert not set("%`*\\&") & set(label)
    assert re.sub(r"#\d+;|<br>", "", label).count("#") == 0
    assert "&amp;lt;" in to_dot(graph)
    assert "a\\\\nb" in to_dot(graph)
    assert len(to_dot(graph)) < 3000


def test_page_says_which_file_it_shows() -> None:
    html = page(model_graph(dpnn_bridge.load(RESIDUAL, key="module")), "residual", source=RESIDUAL)
    assert "SHA-256" in html
    assert f"{RESIDUAL.stat().st_size:,} bytes" in html
    assert "http" not in re.sub(r"<script>.*?</script>", "", html.replace("http-equiv", ""), flags=re.S)


def test_commands_draw(tmp_path: Path) -> None:
    def run(*args: object, model: Path = LENET) -> str:
        result = CliRunner().invoke(inspect_command, [str(model), *map(str, args)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert run("--mermaid", "--unfold", 0).splitlines() == [
        "flowchart TB",
        '  n0[["Sequential<br>169,506 parameters"]]',
    ]
    assert run("--dot").startswith("digraph model {")
    assert f"{LENET} -> {tmp_path / 'm.html'}: 12 layers, " in run(
        "--html", tmp_path / "m.html", "--input", "1x1x32x32"
    )
    assert "1×32×28×28" in (tmp_path / "m.html").read_text()
    assert "1x32x28x28" in run("--input", "1x1x32x32")
    words = run("--dot", "--input", "1x3", model=LENET.parents[1] / "torch-rnn__lstm" / "model.t7")
    assert "1×3" in words, "an input of a lookup table is indices"


def test_drawing_changes_no_statistics() -> None:
    model = nn.BatchNorm1d(3)
    node = model_graph(model, torch.randn(4, 3))
    assert node.output == "4×3"
    assert model.num_batches_tracked == 0


def test_numbers_of_a_large_tensor_are_those_of_all_elements() -> None:
    layer = nn.Linear(1000, 1000)
    with torch.no_grad():
        layer.weight[3, 7], layer.weight[0, 0] = 99, float("nan")
    weight, _ = model_graph(layer, histograms=True).tensors
    assert (weight.high, sum(weight.histogram) > 1 << 18) == (99, True)
    assert weight.mean == pytest.approx(float(layer.weight.detach().double().nanmean()))


def graph_of(steps: list[GraphNode]) -> GModule:
    """A graph whose steps with a module run Tanh."""
    return GModule(*(nn.Tanh() for step in steps if step.module is not None), nodes=steps)


def test_a_graph_with_far_more_arrows_than_steps_is_refused() -> None:
    """A step without a module joins 300 values and hands them to 300 modules."""

    def joined(count: int) -> GModule:
        first = [GraphNode((0,), str(i)) for i in range(count)]
        join = GraphNode(tuple(range(1, count + 1)))
        second = [GraphNode((count + 1,), str(count + i)) for i in range(count)]
        return graph_of([GraphNode(), *first, join, *second, GraphNode(tuple(range(count + 2, 2 * count + 2)))])

    assert len(model_graph(joined(20)).edges) == 20 + 20 * 20 + 20
    with pytest.raises(ConversionLimitError, match="cannot be drawn"):
        model_graph(joined(300))


class Counted(list[Any]):
    """A list that counts how often it is gone through."""

    times = 0

    def __iter__(self) -> Any:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("write", [to_dot, to_mermaid])
def test_a_container_that_many_layers_follow_is_looked_at_a_few_times(write: Any) -> None:
    steps = [GraphNode(), GraphNode((0,), "0"), *(GraphNode((1,), str(i)) for i in range(1, 31))]
    graph = model_graph(GModule(nn.Sequential(nn.Tanh(), nn.Tanh()), *(nn.Tanh() for _ in range(30)), nodes=steps))
    edges = graph.children[0].edges = Counted(graph.children[0].edges)
    write(graph)
    assert edges.times < 10


def test_a_long_name_that_nodes_share_is_shortened_for_each() -> None:
    shared = {"annotations": LuaTable({"name": "n" * 100_000})}
    model = graph_of([GraphNode(), *(GraphNode((i,), str(i), attributes=shared) for i in range(20))])
    graph = model_graph(model)
    assert len(page(graph, "m")) < 600_000
    assert len(repr(model)) < 20_000
    assert {node.name[:3] for node in graph.children} == {"nnn"}


def test_a_long_name_of_a_layer_that_is_used_often_is_shortened_for_each_use() -> None:
    layer = LuaObject("nn.Tanh", LuaTable({"name": "n" * 100_000, "train": True}))
    model = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([layer] * 50), "train": True}))
    assert len(page(model_graph(to_torch(model)), "m")) < 500_000
