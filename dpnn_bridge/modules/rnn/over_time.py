"""Run modules on all time steps together, if the result equals that of one call per time step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.modules.nn.reshape import Narrow
from dpnn_bridge.modules.nn.table import JoinTable, SplitTable
from dpnn_bridge.modules.rnn.algebra import Term, UnknownModuleError, expression
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.gated import GRU, LSTM, StepModule
from dpnn_bridge.modules.rnn.mask import MaskZero, TrimZero, zero_rows
from dpnn_bridge.modules.rnn.recognition import Cell, RNNCell, cell_of
from dpnn_bridge.modules.rnn.recurrence import Recursor
from dpnn_bridge.modules.rnn.recurrent import AbstractRecurrent, dropouts_in
from dpnn_bridge.modules.rnn.row_wise import is_bare, is_random, is_row_wise, on_all_rows, output_of
from dpnn_bridge.modules.rnn.structure import while_unchanged


class Stage(NamedTuple):
    """A module that runs on all time steps.

    Attributes:
        run: computes all outputs from all inputs.
        output: maps a meta tensor like the input of one time step to a meta tensor like the output; returns None if the
            output's shape is unknown.
        draw: draws the random numbers of the next time step, for inputs of the shape of its argument; None: the module
            draws no random numbers.
    """

    run: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor | None]
    draw: Callable[[Tensor], None] | None = None


def at_once(module: nn.Module, inputs: list[Any] | Tensor) -> Any:
    """Compute the outputs of a module for all time steps together.

    Args:
        module: the module; afterwards its state is that after one call per time step.
        inputs: input of each time step, as a list or as a tensor :math:`(T, *)`.

    Returns:
        The outputs, as a list or as a tensor :math:`(T, *)`, like ``inputs``; or None if the steps cannot be computed
        together. Then the module has not run.
    """
    stages = _stages(module, len(inputs)) if len(inputs) else []
    cells = [id(stage.run.module) for stage in stages if isinstance(stage.run, _CellSteps)]
    repeated = len({*cells}) < len(cells)  # a step module runs twice per time step
    x = _stacked(inputs) if stages and not repeated else None
    if x is None or not _drawn(stages, x):
        return None
    outputs = reduce(lambda value, stage: stage.run(value), stages, x)
    outputs = outputs.clone() if storage_id(outputs) == storage_id(x) else outputs
    return outputs if isinstance(inputs, Tensor) else list(_Unstacked.apply(outputs))


class _Unstacked(torch.autograd.Function):
    """Copies the slices of a tensor, so that they can be changed in place; stacks their gradients in one operation."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(step.clone() for step in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.stack(gradients)


def _stacked(inputs: list[Any] | Tensor) -> Tensor | None:
    """Stack the inputs to one tensor; return None unless they are vectors, batches of vectors or indices."""
    if not isinstance(inputs, Tensor):
        first = inputs[0]
        types = {(v.shape, v.dtype, v.device) if type(v) in (Tensor, nn.Parameter) else None for v in inputs}
        if len(types) > 1 or None in types or not isinstance(first, Tensor):
            return None
        inputs = torch.stack(inputs)
    return inputs if inputs.dim() in (2, 3) and inputs.numel() else None


def _drawn(stages: list[Stage], x: Tensor) -> bool:
    """Draw the random numbers of all stages in the order of one call per time step.

    Returns:
        False if the shape of a stage's input is unknown; then nothing was drawn.
    """
    if not any(stage.draw for stage in stages):
        return True
    draws: list[Callable[[], None]] = []
    value: Tensor | None = torch.empty_like(x[0], device="meta")
    for stage in stages:
        if stage.draw is not None:
            if value is None or (isinstance(stage.run, _CellSteps) and value.dim() != 2):
                return False
            draws.append(partial(stage.draw, torch.ones_like(value, device=x.device)))
        value = None if value is None else stage.output(value)
    with torch.no_grad():
        for _ in x:
            for draw in draws:
                draw()
    return True


