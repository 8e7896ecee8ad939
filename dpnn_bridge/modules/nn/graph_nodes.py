"""The nodes of a graph of nngraph, and the objects with which Torch7 stores them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dpnn_bridge.base.graph import node_name
from dpnn_bridge.objects import LuaObject, LuaTable


@dataclass(frozen=True, eq=False)
class GraphNode:
    """A node of a :class:`~dpnn_bridge.modules.nn.GModule`.

    Args:
        inputs: positions of the nodes whose values are the input; several values are passed as a list.
        module: name of the submodule that runs on the input; None: the value of the node is the input.
        select: 1-based position of an element of the input, which is the value of the node.
        splits: number of elements that the input, a list, must have; :attr:`select` nodes select from it.
        attributes: other Lua fields of the node, such as ``annotations``, stored for the export.
    """

    inputs: tuple[int, ...] = ()
    module: str | None = None
    select: int | None = None
    splits: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether the value of the node is its input."""
        return self.module is None and self.select is None and self.splits is None

    @property
    def label(self) -> str:
        """The name in the node's annotations, or an empty string."""
        return node_name(self.attributes)


def written_nodes(
    nodes: Sequence[GraphNode], input_node: int, output_node: int, *, is_new: bool, num_inputs: int
) -> tuple[list[GraphNode], int, int]:
    """Return nodes that nngraph can run, and the positions of the input and output node.

    nngraph does not run a module of the input or output node, accepts one use of the input node, and a node with
    different inputs only. Where a graph that was created in Python differs, nodes that return their input are added.
    nngraph selects elements from a node with no other use, as ``node:split(n)`` creates it, and each of them once.

    Args:
        nodes: the nodes, in execution order.
        input_node: position of the node whose value is the input.
        output_node: position of the node whose value is the output.
        is_new: whether the graph was created in Python; nodes on which its output does not depend are omitted.
        num_inputs: number of inputs of the graph.
    """
    if is_new:  # a node that runs a module does not select
        nodes = [node if node.module is None else replace(node, select=None, splits=None) for node in nodes]
    kept = _needed(nodes, input_node, output_node) if is_new else [*range(len(nodes))]
    uses = Counter(source for i in kept for source in nodes[i].inputs)
    lists = _Lists(nodes, kept, input_node, num_inputs) if is_new else None
    made: list[GraphNode] = []
    position: dict[int, int] = {}  # of the node with the value of each given node

    def add(node: GraphNode) -> int:
        made.append(node)
        return len(made) - 1

    for i in kept:
        node, inputs = nodes[i], [position[source] for source in nodes[i].inputs]
        if lists is not None and node.select is not None and i != input_node:
            position[i] = lists.selected(i, position, add)
            continue
        seen: set[int] = set()
        for k, source in enumerate(inputs):
            if source in seen:
                inputs[k] = add(GraphNode((source,)))
            seen.add(source)
        node = replace(node, inputs=tuple(inputs), splits=None if is_new else node.splits)
        if i == input_node and not node.is_plain:
            start = add(GraphNode())
            position[i] = add(replace(node, inputs=(start,)))
        elif i == input_node:
            start = position[i] = add(node)
            if uses[i] > 1 or (lists is not None and i in lists.used):
                position[i] = add(GraphNode((start,)))
        else:
            position[i] = add(node)
    end = position[output_node]
    if not made[end].is_plain or output_node == input_node:
        end = add(GraphNode((end,)))
    if is_new:
        left = _needed(made, start, end)  # without nodes of which only elements were used
        new = {i: k for k, i in enumerate(left)}
        made = [replace(made[i], inputs=tuple(new[k] for k in made[i].inputs)) for i in left]
        start, end = new[start], new[end]
    return made, start, end


def _needed(nodes: Sequence[GraphNode], input_node: int, output_node: int) -> list[int]:
    """Return the positions of the nodes on which the output depends, and that of the input node."""
    needed, stack = {input_node}, [output_node]
    while stack:
        if (i := stack.pop()) not in needed:
            needed.add(i)
            stack.extend(nodes[i].inputs)
    return sorted(needed)


class _Lists:
    """The lists of a graph from which nodes select elements; nodes that pass a list on are resolved."""

    def __init__(self, nodes: Sequence[GraphNode], kept: Sequence[int], input_node: int, num_inputs: int) -> None:
        self._nodes = nodes
        self._source: dict[int, int] = {}  # the node that has the value of each node first
        self._length: dict[int, int] = {}  # of the value that a node has first, where it is known
        self.used: set[int] = set()  # nodes that first have a value of which elements are selected
        self._split: dict[int, int] = {}  # position of the added node from which elements of a value are selected
        self._selected: dict[tuple[int, int], int] = {}
        for i in kept:
            node = nodes[i]
            passes = node.module is None and node.select is None and len(node.inputs) == 1 and i != input_node
            source = self._source[i] = self._source[node.inputs[0]] if passes else i
            if node.select is not None and i != input_node:
                self.used.add(self._source[node.inputs[0]])
            elif node.splits is not None:
                self._length[source] = node.splits
            elif i == input_node and num_inputs > 1:
                self._length[source] = num_inputs
            elif node.module is None and len(node.inputs) > 1:
                self._length[source] = len(node.inputs)

    def selected(self, i: int, position: dict[int, int], add: Callable[[GraphNode], int]) -> int:
        """Return the position of the node that selects the element which node ``i`` selects; add it the first time."""
        node = self._nodes[i]
        source = self._source[node.inputs[0]]
        if source not in self._split:
            self._split[source] = add(GraphNode((position[source],), splits=self._length.get(source)))
        key = source, node.select or 0
        if key not in self._selected:
            self._selected[key] = add(replace(node, inputs=(self._split[source],)))
        return self._selected[key]


