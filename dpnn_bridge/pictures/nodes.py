"""Convert a model to a graph: layers with names, settings, shapes and tensors, and the data flow between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import renamed
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import in_html, printable, shortened, type_name
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.convert import to_lua
from dpnn_bridge.conversion.example_run import run, watched_copy
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.noise import paired
from dpnn_bridge.conversion.places import module_names
from dpnn_bridge.errors import ConversionError, ConversionLimitError
from dpnn_bridge.modules.nn.container import Concat, ConcatTable, Parallel, ParallelTable
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.pictures.kinds import KINDS, form_of, kind_of

#: containers that pass their input, or parts of it, to every child and collect the outputs of the children
FAN_OUT = (Concat, ConcatTable, Parallel, ParallelTable)

#: an end of an edge: index of a child, or input or output of the container
End = int | Literal["in", "out"]

#: maximum number of edges of a graph: a constant, and a number per input of a step
EDGES, EDGES_PER_INPUT = 10_000, 16

BINS = 24
_SAMPLE = 1 << 18


@dataclass
class TensorSummary:
    """Statistics of a parameter or buffer.

    Attributes:
        name: attribute of the torch module.
        shape: sizes.
        low, high, mean: minimum, maximum and mean of the elements; None for a tensor without finite elements, or with
            complex elements.
        histogram: number of elements, or of a sample in large tensors, in each of 24 equal intervals from ``low`` to
            ``high``.
    """

    name: str
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    histogram: list[int] = field(default_factory=list)


@dataclass(repr=False)
class ModelNode:
    """One layer of a model.

    Attributes:
        path: path in Lua, such as ``modules[3].modules[1]``; empty for the model itself.
        lua_class, torch_class: names of the classes; ``lua_class`` is empty for a module created in PyTorch.
        name: the name that the Lua code gave the module, or an empty string.
        parameters: total number of elements of all parameters.
        settings: the arguments in the ``repr`` of the module.
        fields: Lua fields that contain numbers, strings or booleans.
        input, output: shapes, if the model ran on an example.
        tensors: parameters and buffers, without those of submodules.
        children: submodules; a further occurrence of a module is a node without children, tensors and fields.
        edges: data flow between children and the input and output of the container; empty if it is defined by the code
            of the class.
        kind: a key of :data:`~dpnn_bridge.pictures.kinds.KINDS`, such as ``convolution``.
        form: channels, kernel, stride and padding as text.
    """

    path: str
    lua_class: str
    torch_class: str
    name: str = ""
    parameters: int = 0
    settings: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    input: str = ""
    output: str = ""
    tensors: list[TensorSummary] = field(default_factory=list)
    children: list[ModelNode] = field(default_factory=list)
    edges: list[tuple[End, End]] = field(default_factory=list)
    kind: str = "other"
    form: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"ModelNode({self.torch_class}: {sum(1 for _ in self.walk())} layers, {self.parameters:,} parameters)"

    def _repr_html_(self) -> str:
        return _inline(self)

    def walk(self) -> Iterator[ModelNode]:
        """Yield this node and all its descendants, in the order of the file."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@renamed(example="input")
@wrap_errors(ConversionError, "drawing")
def model_graph(module: nn.Module, input: Any = None, *, histograms: bool = False) -> ModelNode:
    """Return the graph of a model.

    Args:
        module: any module; for a converted module, the nodes contain the Lua names.
        input: an input to compute shapes; a copy of the model runs once, in its mode, without gradients.
        histograms: compute the statistics of all tensors.
    """
    shapes = _shapes(module, input) if input is not None else {}
    return _Builder(shapes, _lua_fields(module), module_names(module), histograms).node(module, "")


