"""Open an output file again, to compare it with its model layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from dpnn_bridge.compare.nested import copied, replaced
from dpnn_bridge.outputs.dynamic import Dynamic

#: name of a module in the PyTorch model -> its result; "" is the model itself
Results = dict[str, Any]


@dataclass
class Written:
    """The content of a file, and how to run it.

    Attributes:
        tensors: parameters and buffers by ``state_dict`` name.
        renamed: tensors whose name does not say which parameter they are.
        run: runs it on an input; takes results of layers too, which the layers behind them get in place of their own.
        example: an input of the form the file was made for, or None.
        complete: whether every tensor of the model must be there under its name.
        exact: whether it runs the model's own operations, so that results are the same bits.
        faster: whether it runs faster versions of methods where the model does, see
            :mod:`dpnn_bridge.conversion.faster`.
        note: remark for the report.
        modules: the modules of a file that builds them, by the names of the model's.
        modes: whether each of these modules is in training mode in the file.
        dynamic: which sizes of the input vary.
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
    dynamic: Dynamic | None = None


class GraphNode(NamedTuple):
    """One operation of a traced graph, with the values it takes and gives.

    Attributes:
        scopes: Names of the modules it is in; None if that is unknown, as an exporter rewrote the operation.
    """

    scopes: frozenset[str] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def with_scopes(nodes: Iterable[GraphNode], outputs: Iterable[str]) -> tuple[list[GraphNode], set[str]]:
    """Place operations of unknown modules in those that contain all the operations before and after them.

    Args:
        nodes: All operations.
        outputs: The values that the whole graph gives.

    Returns:
        The operations, and the modules whose results are unknown: such an operation takes a value of the module,
        and may be in it or behind it.
    """
    nodes, unknown = list(nodes), set[str]()
    users, makers = _users(nodes, outputs), {name: node.scopes for node in nodes for name in node.outputs}
    for i, node in enumerate(nodes):
        if node.scopes is None:
            before = [makers[name] or frozenset() for name in node.inputs if name in makers]
            behind = [scopes or frozenset() for name in node.outputs for scopes in users.get(name, ())]
            around = [*before, *behind]
            certain = frozenset.intersection(*around) if around else frozenset()
            unknown |= frozenset().union(*before) - certain
            nodes[i] = node._replace(scopes=certain)
    return nodes, unknown


def results_of_modules(nodes: Iterable[GraphNode], outputs: Iterable[str]) -> dict[str, str]:
    """Find which value of a traced graph is the result of which module: the only one taken outside of it.

    A module that gives several values, runs several times or computes nothing has none, nor has one of which
    :func:`with_scopes` says that it is unknown.

    Args:
        nodes: All operations.
        outputs: The values that the whole graph gives.
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
    """Return the modules of the operations that take each value; the caller of the whole graph is in none."""
    users: dict[str, list[frozenset[str] | None]] = {name: [frozenset()] for name in outputs}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node.scopes)
    return users


def run_modules(modules: Mapping[str, nn.Module], call: Callable[[], Any], given: Results | None = None) -> Results:
    """Run a model and record the last result of each of its modules.

    Args:
        modules: by name; one that runs several times or not at all has no single result, nor has one with two names, as
            a program may use one module in place of several.
        call: runs the model.
        given: results that replace a module's own.
    """
    results: dict[str, list[Any]] = {}
    given = given or {}

    def forwarded(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            results.setdefault(name, []).append(copied(output))  # a layer behind it may compute in place
            return replaced(output, given[name]) if name in given else None

        return hook

    names = Counter(map(id, modules.values()))
    single = {name: module for name, module in modules.items() if names[id(module)] == 1}
    handles = [module.register_forward_hook(forwarded(name)) for name, module in single.items()]
    try:
        output = call()
    finally:
        for handle in handles:
            handle.remove()
    return {name: values[0] for name, values in results.items() if len(values) == 1} | {"": copied(output)}
