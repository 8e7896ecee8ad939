"""Recognize recurrent cells by their computation: LSTM with and without peepholes, GRU, simple recurrent cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.modules.rnn.algebra import Term, depends_on
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.gru_kernel import GRUSequence, gru_steps
from dpnn_bridge.modules.rnn.lstm import TORCH_ORDER, LSTMWeights, lstm_sequence
from dpnn_bridge.modules.rnn.lstm_kernel import lstm_steps
from dpnn_bridge.modules.rnn.products import fit

#: dropout layer -> mask of each time step
Masks = Mapping[LazyDropout, list[Tensor]]
#: rows ``start:stop`` of a parameter: the module of the parameter, start, stop
Range = tuple[Any, int, int]


@dataclass
class Gate:
    """The argument of a gate's activation function: a sum of linear functions of the input and the state.

    Args:
        input: the rows of the weights of the input.
        state: the rows of the weights of the state.
        bias: the rows of the biases.
        peephole: the module whose weight multiplies the cell, or None.
        dropouts: the dropout layers of input and state, in this order; empty without dropout.
    """

    input: list[Range] = field(default_factory=list)
    state: list[Range] = field(default_factory=list)
    bias: list[Range] = field(default_factory=list)
    peephole: nn.Module | None = None
    dropouts: list[LazyDropout] = field(default_factory=list)


@dataclass
class Cell:
    """A recurrent cell that a module computes.

    Args:
        input: expression of the cell's input.
        gates: name -> gate.
    """

    input: Term
    gates: Mapping[str, Gate]

    def sequence(
        self, x: Tensor, state: list[Tensor], mask: Tensor | None, masks: Masks | None = None
    ) -> tuple[Tensor, list[Tensor], Any]:
        """Compute the outputs of a sequence.

        Args:
            x: input :math:`(T, N, I)`.
            state: elements of the initial state, output first, each :math:`(N, H)`.
            mask: time steps whose state is set to zero, :math:`(T, N, 1)`, or None.
            masks: dropout masks of each time step, for each layer of :attr:`dropouts`; None without these layers.

        Returns:
            The outputs :math:`(T, N, H)`; the elements of the last state, which share no memory with the outputs; and a
            function that returns the elements of the states of all time steps, each :math:`(T, N, H)`.
        """
        raise NotImplementedError

    @property
    def dropouts(self) -> list[LazyDropout]:
        """The dropout layers of all gates."""
        return [layer for gate in self.gates.values() for layer in gate.dropouts]

    def _factors(self, masks: Masks, order: str) -> tuple[Tensor, Tensor]:
        """Stack the dropout masks of inputs, :math:`(gates, T, N, I)`, and states, :math:`(T, gates, N, H)`."""
        layers = zip(*(self.gates[name].dropouts for name in order), strict=True)
        of_input, of_state = ([torch.stack(masks[layer]) for layer in each] for each in layers)
        return torch.stack(of_input), torch.stack(of_state, 1)

    def accepts(self, x: Tensor, state: list[Tensor]) -> bool:
        """Return whether input, state and weights have one dtype and device and matching sizes."""
        gate = next(iter(self.gates.values()))
        (inner, *_), (recurrent, *_) = gate.input[0], gate.state[0]
        size = recurrent.weight.shape[1]
        return x.shape[2] == inner.weight.shape[1] and fit(x, recurrent.weight, state, size)

    def output(self, value: Tensor) -> Tensor:
        """Return a tensor like the output of one time step, for a tensor like its input."""
        (recurrent, *_) = next(iter(self.gates.values())).state[0]
        return value.new_empty(*value.shape[:-1], recurrent.weight.shape[1])


class LSTMCell(Cell):
    """An LSTM cell; :attr:`gates` has the keys ``i`` input, ``f`` forget, ``g`` candidate, ``o`` output."""

    def sequence(
        self, x: Tensor, state: list[Tensor], mask: Tensor | None, masks: Masks | None = None
    ) -> tuple[Tensor, list[Tensor], Any]:
        hidden, cell = state
        if masks is not None:
            w = self.weights(TORCH_ORDER)
            values, factors = (w.weight, w.recurrent, w.bias, w.peepholes), self._factors(masks, TORCH_ORDER)
            outputs, all_cells = lstm_steps(x, *values, None, hidden, cell, mask, factors)
            return outputs, [outputs[-1].clone(), all_cells[-1]], lambda: [outputs, all_cells]
        outputs, last, cells = lstm_sequence(x, self.weights(), hidden, cell, mask)
        return outputs, [outputs[-1].clone(), last], lambda: [outputs, cells()]

    def weights(self, order: str | None = None) -> LSTMWeights:
        """Return the parameters, with the gates in the given order; None: the order that avoids copies."""
        order = _natural_order(self.gates) if order is None else order
        weight, bias, recurrent = stacked(self.gates, order)
        peepholes = [self.gates[name].peephole for name in "ifo"]
        if all(p is None for p in peepholes):
            return LSTMWeights(weight, recurrent, bias, order)
        zeros = torch.zeros_like(bias[: bias.shape[0] // 4])
        vectors = torch.stack([zeros if p is None else p.weight for p in peepholes])  # type: ignore[misc]
        return LSTMWeights(weight, recurrent, bias, order, vectors)


class RNNCell(Cell):
    """An Elman cell: the hyperbolic tangent of one gate, with the key ``n``."""

    def sequence(
        self, x: Tensor, state: list[Tensor], mask: Tensor | None, masks: Masks | None = None
    ) -> tuple[Tensor, list[Tensor], Any]:
        assert mask is None, "torch.rnn_tanh does not support a mask of time steps"
        assert masks is None, "torch.rnn_tanh does not support dropout masks"
        weight, bias, recurrent = stacked(self.gates, "n")
        weights = [weight, recurrent, bias, torch.zeros_like(bias)]
        train = torch.is_grad_enabled()
        outputs, last = torch.rnn_tanh(x, state[0].unsqueeze(0), weights, True, 1, 0.0, train, False, False)
        return outputs, [last[0]], lambda: [outputs]


@dataclass
class GRUCell(Cell):
    """A GRU cell whose reset gate multiplies the state before the product with the weight.

    :attr:`gates` has the keys ``r`` reset, ``z`` update, ``c`` candidate.

    Args:
        z_scales_state: whether the update gate multiplies the previous state; False: the candidate.
    """

    z_scales_state: bool = True

    def sequence(
        self, x: Tensor, state: list[Tensor], mask: Tensor | None, masks: Masks | None = None
    ) -> tuple[Tensor, list[Tensor], Any]:
        weight, bias, recurrent = stacked(self.gates, "rzc")
        values = (weight, recurrent, bias, state[0], mask, self.z_scales_state)
        factors = None if masks is None else self._factors(masks, "rzc")
        outputs = GRUSequence.apply(x, *values) if factors is None else gru_steps(x, *values, factors)
        return outputs, [outputs[-1].clone()], lambda: [outputs]


# ---------------------------------------------------------------------- parameters
def stacked(gates: Mapping[str, Gate], order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight of the input, bias, and weight of the state, with the rows of all gates concatenated."""
    ordered = [gates[name] for name in order]
    weight = _summed([gate.input for gate in ordered], "weight")
    recurrent = _summed([gate.state for gate in ordered], "weight")
    assert weight is not None
    assert recurrent is not None
    bias = _summed([gate.bias for gate in ordered], "bias")
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias, recurrent


