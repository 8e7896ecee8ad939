"""Classes of nngraph: graphs of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.steps import spend_steps
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.memory import Trace
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.serial_duplicates import serial_duplicates
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.criterion import filled
from dpnn_bridge.modules.nn.graph_nodes import GraphNode as GraphNode
from dpnn_bridge.modules.nn.graph_nodes import graph_fields, unused_elements, written_nodes
from dpnn_bridge.modules.nn.members import Members
from dpnn_bridge.objects import LuaObject, LuaTable


@lua_class("nn.gModule")
class GModule(Members):
    """An acyclic graph of modules.

    The nodes are in execution order; ``repr`` prints them as a program.

    Args:
        *modules: the modules in the order of Torch7's ``modules``; their names are ``"0"``, ``"1"``, …
        nodes: the nodes, in execution order.
        input_node: position of the node whose value is the input.
        output_node: position of the node whose value is the output.
        num_inputs: number of inputs; if it is above 1, the input must be a list of this length.

    Shape:
        - Input: the input of the graph; a list if the graph has several inputs.
        - Output: a tensor, or a list if the graph has several outputs.

    Examples:
        >>> add = ParallelSum()                                            # doctest: +SKIP
        >>> nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((1, 0), "1")]
        >>> GModule(nn.Linear(3, 3), add, nodes=nodes, output_node=2)      # doctest: +SKIP

    Lua:
        ``nn.gModule({input, …}, {output, …})``, nngraph's gmodule.lua

    Raises:
        TypeError: the input is not a list of ``num_inputs`` elements.
    """

    def __init__(
        self,
        *modules: nn.Module,
        nodes: Sequence[GraphNode],
        input_node: int = 0,
        output_node: int = -1,
        num_inputs: int = 1,
    ) -> None:
        super().__init__(*modules)
        self.nodes = self._with_own_names(nodes)
        self.input_node, self.output_node = input_node, output_node % len(nodes)
        self.num_inputs = num_inputs
        self._edge_count = sum(len(node.inputs) for node in self.nodes)
        last_use = {source: i for i, node in enumerate(self.nodes) for source in node.inputs}
        last_use[self.output_node] = len(self.nodes)
        #: for each node, the positions of the values that no later node uses
        self._released = [
            [source for source in set(node.inputs) if last_use[source] == i] for i, node in enumerate(self.nodes)
        ]

    def _with_own_names(self, nodes: Sequence[GraphNode]) -> list[GraphNode]:
        """Register a module that several nodes run under a name for each, as in containers that list it twice."""
        used: set[str] = set()
        named: list[GraphNode] = []
        for node in nodes:
            if node.module in used:
                name = str(len(self._modules))
                self.add_module(name, self._modules[node.module])
                node = replace(node, module=name)
            if node.module is not None:
                used.add(node.module)
            named.append(node)
        return named

    def forward(self, input: Any) -> Any:
        if self.num_inputs > 1:
            _check_list(input, self.num_inputs, "input of a GModule")
        if not torch.compiler.is_compiling():
            spend_steps(4 * len(self.nodes) + self.__dict__.get("_edge_count", 0))
        values: list[Any] = []
        for i, node in enumerate(self.nodes):
            value: Any = [values[source] for source in node.inputs]
            if i == self.input_node:
                value = input
            elif len(node.inputs) == 1:
                value = value[0]
            if node.module is not None:
                value = self._modules[node.module](value)  # type: ignore[misc]
            elif node.select is not None:
                value = value[node.select - 1]
            elif node.splits is not None:
                _check_list(value, node.splits, f"value of node {i} of a GModule")
            values.append(value)
            for source in self._released[i]:
                values[source] = None
        return values[self.output_node]

    def extra_repr(self) -> str:
        lines = []
        for i, node in enumerate(self.nodes):
            sources = ", ".join("input" if source == self.input_node else f"x{source}" for source in node.inputs)
            value = sources if len(node.inputs) == 1 else f"[{sources}]" if i != self.input_node else "input"
            if node.module is not None:
                value = f"({node.module})({value})"
            elif node.select is not None:
                value = f"{value}[{node.select - 1}]"
            if i == self.output_node:
                lines.append(f"return {value}")
            elif i != self.input_node:
                lines.append(f"x{i} = {value}" + (f"  # {shortened(node.label)}" if node.label else ""))
        return "\n".join(lines)

    class Lua(LuaClass):
        constants = {"verbose": False}
        is_graph = True

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            graph = {"fg", "bg", "innode", "outnode", "forwardnodes", "backwardnodes", "nInputs", "modules"}
            return super().handled(module) | graph

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade files from before October 2015, without ``modules``: list the modules of the nodes in order."""
            if obj.get("modules") is not None:
                return obj
            data = [node["data"] for node in obj["forwardnodes"].as_list()]
            return obj.changed(modules=LuaTable.from_list(d["module"] for d in data if d.get("module") is not None))

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            lua_nodes = obj["forwardnodes"].as_list()
            modules = ctx.children(obj)
            names: dict[int, list[str]] = {}
            for i, module in enumerate(modules):
                names.setdefault(id(module), []).append(str(i))
            extra: dict[str, nn.Module] = {}

            def name_of(module: nn.Module, position: int) -> str:
                """Return the name of a node's module. If ``modules`` repeats a module, each node gets the next name."""
                known = names.get(id(module))
                if known is None:
                    extra[f"node{position}"] = module
                    known = names[id(module)] = [f"node{position}"]
                return known.pop(0) if len(known) > 1 else known[0]

            sources, duplicates = cls._sources(lua_nodes, ctx.error), serial_duplicates(obj, ctx)
            nodes = []
            for i, node in enumerate(lua_nodes):
                data = node["data"]
                module = data.get("module")
                if module is not None:
                    module = duplicates.get(id(module), module)
                    module = name_of(ctx.to_torch(module, "forwardnodes", i + 1, "data", "module"), i)
                attributes = {
                    k: ctx.keep(v, k) for k, v in data.items() if isinstance(k, str) and k not in _NODE_FIELDS
                }
                attributes |= {"input": LuaTable()} if "input" in data else {}
                nodes.append(
                    GraphNode(sources[i], module, data.get("selectindex"), data.get("nSplitOutputs"), attributes)
                )
            positions = {id(node["data"]): i for i, node in enumerate(lua_nodes)}
            graph = GModule(
                *modules,
                nodes=[replace(node, module=None) for node in nodes],
                input_node=positions[id(obj["innode"]["data"])],
                output_node=positions[id(obj["outnode"]["data"])],
                num_inputs=obj.get("nInputs") or len(obj["innode"]["children"].as_list()),
            )
            graph.nodes = nodes  # as in the file, also if one module runs in several nodes
            for name, module in extra.items():
                graph.add_module(name, module)
            return graph

        @staticmethod
        def _sources(lua_nodes: list[LuaObject], error: Callable[[str], Exception]) -> list[tuple[int, ...]]:
            """Return, for each node, the positions of its inputs in the order of ``mapindex``."""
            positions = {id(node["data"]): i for i, node in enumerate(lua_nodes)}
            inputs: list[dict[int, int]] = [{} for _ in lua_nodes]
            for i, node in enumerate(lua_nodes):
                for child in node["children"].as_list():
                    consumer = positions.get(id(child["data"]))
                    if consumer is None or consumer <= i:
                        raise error("forwardnodes is not in execution order: a node precedes one of its inputs")
                    index = child["data"]["mapindex"].get(node["data"])
                    if index is None or index in inputs[consumer]:
                        raise error(
                            f"mapindex of node {consumer + 1} has no position, or an occupied one, for the value of "
                            f"node {i + 1}"
                        )
                    inputs[consumer][index] = i
            for i, feeds in enumerate(inputs):
                if sorted(feeds) != list(range(1, len(feeds) + 1)):
                    raise error(
                        f"expected the positions 1 to {len(feeds)} in mapindex of node {i + 1}, found {sorted(feeds)}"
                    )
            return [tuple(feeds[k] for k in sorted(feeds)) for feeds in inputs]

        @classmethod
        def children(cls, module: nn.Module) -> list[nn.Module]:
            return [m for name, m in module._modules.items() if name.isdigit() and m is not None]

        @classmethod
        def to_lua(cls, module: GModule, ctx: LuaContext) -> dict[str, Any]:
            is_new = record_of(module) is None
            nodes, input_node, output_node = written_nodes(
                module.nodes, module.input_node, module.output_node, is_new=is_new, num_inputs=module.num_inputs
            )
            if ctx.compose and (unused := unused_elements(nodes)):
                raise ConversionError(
                    f"nngraph needs every element of a list that a node splits, and element {unused[0]} of {unused[1]} "
                    "has no effect on the output; use it, or remove it from the input",
                    class_name="nn.gModule",
                )
            data = []
            for node in nodes:
                entry = LuaTable({"annotations": LuaTable(), "mapindex": LuaTable(), "reverseMap": LuaTable()})
                entry.update({key: ctx.restore(value) for key, value in node.attributes.items()})
                if node.module is not None:
                    entry["module"] = ctx.to_lua(module.get_submodule(node.module))
                if node.select is not None:
                    entry["selectindex"] = node.select
                if node.splits is not None:
                    entry["nSplitOutputs"] = node.splits
                data.append(entry)
            return {
                **graph_fields(data, nodes, input_node, output_node),
                "nInputs": module.num_inputs,
                "modules": LuaTable.from_list(map(ctx.to_lua, cls.children(module))),
            }

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            nodes = obj["forwardnodes"].as_list()
            sources, start, values = cls._sources(nodes, ValueError), obj["innode"]["data"], dict[int, Any]()
            for i, node in enumerate(nodes):
                trace.spend(1 + len(sources[i]))
                data, given = node["data"], [values[source] for source in sources[i]]
                value = input if data is start else given[0] if len(given) == 1 else given
                if data.get("module") is not None:
                    value = trace.run(data["module"], value, "forwardnodes", i + 1)
                elif data.get("selectindex") is not None:
                    value = trace.element(value, data["selectindex"])
                values[i] = value
            return next(values[i] for i, node in enumerate(nodes) if node["data"] is obj["outnode"]["data"])


