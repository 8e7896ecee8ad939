"""Run modules over all time steps together, if that computes the same as one call per time step."""

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
    """A module over all time steps.

    Attributes:
        run: computes all outputs from all inputs.
        output: returns a tensor on the meta device like the output of one time step, from one like its input; None if
            unknown.
        draw: draws the random numbers of the next time step for inputs like a tensor.
    """

    run: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor | None]
    draw: Callable[[Tensor], None] | None = None


def at_once(module: nn.Module, inputs: list[Any] | Tensor) -> Any:
    """Return the outputs of a module for all time steps, computed together.

    Args:
        module: is called for one time step after the other otherwise, and is left as those calls leave it.
        inputs: one for each time step.

    Returns:
        The outputs :math:`(T, *)`, a list of them for a list; or None if that is not possible: then nothing has
        happened.
    """
    stages = _stages(module, len(inputs)) if len(inputs) else []
    x = _stacked(inputs) if stages else None
    if x is None or not _drawn(stages, x):
        return None
    outputs = reduce(lambda value, stage: stage.run(value), stages, x)
    outputs = outputs.clone() if storage_id(outputs) == storage_id(x) else outputs
    return outputs if isinstance(inputs, Tensor) else list(_Parted.apply(outputs))


class _Parted(torch.autograd.Function):
    """Copies of the slices of a tensor, which may be changed in place; their gradients are put together at once."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(step.clone() for step in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.stack(gradients)


def _stacked(inputs: list[Any] | Tensor) -> Tensor | None:
    """Return the inputs as one tensor, if they are vectors, batches of vectors or indices of one dtype."""
    if not isinstance(inputs, Tensor):
        first = inputs[0]
        kinds = {(v.shape, v.dtype, v.device) if type(v) in (Tensor, nn.Parameter) else None for v in inputs}
        if len(kinds) > 1 or None in kinds or not isinstance(first, Tensor):
            return None
        inputs = torch.stack(inputs)
    return inputs if inputs.dim() in (2, 3) and inputs.numel() else None


def _drawn(stages: list[Stage], x: Tensor) -> bool:
    """Draw random numbers in the order of one call per time step; return False if their shapes are unknown."""
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
    """A layer with dropout over all time steps."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._factors: list[Tensor] = []

    def draw(self, ones: Tensor) -> None:
        """Draw the factors of the next time step, for inputs of the shape of ``ones``."""
        self._factors.append(self._module(ones))

    def __call__(self, value: Tensor) -> Tensor:
        return value * torch.stack(self._factors)


def _stages(module: nn.Module, steps: int) -> list[Stage]:
    """Return what computes the outputs for all time steps, in order; nothing if that is unknown."""
    if not is_bare(module):
        return []
    forward = type(module).forward
    if isinstance(module, Recursor) and forward is Recursor.forward:
        inner = _stages(module.module, steps)
        return [*inner, Stage(partial(_finished, module), lambda value: value)] if inner else []
    if isinstance(module, nn.Sequential) and forward is nn.Sequential.forward:
        members = [_stages(member, steps) for member in module]
        return [stage for stages in members for stage in stages] if all(members) else []
    if isinstance(module, StepModule) and forward in (LSTM.forward, GRU.forward):
        found = recognized(module) if _goes_on_for(module, steps) else None
        if found is None:
            return []
        run = _CellSteps(module, found)
        return [Stage(run, found.cell.output, run.draw if found.cell.dropouts else None)]
    if is_random(module):
        layer = _Dropout(module)
        return [Stage(layer, lambda value: value, layer.draw)]
    return [Stage(partial(on_all_rows, module), partial(output_of, module))] if is_row_wise(module) else []


def _finished(module: Recursor, outputs: Tensor) -> Tensor:
    """Leave a Recursor as it is after all time steps; return the outputs."""
    module.pass_steps(outputs.shape[0], [outputs], dropouts_in(module))
    return outputs


# ---------------------------------------------------------------------- step modules
class Recognized(NamedTuple):
    """The cell that a step module computes, the mask around it, and the layers with dropout in the order of calls."""

    cell: Cell
    mask: MaskZero | None
    dropouts: list[LazyDropout]


def recognized(module: StepModule) -> Recognized | None:
    """Return what a step module computes; None if that is no known cell."""
    return _recognized(module.recurrent_module, module.state_names)


@while_unchanged
def _recognized(inner: nn.Module, state_names: tuple[str, ...]) -> Recognized | None:
    mask, dropouts = None, [m for m in inner.modules() if isinstance(m, LazyDropout) and m.p]
    if isinstance(inner, MaskZero) and type(inner).forward in (MaskZero.forward, TrimZero.forward) and is_bare(inner):
        inner, mask = inner.module, inner
        if mask.input_dims != 1:
            return None
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
    """Return whether a layer inside counts dimensions from the first, which is not the batch of a single sample."""
    return any(
        isinstance(m, (SplitTable, JoinTable, Narrow)) and m.dimension > 0 and getattr(m, "n_input_dims", None) is None
        for m in module.modules()
    )


def _goes_on_for(module: AbstractRecurrent, steps: int) -> bool:
    """Return whether the state is not detached within the next time steps."""
    return module.step - module._run_start + steps <= module.rho


class _CellSteps:
    """A step module over all time steps.

    Args:
        module: the step module.
        found: what it computes.
    """

    def __init__(self, module: StepModule, found: Recognized) -> None:
        self._module, self._found = module, found
        self._masks: dict[LazyDropout, list[Tensor]] = {layer: [] for layer in found.cell.dropouts}

    def draw(self, inputs: Tensor) -> None:
        """Draw the masks of the next time step, for inputs of the shape :math:`(N, I)` of ``inputs``."""
        states = inputs.new_empty(self._found.cell.output(inputs).shape)
        of_inputs = {id(gate.dropouts[0]) for gate in self._found.cell.gates.values()}
        for layer in self._found.dropouts:
            masks = self._masks[layer]
            layer.step = self._module.step + len(masks)
            masks.append(layer._mask(inputs if id(layer) in of_inputs else states))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs for inputs :math:`(T, N, I)` or :math:`(T, I)`."""
        (cell, mask, dropouts), module = self._found, self._module
        previous = module._state_before(x[0])
        state = previous if isinstance(previous, list) else [previous]
        single = x.dim() == 2
        batch = x.unsqueeze(1) if single else x
        state = [s.unsqueeze(0) for s in state] if single else state
        zero = None if mask is None else zero_rows(batch.flatten(0, 1), 1).view(*batch.shape[:2], 1)
        leaks = isinstance(mask, TrimZero) and zero is not None and bool(zero.all(1).any())  # a step without other rows
        if leaks or not cell.takes(batch, state) or (single and _counts_dimensions(module)):
            return torch.stack([module(step) for step in x])
        outputs, last, states = cell.sequence(batch, state, zero, self._masks or None)

        def of_step(*values: Tensor) -> Any:
            each = [v.squeeze(0) for v in values] if single else list(values)
            return each if len(module.state_names) > 1 else each[0]

        module.pass_steps(x.shape[0], [outputs, *last[1:]], dropouts)
        module.keep(of_step(*last), lambda: [of_step(*values) for values in zip(*states(), strict=True)], x.shape[0])
        return outputs.squeeze(1) if single else outputs