def unused_elements(nodes: Sequence[GraphNode]) -> tuple[int, int] | None:
    """Return the 1-based position of an element that no node selects, and the number of elements; None if none."""
    selected: dict[int, set[int]] = defaultdict(set)
    for node in nodes:
        if node.select is not None:
            selected[node.inputs[0]].add(node.select)
    for i, node in enumerate(nodes):
        length = node.splits or max(selected[i], default=0)
        missing = next((k for k in range(1, length + 1) if k not in selected[i]), None)
        if missing is not None:
            return missing, length
    return None


def graph_fields(
    data: Sequence[LuaTable], nodes: Sequence[GraphNode], input_node: int, output_node: int
) -> dict[str, Any]:
    """Return the fields of an ``nn.gModule`` with its graphs.

    Args:
        data: the table ``data`` of each node; its edges are added.
        nodes: the nodes.
        input_node: position of the node whose value is the input.
        output_node: position of the node whose value is the output.
    """
    edges = _edges(nodes, output_node)
    backward, backward_nodes = _graph(data, edges)
    forward, forward_nodes = _graph(data, [(source, consumer) for consumer, source in edges])
    for i, node in enumerate(nodes):
        data[i]["forwardNodeId"] = forward_nodes[i]["id"]
        for index, source in enumerate(node.inputs, 1):
            data[i]["mapindex"][index] = data[source]
            data[i]["mapindex"][data[source]] = index
            data[source]["reverseMap"][backward_nodes[i]] = True
    return {
        "fg": forward,
        "bg": backward,
        "forwardnodes": LuaTable.from_list(forward_nodes),
        "backwardnodes": LuaTable.from_list(backward_nodes[i] for i in backward_order(nodes, output_node)),
        "innode": forward_nodes[input_node],
        "outnode": backward_nodes[output_node],
    }


def backward_order(nodes: Sequence[GraphNode], output_node: int) -> list[int]:
    """Return the positions of nodes in the order in which the backward pass of ``nn.gModule`` visits them."""
    return _topological(len(nodes), _edges(nodes, output_node))


def _edges(nodes: Sequence[GraphNode], output_node: int) -> list[tuple[int, int]]:
    """Return ``(consumer, source)`` for every input of a node, in the order of nngraph's breadth-first traversal."""
    edges, queue, seen = [], [output_node], {output_node}
    for node in queue:
        for source in nodes[node].inputs:
            edges.append((node, source))
            if source not in seen:
                seen.add(source)
                queue.append(source)
    return edges


def _topological(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Sort the nodes topologically along the edges ``(start, end)``, in the order of ``graph.Graph.topsort``."""
    predecessors: list[list[int]] = [[] for _ in range(count)]
    successors = [0] * count
    for start, end in edges:
        predecessors[end].append(start)
        successors[start] += 1
    order: list[int] = []
    seen: set[int] = set()
    stack = [(node, False) for node in reversed(range(count)) if not successors[node]]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((p, False) for p in reversed(predecessors[node]))
    return order


def _graph(data: Sequence[LuaTable], edges: list[tuple[int, int]]) -> tuple[LuaObject, list[LuaObject]]:
    """Create a ``graph.Graph`` with one ``nngraph.Node`` per entry of ``data``; return it and the nodes."""
    nodes = [
        LuaObject(
            "nngraph.Node",
            LuaTable({"data": d, "id": 0, "children": LuaTable(), "visited": False, "marked": False}),
        )
        for d in data
    ]
    graph = LuaObject("graph.Graph", LuaTable({"nodes": LuaTable(), "edges": LuaTable()}))
    for i, (start, end) in enumerate(edges, 1):
        edge = LuaObject("graph.Edge", LuaTable({"from": nodes[start], "to": nodes[end]}))
        graph["edges"][i] = edge
        graph["edges"][edge] = i
        for node in (nodes[start], nodes[end]):
            _append(graph["nodes"], node)
            node["id"] = graph["nodes"][node]
        _append(nodes[start]["children"], nodes[end])
    return graph, nodes


def _append(table: LuaTable, value: LuaObject) -> None:
    """Append ``value`` to a table that also maps values to positions, unless the table contains it."""
    if value not in table:
        position = len(table) // 2 + 1
        table[position] = value
        table[value] = position