def _check_list(value: Any, length: int, name: str) -> None:
    """Raise a TypeError unless a value is a list of the given length; accept proxies of tracers."""
    if isinstance(value, (list, tuple)) and len(value) == length:
        return
    if isinstance(value, (list, tuple, Tensor, dict)):
        found = f"length {len(value)}" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"
        raise TypeError(f"expected a list of length {length} as the {name}, found {found}")


#: fields of ``node.data`` that other attributes of a GraphNode represent, or that contain values of one run
_NODE_FIELDS = {"module", "mapindex", "reverseMap", "selectindex", "nSplitOutputs", "forwardNodeId"}
_NODE_FIELDS |= {"input", "gradOutput", "gradOutputBuffer"}


@lua_class("nngraph.JustElement")
class JustElement(nn.Module):
    """Returns the element of a list of one element.

    Lua:
        ``nngraph.JustElement()``, JustElement.lua; ``node:split(1)``

    Raises:
        TypeError: the input is not a list of one element.
    """

    def forward(self, input: list[Any]) -> Any:
        _check_list(input, 1, "input of JustElement")
        return input[0]

    class Lua(LuaClass):
        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            return trace.element(input, 1)


@lua_class("nngraph.JustTable")
class JustTable(nn.Module):
    """Returns a list with its input as the only element.

    Lua:
        ``nngraph.JustTable()``, JustTable.lua; ``nngraph.nest({node})``
    """

    def forward(self, input: Any) -> list[Any]:
        return [input]

    class Lua(LuaClass):
        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            return [input]


@lua_class("nn.ModuleFromCriterion")
class ModuleFromCriterion(nn.Module):
    """Wraps a criterion as a module.

    Args:
        criterion: criterion that is called with the prediction and the target.

    Shape:
        - Input: the list ``[prediction, target]``; the target gets no gradient.
        - Output: the loss, of shape :math:`(1)`.

    Lua:
        ``nn.ModuleFromCriterion(criterion)``, nngraph's ModuleFromCriterion.lua
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, input: list[Any]) -> Tensor:
        prediction, target = input
        return self.criterion(prediction, target.detach() if isinstance(target, Tensor) else target).reshape(1)

    class Lua(LuaClass):
        computed_fields = ("criterion",)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            return ModuleFromCriterion(ctx.to_torch(obj["criterion"], "criterion"))

        @classmethod
        def children(cls, module: nn.Module) -> list[nn.Module]:
            return []

        @classmethod
        def to_lua(cls, module: Any, ctx: LuaContext) -> dict[str, Any]:
            results = {"output": filled(0)(ctx.type_of(module)), "gradInput": ctx.empty_tensors(module, 2)}
            return {"criterion": ctx.to_lua(module.criterion), **results}