def _natural_order(gates: Mapping[str, Gate]) -> str:
    """Return the order of the gates' rows in the weight that they share, or a default order."""
    ranges = {name: gate.input[0] for name, gate in gates.items()}
    if len({id(module) for module, _, _ in ranges.values()}) == 1:
        return "".join(sorted(gates, key=lambda name: ranges[name][1]))
    return "ifgo"


def _summed(parts: list[list[Range]], name: str) -> Tensor | None:
    """Return the sum of each gate's parameters, with the rows of all gates concatenated; None if there are none."""
    total: Tensor | None = None
    for ranges in zip(*parts, strict=True):
        value = _joined(list(ranges), name)
        total = value if total is None else total + value
    return total


def _joined(ranges: list[Range], name: str) -> Tensor:
    """Concatenate rows of parameters; adjacent rows of one parameter are not copied."""
    merged: list[Range] = []
    for module, start, stop in ranges:
        if merged and merged[-1][0] is module and merged[-1][2] == start:
            start = merged.pop()[1]
        merged.append((module, start, stop))
    values = []
    for module, start, stop in merged:
        value = getattr(module, name)
        values.append(value if (start, stop) == (0, value.shape[0]) else value[start:stop])
    return values[0] if len(values) == 1 else torch.cat(values)


# ---------------------------------------------------------------------- recognition
def lstm_cell(output: Term, cell: Term, hidden: Term, previous: Term) -> LSTMCell | None:
    """Recognize an LSTM.

    Args:
        output, cell: expressions of output and cell of a time step.
        hidden, previous: output and cell of the previous time step.

    Returns:
        The LSTM cell, or None.
    """
    gates = {}
    for inside, squashed in _pairs(output, "product"):
        if squashed.kind == "tanh" and squashed.args[0] is cell and inside.kind == "sigmoid":
            gates["o"] = inside.args[0]
    for new, kept in _pairs(cell, "sum"):
        for gate, old in _pairs(kept, "product"):
            if old is previous and gate.kind == "sigmoid":
                gates["f"] = gate.args[0]
        for gate, candidate in _pairs(new, "product"):
            if gate.kind == "sigmoid" and candidate.kind == "tanh":
                gates["i"], gates["g"] = gate.args[0], candidate.args[0]
        if len(gates) == 4:
            break
    if len(gates) != 4:
        return None
    peepholes = {"i": previous, "f": previous, "o": cell}
    return _cell(LSTMCell, gates, dict.fromkeys(gates, hidden), peepholes, {hidden, previous})