class _Builder:
    def __init__(
        self,
        shapes: dict[int, tuple[str, str]],
        fields: dict[int, dict[str, Any]],
        names: dict[int, str],
        histograms: bool,
    ) -> None:
        self.shapes, self.fields, self.names, self.histograms = shapes, fields, names, histograms
        self._first: dict[int, ModelNode] = {}

    def node(self, module: nn.Module, path: str) -> ModelNode:
        if (first := self._first.get(id(module))) is not None:
            return replace(first, path=path, fields={}, tensors=[], children=[], edges=[])
        record = record_of(module)
        node = ModelNode(
            path,
            record.class_name if record else "",
            type_name(type(module)),
            self.names.get(id(module), ""),
            sum(p.numel() for p in module.parameters()),
            " ".join(module.extra_repr().split()) if not isinstance(module, GModule) else "",
            self.fields.get(id(module), {}),
            *self.shapes.get(id(module), ("", "")),
        )
        node.kind, node.form = kind_of(module), form_of(module)
        self._first[id(module)] = node
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        node.tensors = [_summary(n, t, self.histograms) for n, t in own]
        children = self._children(module, path)
        node.children = [self.node(child, child_path) for child_path, child in children]
        node.edges = _edges(module, len(children))
        return node

    def _children(self, module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
        prefix = f"{path}." if path else ""
        if isinstance(module, GModule):
            steps = [step.module for step in module.nodes if step.module is not None]
            paths = {name: f"{prefix}modules[{i}]" for i, name in enumerate(module._modules, 1)}
            return [(paths[name], module.get_submodule(name)) for name in steps]
        mapping = registry.mapping_of(module)
        members = [(f"{prefix}{name}", getattr(module, attribute, None)) for name, attribute in mapping.members.items()]
        found = [(path, m) for path, m in members if isinstance(m, nn.Module)]
        listed = {id(m) for _, m in found}
        inner = [(f"{prefix}modules[{i}]", m) for i, m in enumerate(mapping.children(module), 1)]
        return [*found, *((path, m) for path, m in inner if id(m) not in listed)]


def _edges(module: nn.Module, count: int) -> list[tuple[End, End]]:
    if isinstance(module, GModule):
        return _graph_edges(module)
    if isinstance(module, FAN_OUT):
        branches: list[list[tuple[End, End]]] = [[("in", i), (i, "out")] for i in range(count)]
        return [edge for branch in branches for edge in branch]
    if count == 1 or (isinstance(module, nn.Sequential) and count):
        ends: list[End] = ["in", *range(count), "out"]
        return list(pairwise(ends))
    return []


def _graph_edges(module: GModule) -> list[tuple[End, End]]:
    """Return the edges between steps with a module; the other steps only pass values on."""
    edges: list[tuple[End, End]] = []
    sources: list[list[End]] = []
    count = 0
    left = EDGES + EDGES_PER_INPUT * sum(len(step.inputs) for step in module.nodes)
    for i, step in enumerate(module.nodes):
        found: list[End] = ["in"] if i == module.input_node else []
        inputs: dict[End, None] = dict.fromkeys(s for source in step.inputs for s in sources[source])
        found += inputs
        left -= len(found)
        if left < 0:  # steps without a module can pass many values to many other steps
            raise ConversionLimitError("the graph cannot be drawn, because it has too many edges")
        if step.module is not None:
            edges.extend((source, count) for source in found)
            found = [count]
            count += 1
        sources.append(found)
    return [*edges, *((source, "out") for source in sources[module.output_node])]


def _summary(name: str, tensor: Tensor, histogram: bool) -> TensorSummary:
    summary = TensorSummary(name, tuple(tensor.shape))
    if not histogram or not tensor.numel() or tensor.is_meta:
        return summary
    values = tensor.detach().flatten()
    values = values[values.isfinite()].to("cpu")
    if values.numel() and not values.is_complex():
        summary.low, summary.high = map(float, values.aminmax())
        summary.mean = float(values.mean(dtype=torch.float64))
        sample = values[:: max(1, len(values) // _SAMPLE)].double()
        summary.histogram = [int(n) for n in torch.histc(sample, BINS, summary.low, summary.high)]
    return summary


def _lua_fields(module: nn.Module) -> dict[int, dict[str, Any]]:
    """Return the Lua fields of every module that are plain values; an empty dict if the model cannot be exported."""
    try:
        obj = to_lua(module, gradients=False)
    except ConversionError:
        return {}
    plain = (bool, int, float, str)
    return {
        id(m): {str(k): v for k, v in o.items() if isinstance(v, plain) and k not in ("_type", "train")}
        for m, o in paired(module, obj)
    }


def _shapes(module: nn.Module, example: Any) -> dict[int, tuple[str, str]]:
    """Return the shapes of input and output of every module at its first call."""
    found: dict[int, tuple[str, str]] = {}

    def ran(key: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        found.setdefault(key, (shape_text(args[0]) if args else "", shape_text(output)))

    copy = watched_copy(module, lambda m, key: m.register_forward_hook(partial(ran, key)))
    run(copy, nested.copied(example), "the input")
    return found


def shape_text(value: Any) -> str:
    """Return ``8×1×32×32`` for a tensor, ``[8×3, 8×5]`` for a list of tensors."""
    if isinstance(value, Tensor):
        return "×".join(map(str, value.shape)) or "number"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shape_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        parts = [shape_text(v) for v in value]
        same = len(parts) > 3 and len(set(parts)) == 1
        return f"{len(parts)} × [{parts[0]}]" if same else f"[{', '.join(parts)}]"
    return type(value).__name__


# ---------------------------------------------------------------------- HTML for notebooks
#: maximum number of layers that a notebook shows
MAX_LAYERS = 400

_BRANCHES = {kind.__name__ for kind in FAN_OUT}
_BOX = "border:1px solid {0};border-left:5px solid {0};border-radius:5px;padding:2px 8px;margin:2px;font-size:11px"
_SWATCH = "border-left:8px solid {};padding:0 8px 0 4px"
_FLOW = "display:flex;flex-wrap:wrap;align-items:flex-start;flex-direction:{}"


def label_lines(node: ModelNode) -> list[str]:
    """Return the text of a box: PyTorch class, Lua class and name, output shape, parameters."""
    lines = [node.torch_class.removeprefix("torch.nn.")]
    if node.lua_class and node.lua_class.rpartition(".")[2] != lines[0]:
        lines.append(node.lua_class)
    if node.name:
        lines.append(f'"{node.name}"')
    lines += node.form
    if node.output:
        lines.append(node.output)
    if node.parameters:
        lines.append(f"{node.parameters:,} parameters")
    return [shortened(printable(line)) for line in lines]


def _inline(root: ModelNode) -> str:
    """Return the graph as HTML without scripts: containers can be folded, and branches are side by side."""
    nodes = list(root.walk())
    shown = {id(node) for node in nodes[:MAX_LAYERS]}
    kinds = [kind for kind in KINDS if any(node.kind == kind for node in nodes)]
    legend = " ".join(f"<span style='{_SWATCH.format(KINDS[kind])}'>{kind}</span>" for kind in kinds)
    more = f"<div>… {len(nodes) - MAX_LAYERS:,} more layers</div>" if len(nodes) > MAX_LAYERS else ""
    drawn = "".join(_boxes(root, shown, open_levels=1 if len(nodes) > 60 else 9))
    return f"<div style='font-family:sans-serif;font-size:11px'>{drawn}{more}<div>{legend}</div></div>"


def _boxes(node: ModelNode, shown: set[int], open_levels: int) -> Iterator[str]:
    first, *others = map(in_html, label_lines(node))
    label = f"<b>{first}</b> " + " · ".join(others)
    box = _BOX.format(KINDS[node.kind])
    if not node.children:
        yield f"<div style='{box}'>{label}</div>"
        return
    row = node.torch_class in _BRANCHES
    yield f"<details style='{box}'{' open' if open_levels > 0 else ''}><summary>{label}</summary>"
    yield f"<div style='{_FLOW.format('row' if row else 'column')}'>"
    for child in node.children:
        if id(child) in shown:
            yield from _boxes(child, shown, open_levels - 1)
    yield "</div></details>"
