"""Compute gradients as Torch7 does where the terms of an in-place sum share the memory of one gradient.

``nn.CAddTable(true)`` gives all terms its own gradOutput. A term that ends with a layer which computes in place
overwrites it: the terms whose backward pass comes later read the gradient of that layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare import nested
from dpnn_bridge.modules.nn.graph_nodes import backward_order
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.parity.given_gradients import GivenGradients
from dpnn_bridge.parity.layers import is_inplace


@dataclass
class _Call:
    """A call of a layer that computes in place.

    Attributes:
        terms: the tensors of its input.
        output: its output.
    """

    terms: Sequence[Tensor]
    output: Tensor


class _SharedGradients:
    """The gradients of a run of a model.

    Args:
        modules: all modules.
        parameters_last: see :func:`shared_gradients`.
    """

    def __init__(self, modules: Iterable[nn.Module], *, parameters_last: bool) -> None:
        self._parameters_last = parameters_last
        graphs = [module for module in modules if isinstance(module, GModule)]
        self._turns = {id(node): turn for graph in graphs for node, turn in _turns(graph)}
        self._turn: dict[int, int] = {}  # storage of an output in a graph -> turn of its node in the backward pass
        self._in_place: dict[int, _Call] = {}  # storage of an output -> the call
        self._readers = Counter[int]()  # storage -> number of calls that read it
        self._last: dict[int, Tensor] = {}  # storage of a term -> what the memory of its gradient contains at the end
        self._kept: list[Any] = []  # no two tensors get one storage

    def after_forward(self, module: nn.Module, args: Any, output: Any) -> Any:
        output = self._after_layer(module, args, output)
        if id(module) in self._turns and isinstance(output, Tensor):
            self._turn.setdefault(storage_id(output), self._turns[id(module)])
            self._kept.append(output)
        return output

    def _after_layer(self, module: nn.Module, args: Any, output: Any) -> Any:
        if module._modules or len(args) != 1 or not isinstance(output, Tensor):
            return output
        terms = [t for t in nested.tensors(args) if t.requires_grad]
        if not terms or storage_id(output) in map(storage_id, terms):  # it returns its input, or a view of it
            return output
        self._readers.update(map(storage_id, terms))
        output = self._of_sum(module, terms, output) if len(terms) > 1 else self._of_layer(module, terms, output)
        self._kept += [*terms, output]
        return output

    def _of_sum(self, module: nn.Module, terms: list[Tensor], output: Tensor) -> Tensor:
        if not is_inplace(module) or any(t.numel() != output.numel() for t in terms):
            return output

        def of_terms(gradient: Tensor) -> list[Tensor]:
            return self._of_terms(terms, gradient)

        output = GivenGradients.apply(of_terms, output, *terms)
        self._in_place[storage_id(output)] = _Call(terms, output)
        return output

    def _of_layer(self, module: nn.Module, terms: list[Tensor], output: Tensor) -> Tensor:
        if is_inplace(module) and output.numel() == terms[0].numel():
            self._in_place[storage_id(output)] = _Call(terms, output)
        parameters = [p for p in module._parameters.values() if p is not None and p.requires_grad]
        if not self._parameters_last or not parameters:
            return output

        def gradients(gradient: Tensor) -> list[Tensor | None] | None:
            last = self._last.get(key)
            if last is None or self._readers[key] > 1:
                return None
            of_input = _gradients(output, terms, gradient)
            return [*of_input, *_gradients(output, parameters, last.reshape(output.shape))]

        found = GivenGradients.apply(gradients, output, *terms, *parameters)
        key = storage_id(found)
        return found

    def _of_terms(self, terms: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
        """Return the gradient of each term of a sum when Torch7 reads it."""
        found, memory = list(terms), gradient
        for i in sorted(range(len(terms)), key=lambda i: self._turn.get(storage_id(terms[i]), 0)):
            found[i] = memory.reshape(terms[i].shape)
            memory = self._left_by(terms[i], memory)
        self._last.update((self._producer(term), memory) for term in terms)
        return found

    def _call(self, tensor: Tensor) -> _Call | None:
        """Return the call in place whose gradOutput is in the same memory as the gradient of a tensor."""
        key = storage_id(tensor)
        call = self._in_place.get(key)
        return call if self._readers[key] == 1 and call is not None and call.output.numel() == tensor.numel() else None

    def _producer(self, tensor: Tensor) -> int:
        """Return the storage of the tensor at the beginning of a chain of layers that compute in place."""
        while (call := self._call(tensor)) is not None and len(call.terms) == 1:
            (tensor,) = call.terms
        return storage_id(tensor)

    def _left_by(self, tensor: Tensor, gradient: Tensor) -> Tensor:
        """Return what the backward pass of a tensor's branch leaves in the memory of its gradient."""
        call = self._call(tensor)
        if call is None:
            return gradient
        if len(call.terms) > 1:
            left = gradient
            for term in call.terms:
                left = self._left_by(term, left)
            return left
        (given,) = call.terms
        found = _gradients(call.output, [given], gradient.reshape(call.output.shape))[0]
        return gradient if found is None else self._left_by(given, found.reshape(gradient.shape))


def _gradients(output: Tensor, tensors: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(output, tensors, gradient, retain_graph=True, allow_unused=True)


def _turns(graph: GModule) -> Iterator[tuple[nn.Module, int]]:
    """Yield each module of a graph with its turn in the backward pass."""
    for turn, i in enumerate(backward_order(graph.nodes, graph.output_node)):
        if (name := graph.nodes[i].module) is not None:
            yield graph.get_submodule(name), turn


@contextmanager
def shared_gradients(modules: Iterable[nn.Module], *, parameters_last: bool) -> Iterator[None]:
    """Let the terms of sums that compute in place share the memory of one gradient.

    Args:
        modules: all modules. Layers that copy in Torch7 must not return views: see
            :func:`~dpnn_bridge.parity.in_place.one_memory`.
        parameters_last: whether a container computes the gradients of its parameters after those of all its inputs,
            as ``nn.ParallelTable`` and ``nn.gModule`` do and ``nn.ConcatTable`` does not.
    """
    modules = list(modules)
    hook = _SharedGradients(modules, parameters_last=parameters_last).after_forward
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