def gru_cell(output: Term, hidden: Term) -> GRUCell | None:
    """Recognize a GRU from the expression of a time step's output; ``hidden`` is the previous output."""
    for kept, new in _pairs(output, "sum"):
        for old, old_factor in _pairs(kept, "product"):
            for candidate, new_factor in _pairs(new, "product"):
                if old is not hidden or candidate.kind != "tanh":
                    continue
                z_scales_state = old_factor.kind == "sigmoid"
                update, complement = (old_factor, new_factor) if z_scales_state else (new_factor, old_factor)
                if update.kind != "sigmoid" or not _is_complement(complement, update):
                    continue
                found = _gru(candidate.args[0], update, hidden, z_scales_state)
                if found is not None:
                    return found
    return None


def rnn_cell(output: Term, hidden: Term) -> RNNCell | None:
    """Recognize an Elman cell from the expression of a time step's output; ``hidden`` is the previous output."""
    if output.kind != "tanh":
        return None
    return _cell(RNNCell, {"n": output.args[0]}, {"n": hidden}, {}, {hidden})


def _is_complement(term: Term, other: Term) -> bool:
    """Return whether a term is ``1 - other``."""
    return term.kind == "affine" and term.args[0] is other and term.args[1:] == (-1.0, 1.0)


def _gru(candidate: Term, update: Term, hidden: Term, z_scales_state: bool) -> GRUCell | None:
    inputs = [_without_dropout(t.args[0])[0] for t in _summands(candidate) if t.kind == "linear"]
    gated = [value for value in inputs if value.kind == "product"]
    resets = [gate for value in gated for gate, old in _pairs(value, "product") if old is hidden]
    if not resets or any(r is not resets[0] for r in resets) or resets[0].kind != "sigmoid":
        return None
    gates = {"r": resets[0].args[0], "z": update.args[0], "c": candidate}
    states = {"r": hidden, "z": hidden, "c": gated[0]}
    return _cell(GRUCell, gates, states, {}, {hidden}, z_scales_state=z_scales_state)


def _cell(
    cell_type: Callable[..., Any],
    gates: Mapping[str, Term],
    states: Mapping[str, Term],
    peepholes: Mapping[str, Term],
    recurrent: set[Term],
    **options: bool,
) -> Any:
    """Create a cell.

    Args:
        cell_type: class of the cell.
        gates: name -> argument of the gate's activation function.
        states: name -> state that is multiplied by the gate's weight.
        peepholes: name -> cell that the gate's peephole multiplies.
        recurrent: all states; the input must not depend on them.
        **options: further arguments of ``cell_type``.

    Returns:
        The cell, or None if a gate is not a sum of linear functions of one input and of the state.
    """
    found: dict[str, Gate] = {}
    inputs: list[Term] = []
    for name, term in gates.items():
        gate = found[name] = Gate()
        for part in _summands(term):
            if part.kind == "linear":
                (inner, dropouts), rows = _without_dropout(part.args[0]), part.args[1:]
                of_state = inner is states[name]
                (gate.state if of_state else gate.input).append(rows)
                gate.dropouts = [*gate.dropouts, *dropouts] if of_state else [*dropouts, *gate.dropouts]
                if not of_state:
                    inputs.append(inner)
            elif part.kind == "bias":
                gate.bias.append(part.args)
            elif part.kind == "scale" and part.args[0] is peepholes.get(name) and gate.peephole is None:
                gate.peephole = part.args[1]
            else:
                return None
    counts = {(len(g.input), len(g.state), len(g.bias)) for g in found.values()}
    valid = len(counts) == 1 and all(counts.copy().pop()[:2]) and _consistent([g.dropouts for g in found.values()])
    if not valid or any(x is not inputs[0] for x in inputs) or depends_on(inputs[0], recurrent):
        return None
    return cell_type(inputs[0], found, **options)


def _without_dropout(term: Term) -> tuple[Term, list[LazyDropout]]:
    """Return the input of a dropout, and the dropout layer; for another term the term and an empty list."""
    return (term.args[0], [term.args[1]]) if term.kind == "dropped" else (term, [])


def _consistent(dropouts: list[list[LazyDropout]]) -> bool:
    """Return whether no gate has dropout, or each gate has its own dropout layers for input and state."""
    layers = {id(layer) for each in dropouts for layer in each}
    return not layers or (all(len(each) == 2 for each in dropouts) and len(layers) == 2 * len(dropouts))


def _summands(term: Term) -> tuple[Term, ...]:
    """Return the terms of a sum; for another term the term itself."""
    return term.args if term.kind == "sum" else (term,)


def _pairs(term: Term, kind: str) -> list[tuple[Term, Term]]:
    """Return both orders of the two terms of a sum or product ``kind``; an empty list for any other term."""
    if term.kind != kind or len(term.args) != 2:
        return []
    first, second = term.args
    return [(first, second), (second, first)]


def cell_of(outputs: list[Term], states: list[Term]) -> Cell | None:
    """Recognize a cell.

    Args:
        outputs: expressions of the new state, output first.
        states: expressions of the previous state, output first.

    Returns:
        The cell, or None.
    """
    if len(outputs) != len(states) or not all(isinstance(output, Term) for output in outputs):
        return None
    if len(states) == 2:
        return lstm_cell(*outputs, *states)
    return gru_cell(*outputs, *states) or rnn_cell(*outputs, *states)
