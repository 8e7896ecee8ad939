"""Convert nngraph graphs to the source code of classes with an explicit ``forward``."""

from __future__ import annotations

import ast
import keyword
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, count
from typing import Any, Protocol

from torch import nn

from dpnn_bridge.base.python_parser import getsource, parse
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.outputs.py.calls import (
    COMMENT,
    Call,
    Value,
    code_of,
    in_docstring,
    indented,
    literal,
    text_of,
    without_repeats,
)
from dpnn_bridge.outputs.py.closure import SourceClosure
from dpnn_bridge.outputs.py.helpers import Graph

#: beginning of a class name -> name of the child in the generated class; for other classes, the class name is used
NAMES = {
    "BatchNorm": "norm",
    "Conv": "conv",
    "MaxPool": "pool",
    "AvgPool": "pool",
    "LookupTable": "embedding",
    "Sequential": "block",
    "GModule": "graph",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "SoftMax": "softmax",
    "LogSoftMax": "log_softmax",
}


class ModuleCalls(Protocol):
    """The interface of :class:`~dpnn_bridge.outputs.py.constructors.Constructors` for graphs."""

    closure: SourceClosure
    shapes: dict[int, str]
    variables: dict[int, str]

    def value_of(self, module: nn.Module, path: str, hint: str = "") -> Value: ...


class GraphClasses:
    """The generated classes for the graphs of one model.

    Attributes:
        names: ``id(graph)`` -> name of a child in the graph -> its name in the generated class.
    """

    def __init__(self, constructors: ModuleCalls) -> None:
        self._constructors = constructors
        self._classes: dict[Any, _GraphClass] = {}
        self.names: dict[int, dict[str, str]] = {}

    def call(self, graph: GModule, path: str, hint: str) -> Call:
        """Return the call that creates a graph; equal graphs share a class.

        Args:
            graph: the graph.
            path: path of the graph in the model.
            hint: name for the class.
        """
        self._constructors.closure.add(Graph)
        written = _GraphClass(graph, path, self._constructors)
        self.names[id(graph)] = written.names
        known = self._classes.setdefault(written.signature, written)
        known.name = known.name or self._constructors.closure.unique(hint or ("Subgraph" if path else "Net"))
        return Call(known.name, list(written.arguments))

    def calls(self) -> list[Call]:
        """Return the calls in the constructors of all classes, as one list for each class."""
        return [Call("", list(c.calls.values())) for c in self._classes.values()]

    def definitions(self) -> list[str]:
        """Return the source code of all classes, each after the classes that it uses."""
        return [c.text() for c in self._classes.values()]


class _GraphClass:
    """The generated class of a graph.

    Attributes:
        name: name of the class.
        names: name of a child in the graph -> its name in the class.
        calls: name of a child in the class -> the call that creates it.
        arguments: variables that are arguments of the constructor.
        signature: key that is equal for graphs with equal classes.
    """

    def __init__(self, graph: GModule, path: str, constructors: ModuleCalls) -> None:
        self.name = ""
        self._path = path.lstrip(".")
        self.calls: dict[str, Value] = {}
        self.names = self._members(graph, path, constructors)
        self._input, self._steps = _Forward(graph, self.names, constructors.shapes).statements()
        codes = {name: code_of(call) for name, call in self.calls.items()}
        used = set(re.findall(r"\w+", " ".join(codes.values())))
        self.arguments = [v for v in constructors.variables.values() if v in used]
        self._numbers = {c: name for c, name in self.names.items() if c != name and graph.get_submodule(c).state_dict()}
        steps = tuple(step for step, _ in self._steps)
        same = frozenset(self._numbers.items()), frozenset(codes.items())
        self.signature = (self._input, steps, tuple(self.arguments), *same)

    def _members(self, graph: GModule, path: str, constructors: ModuleCalls) -> dict[str, str]:
        """Choose the names of the children and create their calls; equal modules without a state become one child."""
        labels = {node.module: node.label for node in reversed(graph.nodes)}
        kept: dict[Any, tuple[str, list[str]]] = {}
        for child, module in _kept(graph).items():
            code = code_of(constructors.value_of(module, path)) if is_pure(module) else ""
            key = (code, module.training) if code else id(module)
            record = record_of(module)
            label = labels.get(child) or (record and record.fields.get("name")) or ""
            name = identifier(label) if isinstance(label, str) and not code else ""
            kept.setdefault(key, (name or kind_of(module), []))[1].append(child)
        bases = Counter(base for base, _ in kept.values())
        candidates = {b: chain([b] if uses == 1 else [], map(f"{b}{{}}".format, count(1))) for b, uses in bases.items()}
        used, names = set(graph._modules), dict[str, str]()
        for base, children in kept.values():
            name = next(n for n in candidates[base] if n not in used)
            used.add(name)
            names.update(dict.fromkeys(children, name))
            module = graph.get_submodule(children[0])
            hint = "".join(p[:1].upper() + p[1:] for p in base.split("_")) if base != kind_of(module) else ""
            self.calls[name] = constructors.value_of(module, f"{path}.{children[0]}".lstrip("."), hint)
        by_tensors = {_tensors(graph.get_submodule(child)): name for child, name in names.items()}
        for child, module in graph._modules.items():  # children that no node runs, with the tensors of another child
            if child not in names and module is not None and _tensors(module) in by_tensors and _tensors(module):
                names[child] = by_tensors[_tensors(module)]
        return names

    def text(self) -> str:
        """Return the source code."""
        title = f"graph at ``{in_docstring(self._path)}`` in the Torch7 model" if self._path else "model"
        lines = [f'"""The {title}."""', ""]
        lines += [f"def __init__({', '.join(['self', *self.arguments])}):"]
        lines += [indented(f"super().__init__({_dict(self._numbers)})")]
        for name, call in self.calls.items():
            lines += [indented(f"self.{name} = {text_of(call)}")]
        lines += ["", f"def forward(self, {self._input}):"]
        lines += [f"    {step}" + (f"{COMMENT}{comment}" if comment else "") for step, comment in self._steps]
        return f"class {self.name}(Graph):\n{indented(without_repeats(chr(10).join(lines)))}"


