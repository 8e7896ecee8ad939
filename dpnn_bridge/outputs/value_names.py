"""Name the inputs and outputs of a traced program after the nodes and layers of the model."""

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
    """Return the names of the inputs: as given, as the nodes of the graph are called, or ``input``.

    Raises:
        OptionError: ``given`` has another number of names, or one twice.
    """
    labels = _input_labels(module) if isinstance(module, GModule) else []
    return _names("input", len(nested.tensors(example)), given, labels)


def output_names(
    module: nn.Module, output: Any, given: Sequence[str] | None = None, inputs: Sequence[str] = ()
) -> list[str]:
    """Return the names of the outputs: as given, as the nodes of the graph or the last layer are called, or ``output``.

    Raises:
        OptionError: ``given`` has another number of names, one twice, or one of ``inputs``.
    """
    labels = _output_labels(module) if isinstance(module, GModule) else [_layer_name(module)]
    return _names("output", len(nested.tensors(output)), given, labels, inputs)


def _names(
    kind: str, count: int, given: Sequence[str] | None, labels: list[str], taken: Sequence[str] = ()
) -> list[str]:
    if given is not None:
        option = f"{kind}_names= (--{kind}-names)"
        if len(given) != count or len(set(given)) != count or not all(given):
            found = f"found {', '.join(given) or 'none'}"
            raise OptionError(f"{option}: expected {counted(count, 'different name')}, {found}")
        if both := sorted({*given} & {*taken}):
            raise OptionError(f"{option}: {both[0]} is the name of an input; choose another")
        return list(given)
    numbered = [kind] if count == 1 else [f"{kind}_{i + 1}" for i in range(count)]
    clean = [re.sub(r"\W+", "_", label).strip("_") for label in labels]
    usable = len(clean) == count and all(clean) and len({*clean, *taken}) == count + len(taken)
    return clean if usable else numbered


def _input_labels(graph: GModule) -> list[str]:
    """Return the names of the nodes that take one input each, in the order of the inputs."""
    if graph.num_inputs == 1:
        return [graph.nodes[graph.input_node].label]
    taken = {n.select: n.label for n in graph.nodes if n.select is not None and n.inputs == (graph.input_node,)}
    return [taken.get(i + 1, "") for i in range(graph.num_inputs)]


def _output_labels(graph: GModule) -> list[str]:
    last = graph.nodes[graph.output_node]
    return [last.label] if last.module is not None else [graph.nodes[i].label for i in last.inputs]


def _layer_name(module: nn.Module) -> str:
    """Return the name of a model's last layer in its file, as loadcaffe writes it."""
    *_, last = module.modules()
    record = record_of(last)
    name = record.fields.get("name") if record else None
    return name if isinstance(name, str) else ""
