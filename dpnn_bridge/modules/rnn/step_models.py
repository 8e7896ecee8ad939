"""Run a model of one time step, whose states are inputs and outputs, over a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.faster import is_eager
from dpnn_bridge.modules.rnn.algebra import Term, UnknownModuleError, expression
from dpnn_bridge.modules.rnn.recognition import Cell, cell_of
from dpnn_bridge.modules.rnn.row_wise import on_all_rows
from dpnn_bridge.modules.rnn.structure import while_unchanged


def run_sequence(
    model: nn.Module, inputs: Tensor | Sequence[Tensor], states: Sequence[Tensor]
) -> tuple[Any, list[Any]]:
    """Run a step model over a sequence.

    A step model maps the list ``[input, *states]`` to the list ``[*new states, output]``; the models of char-rnn and
    neuraltalk2 are examples. Layers that compute an LSTM, GRU or simple recurrent cell process all time steps together.
    Dropout then draws the masks of all time steps together.

    Args:
        model: the step model.
        inputs: :math:`(T, *)`, or one tensor for each time step.
        states: initial states in the order of the model's inputs, each :math:`(N, H)`.

    Returns:
        The outputs :math:`(T, *)`, or a list of outputs if the model returns several after the states; and the last
        states.

    Raises:
        ValueError: the sequence is empty, or the model does not return a list that is longer than ``states``.

    Examples:
        >>> scores, states = run_sequence(dpnn_bridge.load("checkpoint.t7"), x, states)  # doctest: +SKIP
    """
    if not len(inputs):
        raise ValueError("run_sequence: expected at least one time step, found an empty sequence")
    plan = step_model(model, len(states)) if is_eager() else None
    if plan is not None:
        try:
            return _Run(plan, states).over(inputs)
        except UnknownModuleError:
            pass  # the model has not run
    current, each = list(states), []
    for x in inputs:
        values = model([x, *current])
        if not isinstance(values, (list, tuple)) or len(values) <= len(current):
            found = f"{len(values)} elements" if isinstance(values, (list, tuple)) else f"a {type(values).__name__}"
            raise ValueError(
                f"run_sequence: the model must return a list of {len(current)} states and an output, found {found}"
            )
        current = list(values[: len(current)])
        each.append(values[len(current) :])
    outputs = [torch.stack(parts) for parts in zip(*each, strict=True)]
    return outputs[0] if len(outputs) == 1 else outputs, current


class StepModel(NamedTuple):
    """A step model as expressions of its input and states; recurrent cells compute the states.

    Attributes:
        x: the input.
        before: the previous states, inputs of the model.
        states: the new states.
        outputs: the outputs after the new states.
        cells: index of a state -> the cell that computes it, and the indices of all states of this cell, output first.
    """

    x: Term
    before: list[Term]
    states: list[Term]
    outputs: list[Any]
    cells: dict[int, tuple[Cell, tuple[int, ...]]]


@while_unchanged
def step_model(model: nn.Module, count: int) -> StepModel | None:
    """Represent a step model with ``count`` states; return None if a state is not computed by a known cell."""
    x, *before = (Term("input", (i,)) for i in range(1 + count))
    try:
        values = expression(model, [x, *before])
    except UnknownModuleError:
        return None
    if not isinstance(values, list) or len(values) <= count:
        return None
    cells: dict[int, tuple[Cell, tuple[int, ...]]] = {}
    for indices in [*permutations(range(count), 2), *((i,) for i in range(count))]:
        if not cells.keys() & set(indices):
            cell = cell_of([values[i] for i in indices], [before[i] for i in indices])
            cells.update(dict.fromkeys(indices, (cell, indices)) if cell is not None else {})
    if len(cells) < count or any(cell.dropouts for cell, _ in cells.values()):
        return None
    return StepModel(x, before, values[:count], values[count:], cells)


class _Run:
    """Computes a step model for a sequence.

    Args:
        plan: the step model.
        states: the initial states.
    """

    def __init__(self, plan: StepModel, states: Sequence[Tensor]) -> None:
        self._plan, self._start = plan, list(states)
        self._values: dict[int, Tensor | None] = {}
        self._last: dict[int, Tensor] = {}
        self._sequences: dict[int, Callable[[], Tensor]] = {}

    def over(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Any, list[Any]]:
        """Compute the outputs and the last states."""
        self._values[id(self._plan.x)] = inputs if isinstance(inputs, Tensor) else torch.stack([*inputs])
        outputs = [self._value(term) for term in self._plan.outputs]
        for i in range(len(self._start)):
            self._run_cell(i)
        return outputs[0] if len(outputs) == 1 else outputs, [self._last[i] for i in range(len(self._start))]

    def _value(self, term: Any) -> Tensor:
        """Return the value of a term for all time steps, computed once."""
        if id(term) not in self._values:
            self._values[id(term)] = None  # being computed
            self._values[id(term)] = self._computed(term)
        value = self._values[id(term)]
        if value is None:
            raise UnknownModuleError("a value that depends on itself")
        return value

    def _computed(self, term: Any) -> Tensor:
        for i, (after, before) in enumerate(zip(self._plan.states, self._plan.before, strict=True)):
            if term is after:
                self._run_cell(i)
                return self._sequences[i]()
            if term is before:
                return torch.cat([self._start[i].unsqueeze(0), self._value(after)[:-1]])
        if not isinstance(term, Term):
            raise UnknownModuleError("a list")
        if term.kind == "module":
            return on_all_rows(term.args[1], self._value(term.args[0]))
        if term.kind == "linear":
            inner, module, start, stop = term.args
            return F.linear(self._value(inner), module.weight[start:stop])
        if term.kind == "sum":
            parts = [t.args[0].bias[slice(*t.args[1:])] if t.kind == "bias" else self._value(t) for t in term.args]
            return reduce(torch.add, parts)
        if term.kind == "joined":
            return torch.cat([*map(self._value, term.args)], -1)
        if term.kind == "product":
            return reduce(torch.mul, map(self._value, term.args))
        if term.kind in ("sigmoid", "tanh"):
            return getattr(torch, term.kind)(self._value(term.args[0]))
        raise UnknownModuleError(term.kind)

    def _run_cell(self, index: int) -> None:
        """Compute a state, and the other states of its cell, unless they have been computed."""
        if index in self._last:
            return
        cell, indices = self._plan.cells[index]
        x, start = self._value(cell.input), [self._start[i] for i in indices]
        if x.dim() != 3 or not cell.accepts(x, start):
            raise UnknownModuleError("not a batch of sequences")
        outputs, last, states = cell.sequence(x, start, None)
        self._last.update(zip(indices, last, strict=True))
        self._sequences[indices[0]] = lambda: outputs
        self._sequences.update({i: lambda: states()[1] for i in indices[1:]})