class _Forward:
    """Converts the nodes of a graph to statements.

    A value is identified by the position of the node that computes it, the input by -1. A node without a module returns
    its input, so it has the value of another node.

    Args:
        graph: the graph.
        names: name of a child in the graph -> its name in the generated class.
        shapes: ``id(module)`` -> shape of its output, for comments.
    """

    def __init__(self, graph: GModule, names: dict[str, str], shapes: dict[int, str]) -> None:
        self._graph, self._nodes, self._names, self._shapes = graph, graph.nodes, names, shapes
        self._values = {-1: -1}
        self._sizes: dict[int, int] = {}
        self._labels: dict[int, str] = defaultdict(str)
        self._parts: dict[int, dict[int, int]] = defaultdict(dict)
        self._last_use: dict[int, int] = {}
        self._variables: dict[int, str] = {}
        self._used = set[str]()
        self._new = (f"x{n}" for n in count(1))
        for i, node in enumerate(self._nodes):
            value = self._values[i] = self._value(i)
            self._labels[value] = self._labels[value] or identifier(node.label)
            self._sizes |= {} if node.splits is None else {value: node.splits}
        used_unsplit = set(self._operands(graph.output_node))
        for i in self._steps():
            operands = [v for source in self._inputs(i) for v in self._operands(source)]
            self._last_use |= dict.fromkeys(operands, i)
            used_unsplit |= set() if self._nodes[i].select else {*operands}
        self._last_use |= dict.fromkeys(self._operands(graph.output_node), len(self._nodes))
        #: lists that are assigned to several variables, `x1, x2 = ...`, because only their elements are used
        self._unpacked = {v for v in self._parts if v in self._sizes and v not in used_unsplit}

    def _inputs(self, position: int) -> tuple[int, ...]:
        return (-1,) if position == self._graph.input_node else self._nodes[position].inputs

    def _runs(self, position: int) -> bool:
        return self._nodes[position].module in self._names

    def _value(self, position: int) -> int:
        """Return the value of a node: its own value, or the value of an earlier node."""
        node, inputs = self._nodes[position], self._inputs(position)
        if node.select is not None:
            source = self._values[inputs[0]]
            if self._is_list(source):
                return self._values[self._inputs(source)[node.select - 1]]
            return self._parts[source].setdefault(node.select, position)
        return self._values[inputs[0]] if len(inputs) == 1 and not self._runs(position) else position

    def _is_list(self, value: int) -> bool:
        """Return whether a value is the list of a node's inputs."""
        return value >= 0 and not self._runs(value) and self._nodes[value].select is None

    def _operands(self, position: int) -> list[int]:
        """Return the values that the expression for a node's value contains."""
        value = self._values[position]
        if not self._is_list(value):
            return [value]
        return [v for source in self._inputs(value) for v in self._operands(source)]

    def _steps(self) -> Iterator[int]:
        """Return the positions of the nodes that run a module or select an element."""
        return (i for i, value in self._values.items() if i == value >= 0 and not self._is_list(i))

    # ------------------------------------------------------------------ statements
    def statements(self) -> tuple[str, list[tuple[str, str]]]:
        """Return the parameter of ``forward``, and its statements with shape comments."""
        parameter = "inputs" if -1 in self._unpacked else self._variable(-1, [])
        statements = [(f"{self._target(-1, [])} = inputs", "")] if -1 in self._unpacked else []
        for i in self._steps():
            node = self._nodes[i]
            text = [self._text(source) for source in self._inputs(i)]
            free = [v for s in self._inputs(i) for v in self._operands(s) if self._last_use[v] == i]
            released = [self._variables.pop(v) for v in dict.fromkeys(free) if v in self._variables]
            if node.select is None:
                argument = text[0] if len(text) == 1 else f"[{', '.join(text)}]"
                expression = f"self.{self._names[node.module or '']}({argument})"
            elif self._values[self._inputs(i)[0]] in self._unpacked:
                continue
            else:
                expression = f"{text[0]}[{node.select - 1}]"
            target = f"{self._target(i, released)} = " if i in self._last_use else ""
            module = self._graph._modules[node.module] if node.module is not None else None
            statements.append((target + expression, self._shapes.get(id(module), "")))
        return parameter, [*statements, (f"return {self._text(self._graph.output_node)}", "")]

    def _text(self, position: int) -> str:
        """Return the expression for the value of a node: a variable, or a list of variables."""
        value = self._values[position]
        if self._is_list(value):
            return f"[{', '.join(self._text(source) for source in self._inputs(value))}]"
        return self._variables.get(value, "")

    def _target(self, value: int, released: list[str]) -> str:
        """Return the left side of an assignment: the variable of a value, or the variables of its elements.

        Args:
            value: the value.
            released: variables that are not used later.
        """
        if value not in self._unpacked:
            return self._variable(value, released)
        parts = [self._parts[value].get(k) for k in range(1, self._sizes[value] + 1)]
        names = [self._target(p, []) if p is not None and p in self._last_use else "_" for p in parts]
        return ", ".join(f"({name})" if p in self._unpacked else name for p, name in zip(parts, names, strict=True))

    def _variable(self, value: int, released: list[str]) -> str:
        """Choose the variable of a value: the annotation of its node, a released variable, or a new variable."""
        generic = [name for name in released if re.fullmatch(r"x\d*", name)]
        names = chain([self._labels[value], *generic[:1], "x" if value == -1 else ""], self._new)
        name = next(n for n in names if n and (n in released or n not in self._used))
        self._used.add(name)
        self._variables[value] = name
        return name


