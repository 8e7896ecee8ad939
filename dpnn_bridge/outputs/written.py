"""Represent the content of an output file, to compare the file with its model layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from dpnn_bridge.compare.nested import copied, replaced
from dpnn_bridge.outputs.dynamic import Dynamic

#: name of a module in the PyTorch model -> its result; the name of the model itself is ""
Results = dict[str, Any]


@dataclass
class Written:
    """The content of a file, and a function that runs it.

    Attributes:
        tensors: parameters and buffers by ``state_dict`` name.
        renamed: tensors with other names, which must be compared by their values.
        run: function ``run(input, given)`` that runs the file and returns the results of modules. The results in
            ``given`` replace the results of modules for the later layers.
        example: an input for the file, or None.
        complete: whether the file must contain every tensor of the model under its name.
        exact: whether the file runs the same operations as the model, so that the results have the same bits.
        faster: whether the file uses the same faster methods as the model, see :mod:`dpnn_bridge.conversion.faster`.
        note: remark for the report.
        modules: name of a module in the model -> module that the file creates.
        modes: name of a module that the file creates -> whether it is in training mode in the file.
        added: names, in the file, of modules that the model lacks.
        dynamic: the dynamic axes of the input.
        options: other options of the format with which the file was written.
        network: the network of PyTorch in the file, if ``run`` runs its export to Torch7.
    """

    tensors: dict[str, Tensor]
    renamed: tuple[Tensor, ...] = ()
    run: Callable[[Any, Results], Results] | None = None
    example: Any = None
    complete: bool = True
    exact: bool = True
    faster: bool = True
    note: str = ""
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    modes: Mapping[str, bool] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    dynamic: Dynamic | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    network: nn.Module | None = None


class GraphNode(NamedTuple):
    """One operation of a traced graph.

    Attributes:
        scopes: names of the modules that contain the operation; None if unknown, because an exporter rewrote it.
        inputs, outputs: names of the values.
    """

    scopes: frozenset[str] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def with_scopes(nodes: Iterable[GraphNode], outputs: Iterable[str]) -> tuple[list[GraphNode], set[str]]:
    """Determine the modules of operations whose modules are unknown.

    Such an operation is assigned to the modules that contain all operations directly before and after it.

    Args:
        nodes: all operations.
        outputs: names of the outputs of the graph.

    Returns:
        The operations, and the modules whose results are unknown: an operation of unknown modules uses a value of the
        module, and may be inside the module or after it.
    """
    nodes, unknown = list(nodes), set[str]()
    users, producers = _users(nodes, outputs), {name: node.scopes for node in nodes for name in node.outputs}
    for i, node in enumerate(nodes):
        if node.scopes is None:
            before = [producers[name] or frozenset() for name in node.inputs if name in producers]
            after = [scopes or frozenset() for name in node.outputs for scopes in users.get(name, ())]
            neighbors = [*before, *after]
            certain = frozenset.intersection(*neighbors) if neighbors else frozenset()
            unknown |= frozenset().union(*before) - certain
            nodes[i] = node._replace(scopes=certain)
    return nodes, unknown


def results_of_modules(nodes: Iterable[GraphNode], outputs: Iterable[str]) -> dict[str, str]:
    """Find the values of a traced graph that are results of modules.

    The result of a module is the only value of its operations that is used outside the module. A module is omitted if
    it returns several values, runs several times or runs no operation, or if its result is unknown, see
    :func:`with_scopes`.

    Args:
        nodes: all operations.
        outputs: names of the outputs of the graph.

    Returns:
        Name of a module -> name of its result.
    """
    nodes, unknown = with_scopes(nodes, outputs)
    users = _users(nodes, outputs)
    found: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.outputs:
            for scope in node.scopes or ():
                if any(scope not in (scopes or ()) for scopes in users.get(name, ())):
                    found.setdefault(scope, set()).add(name)
    return {scope: names.pop() for scope, names in found.items() if len(names) == 1 and scope and scope not in unknown}


def _users(nodes: Iterable[GraphNode], outputs: Iterable[str]) -> dict[str, list[frozenset[str] | None]]:
    """Return the name of each value -> modules of the operations that use it; an output is also used in no module."""
    users: dict[str, list[frozenset[str] | None]] = {name: [frozenset()] for name in outputs}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node.scopes)
    return users


def run_modules(modules: Mapping[str, nn.Module], call: Callable[[], Any], given: Results | None = None) -> Results:
    """Run a model and record the last result of each of its modules.

    Args:
        modules: the modules by name.
        call: function that runs the model.
        given: name of a module -> value that replaces its result.

    Returns:
        Name of a module -> its result, and ``""`` -> the output of the model. Modules that do not run exactly once or
        have two names are omitted; a program may use one module in place of several.
    """
    results: dict[str, list[Any]] = {}
    given = given or {}

    def recording(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            results.setdefault(name, []).append(copied(output))  # a later layer may compute in place
            return replaced(output, given[name]) if name in given else None

        return hook

    names = Counter(map(id, modules.values()))
    single = {name: module for name, module in modules.items() if names[id(module)] == 1}
    handles = [module.register_forward_hook(recording(name)) for name, module in single.items()]
    try:
        output = call()
    finally:
        for handle in handles:
            handle.remove()
    return {name: values[0] for name, values in results.items() if len(values) == 1} | {"": copied(output)}
