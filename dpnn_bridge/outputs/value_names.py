"""Choose the names of the inputs and outputs of a traced program, from the nodes and layers of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from dpnn_bridge.base.display import counted
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.errors import OptionError
from dpnn_bridge.modules.nn.nngraph import GModule


def input_names(module: nn.Module, example: Any, given: Sequence[str] | None = None) -> list[str]:
    """Return the names of the inputs: ``given``, the annotations of the graph's input nodes, or ``input_1``, ….

    A single input without a name is ``input``.

    Raises:
        OptionError: the number of names in ``given`` is wrong, or two are equal.
    """
    labels = _input_labels(module) if isinstance(module, GModule) else []
    return _names("input", len(nested.tensors(example)), given, labels)


def output_names(
    module: nn.Module, output: Any, given: Sequence[str] | None = None, inputs: Sequence[str] = ()
) -> list[str]:
    """Return the names of the outputs: ``given``, the names of the output nodes or last layer, or ``output_1``, ….

    A single output without a name is ``output``. If an input has one of these names, the outputs are ``output_``, ….

    Raises:
        OptionError: the number of names in ``given`` is wrong, two are equal, or one is in ``inputs``.
    """
    labels = _output_labels(module) if isinstance(module, GModule) else [_layer_name(module)]
    return _names("output", len(nested.tensors(output)), given, labels, inputs)


def _names(
    kind: str, count: int, given: Sequence[str] | None, labels: list[str], used: Sequence[str] = ()
) -> list[str]:
    if given is not None:
        option = f"{kind}_names= (--{kind}-names)"
        if len(given) != count or len(set(given)) != count or not all(given):
            found = f"found {', '.join(given) or 'none'}"
            raise OptionError(f"{option}: expected {counted(count, 'different name')}, {found}")
        if both := sorted({*given} & {*used}):
            raise OptionError(f"{option}: {both[0]} is the name of an input; choose another name")
        return list(given)
    numbered = _numbered(kind, count)
    while not {*numbered}.isdisjoint(used):
        kind += "_"
        numbered = _numbered(kind, count)
    clean = [re.sub(r"\W+", "_", label).strip("_") for label in labels]
    usable = len(clean) == count and all(clean) and len({*clean, *used}) == count + len(used)
    return clean if usable else numbered


def _numbered(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{i + 1}" for i in range(count)]


def _input_labels(graph: GModule) -> list[str]:
    """Return the annotations of the nodes that select an input, in the order of the inputs; empty if there is none."""
    if graph.num_inputs == 1:
        return [graph.nodes[graph.input_node].label]
    labels = {n.select: n.label for n in graph.nodes if n.select is not None and n.inputs == (graph.input_node,)}
    return [labels.get(i + 1, "") for i in range(graph.num_inputs)]


def _output_labels(graph: GModule) -> list[str]:
    last = graph.nodes[graph.output_node]
    return [last.label] if last.module is not None else [graph.nodes[i].label for i in last.inputs]


def _layer_name(module: nn.Module) -> str:
    """Return the Lua field ``name`` of a model's last layer, which loadcaffe sets, or an empty string."""
    *_, last = module.modules()
    record = record_of(last)
    name = record.fields.get("name") if record else None
    return name if isinstance(name, str) else ""