class _Dropout:
    """Runs a dropout layer on all time steps."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._factors: list[Tensor] = []

    def draw(self, ones: Tensor) -> None:
        """Draw the factors of the next time step, for inputs of the shape of ``ones``."""
        self._factors.append(self._module(ones))

    def __call__(self, value: Tensor) -> Tensor:
        return value * torch.stack(self._factors)


def _stages(module: nn.Module, steps: int) -> list[Stage]:
    """Return the stages that compute a module for all time steps, in order; empty if this is not possible."""
    if not is_bare(module):
        return []
    forward = type(module).forward
    if isinstance(module, Recursor) and forward is Recursor.forward:
        inner = _stages(module.module, steps)
        return [*inner, Stage(partial(_finished, module), lambda value: value)] if inner else []
    if isinstance(module, nn.Sequential) and forward is nn.Sequential.forward:
        children = [_stages(child, steps) for child in module]
        return [stage for stages in children for stage in stages] if all(children) else []
    if isinstance(module, StepModule) and forward in (LSTM.forward, GRU.forward):
        found = recognized(module) if _keeps_graph(module, steps) else None
        if found is None:
            return []
        run = _CellSteps(module, found)
        return [Stage(run, found.cell.output, run.draw if found.cell.dropouts else None)]
    if is_random(module):
        layer = _Dropout(module)
        return [Stage(layer, lambda value: value, layer.draw)]
    return [Stage(partial(on_all_rows, module), partial(output_of, module))] if is_row_wise(module) else []


def _finished(module: Recursor, outputs: Tensor) -> Tensor:
    """Set a Recursor to its state after all time steps; return the outputs."""
    module.pass_steps(outputs.shape[0], [outputs], dropouts_in(module))
    return outputs


# ---------------------------------------------------------------------- step modules
class Recognized(NamedTuple):
    """A recurrent cell that a step module computes.

    Attributes:
        cell: the cell.
        mask: class of the MaskZero or TrimZero around the cell, or None; not the module, which is the key of the cache
            and would never be freed.
        dropouts: the dropout layers in execution order.
    """

    cell: Cell
    mask: type[MaskZero] | None
    dropouts: list[LazyDropout]


def recognized(module: StepModule) -> Recognized | None:
    """Return the recurrent cell that a step module computes; None if it is not a known cell."""
    return _recognized(module.recurrent_module, module.state_names)


@while_unchanged
def _recognized(inner: nn.Module, state_names: tuple[str, ...]) -> Recognized | None:
    mask, dropouts = None, [m for m in inner.modules() if isinstance(m, LazyDropout) and m.p]
    if isinstance(inner, MaskZero) and type(inner).forward in (MaskZero.forward, TrimZero.forward) and is_bare(inner):
        if inner.input_dims != 1:
            return None
        inner, mask = inner.module, type(inner)
    x, *states = (Term("input", (name,)) for name in ("x", *state_names))
    try:
        outputs = expression(inner, [x, *states])
    except UnknownModuleError:
        return None
    cell = cell_of(outputs if isinstance(outputs, list) else [outputs], states)
    if cell is None or cell.input is not x or (mask is not None and isinstance(cell, RNNCell)):
        return None
    return Recognized(cell, mask, dropouts)


def _counts_dimensions(module: nn.Module) -> bool:
    """Return whether a layer in ``module`` counts dimensions from a batch dimension, which a single sample lacks."""
    return any(
        isinstance(m, (SplitTable, JoinTable, Narrow)) and m.dimension > 0 and getattr(m, "n_input_dims", None) is None
        for m in module.modules()
    )


def _keeps_graph(module: AbstractRecurrent, steps: int) -> bool:
    """Return whether the module does not detach its state within the next ``steps`` time steps."""
    return module.step - module._run_start + steps <= module.rho


class _CellSteps:
    """Runs a step module on all time steps.

    Args:
        module: the step module.
        found: the cell that the module computes.
    """

    def __init__(self, module: StepModule, found: Recognized) -> None:
        self.module, self._found = module, found
        self._masks: dict[LazyDropout, list[Tensor]] = {layer: [] for layer in found.cell.dropouts}

    def draw(self, inputs: Tensor) -> None:
        """Draw the dropout masks of the next time step, for inputs of the shape :math:`(N, I)` of ``inputs``."""
        states = inputs.new_empty(self._found.cell.output(inputs).shape)
        of_inputs = {id(gate.dropouts[0]) for gate in self._found.cell.gates.values()}
        for layer in self._found.dropouts:
            masks = self._masks[layer]
            layer.step = self.module.step + len(masks)
            masks.append(layer._mask(inputs if id(layer) in of_inputs else states))

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the outputs for inputs :math:`(T, N, I)` or :math:`(T, I)`."""
        (cell, mask, dropouts), module = self._found, self.module
        previous = module._state_before(x[0])
        state = previous if isinstance(previous, list) else [previous]
        single = x.dim() == 2
        batch = x.unsqueeze(1) if single else x
        state = [s.unsqueeze(0) for s in state] if single else state
        zero = None if mask is None else zero_rows(batch.flatten(0, 1), 1).view(*batch.shape[:2], 1)
        # TrimZero has a fault in time steps in which all rows are masked
        leaks = mask is not None and issubclass(mask, TrimZero) and zero is not None and bool(zero.all(1).any())
        if leaks or not cell.accepts(batch, state) or (single and _counts_dimensions(module)):
            return torch.stack([module(step) for step in x])
        outputs, last, states = cell.sequence(batch, state, zero, self._masks or None)

        several = len(module.state_names) > 1

        def state_of(*values: Tensor) -> Any:
            elements = [v.squeeze(0) for v in values] if single else list(values)
            return elements if several else elements[0]

        module.pass_steps(x.shape[0], [outputs, *last[1:]], dropouts)
        module.keep(state_of(*last), lambda: [state_of(*values) for values in zip(*states(), strict=True)], x.shape[0])
        return outputs.squeeze(1) if single else outputs