# ---------------------------------------------------------------------- children
def live_children(graph: GModule) -> list[nn.Module]:
    """Return the modules that the generated class of a graph contains, without duplicates."""
    return list({id(m): m for m in _kept(graph).values()}.values())


def _kept(graph: GModule) -> dict[str, nn.Module]:
    """Return the children that the generated class contains, by their names in the graph.

    These are the modules that nodes run, except identities, and other modules with tensors of their own.
    """
    run = [graph._modules[node.module] for node in graph.nodes if node.module is not None]
    names = dict.fromkeys(node.module for node in graph.nodes if node.module is not None)
    known = {_tensors(m) for m in run if m is not None}
    others = [c for c, m in graph._modules.items() if c not in names and m is not None and _tensors(m) not in known]
    children = [(c, graph.get_submodule(c)) for c in [*names, *others]]
    return {c: m for c, m in children if type(m) is not nn.Identity}


def _dict(entries: dict[str, str]) -> str:
    """Return the source code of a dict of strings, in lines of at most about 80 characters."""
    lines = [""]
    for key, value in entries.items():
        entry = f"{literal(key)}: {literal(value)},"
        if len(lines[-1]) + len(entry) > 80:
            lines.append("")
        lines[-1] += f" {entry}" if lines[-1] else entry
    return "{" + lines[0].rstrip(",") + "}" if len(lines) == 1 else "\n".join(["{", *map(indented, lines), "}"])


def _tensors(module: nn.Module) -> tuple[int, ...]:
    """Return the ids of the tensors in the ``state_dict`` of a module."""
    return tuple(id(t) for t in module.state_dict(keep_vars=True).values())


def kind_of(module: nn.Module) -> str:
    """Return a variable name for a module, derived from its class."""
    kind = type(module).__name__
    known = next((name for start, name in NAMES.items() if kind.startswith(start)), "")
    if known:
        return known
    kind = re.sub(r"^(C(?=[A-Z][a-z]+Table)|Spatial|Temporal)|(Table|[123]d)$", "", kind)
    return identifier(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower())


def identifier(label: str) -> str:
    """Convert a label to a valid name of a variable and attribute; an empty string if that is impossible."""
    name = re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_")
    if not name:
        return ""
    name = f"n{name}" if name[0].isdigit() else name
    return (
        f"{name}_" if keyword.iskeyword(name) or hasattr(Graph({}), name) or name in ("self", "nn", "torch") else name
    )


def is_pure(module: nn.Module) -> bool:
    """Return whether a module has no submodules, parameters, buffers, and no method that sets an attribute."""
    empty = not module._modules and not module._parameters and not module._buffers
    return empty and not any(map(_writes_attributes, type(module).__mro__[: -len(nn.Module.__mro__)]))


@lru_cache
def _writes_attributes(kind: type) -> bool:
    """Return whether a method other than the constructor sets an attribute."""
    tree = parse(textwrap.dedent(getsource(kind)))
    methods = [n for n in tree.body[0].body if isinstance(n, ast.FunctionDef) and n.name != "__init__"]  # type: ignore[attr-defined]
    attributes = (n for method in methods for n in ast.walk(method) if isinstance(n, ast.Attribute))
    return any(isinstance(a.ctx, ast.Store) for a in attributes)
