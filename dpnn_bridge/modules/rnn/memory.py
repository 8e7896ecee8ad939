"""Control the state that recurrent modules keep between calls: forget, remember, detach, hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.memory import copied
from dpnn_bridge.compare.nested import first_tensor, map_tensors
from dpnn_bridge.conversion.fields import submodules
from dpnn_bridge.conversion.modes import restoring_modes
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.structure import modules_in

#: arguments of ``remember``: the modes in which a call starts from the state of the last call
MODES = ("both", "eval", "train", "neither")


class Memory(nn.Module):
    """A module that keeps a state between calls. Each class says what becomes of its own state, not its members'."""

    #: a tracer would keep what it records as the state
    fx_leaf = True

    def forget(self) -> None:
        """Go back to the start of a sequence, members included."""
        forget(self)

    def forget_own(self) -> None:
        """Drop the state of this module alone."""

    def detach_own(self) -> None:
        """Let no gradient flow into what came before, in this module alone."""

    def _carried(self, fn: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return the attributes with tensors of the state, each of them detached and given to ``fn``."""
        return {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        super()._apply(fn, recurse)
        self.__dict__.update(self._carried(fn))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copy the state without its autograd graph, for copies and pickles."""
        return {**self.__dict__, **self._carried(lambda t: t)}


class Remembering:
    """A module that takes whole sequences and may continue the last one.

    Attributes:
        remembering: one of :data:`MODES`, or None if nothing was ever set.
    """

    remembering: str | None = None
    training: bool

    def remember(self, mode: str = "both") -> None:
        """Set when a call starts from the state that the last one reached.

        Args:
            mode: ``"both"``, ``"train"``, ``"eval"`` (only in training or evaluation) or ``"neither"``.
        """
        if mode not in MODES:
            raise ValueError(f"remember: expected one of {', '.join(MODES)}, found {mode!r}")
        self.remembering = mode

    @property
    def remembers(self) -> bool:
        """Whether the next call starts from the state that the last one reached."""
        return self.remembering in ("both", "train" if self.training else "eval")


def in_type_of(input: Any, state: Any) -> Any:
    """Return a stored state in the dtype of the next input, unless the state has a higher precision.

    Under ``torch.autocast`` a module leaves a state of lower precision, and the next call may be a plain one.
    """
    kind = first_tensor(input).dtype
    if not kind.is_floating_point:
        return state

    def widened(tensor: Tensor) -> Tensor:
        return tensor.to(kind) if torch.promote_types(tensor.dtype, kind) == kind else tensor

    return map_tensors(widened, state)


def forget(module: nn.Module) -> None:
    """Reset every stateful module in ``module`` to the start of a sequence, with its ``forget_own``.

    In training mode a state given by :func:`set_hidden_state` is dropped as well; in evaluation mode it stays, as in
    Torch7.

    Lua:
        ``module:forget()``, rnn's Module.lua
    """
    for m in modules_in(module):
        if (own := getattr(type(m), "forget_own", None)) is not None:
            own(m)


def at_sequence_start(module: nn.Module) -> nn.Module:
    """Return a copy at the start of its first sequence, also without states given by :func:`set_hidden_state`."""
    copy = copied(module)
    with restoring_modes(copy):
        for m in copy.modules():
            m.training = True  # evaluation mode would keep given states
            if isinstance(m, LazyDropout):
                m.masks, m.stale = {}, set()
        forget(copy)
    return copy


def detach(module: nn.Module) -> None:
    """Keep the states of all recurrent modules in ``module`` but let no gradient flow into what came before."""
    for m in modules_in(module):
        if isinstance(m, Memory):
            m.detach_own()


def remember(module: nn.Module, mode: Literal["both", "eval", "train", "neither"] = "both") -> None:
    """Set whether sequence modules in ``module`` start from the state that their last call reached.

    Args:
        module: any module; the outermost sequence modules in it are set, not those inside them.
        mode: ``"both"``, ``"train"``, ``"eval"`` (only in training or evaluation) or ``"neither"``.

    Lua:
        ``module:remember(mode)``, rnn's Module.lua and AbstractSequencer.lua
    """
    if isinstance(module, Remembering):
        module.remember(mode)
    else:
        for child in module.children():
            remember(child, mode)


def max_bptt_step(module: nn.Module, rho: int) -> None:
    """Set through how many time steps gradients flow back in every step module in ``module``.

    Lua:
        ``module:maxBPTTstep(rho)``, rnn's Module.lua
    """
    own = getattr(module, "max_bptt_step", None)
    if own is not None:
        own(rho)
    else:
        for child in module.children():
            max_bptt_step(child, rho)


def get_hidden_state(module: nn.Module, step: int | None = None) -> Any:
    """Return the hidden state after time step ``step``; 0 is the state at the start, None the latest.

    Returns:
        What the module's class says: ``[output, cell]`` for an LSTM, the output for a GRU, ``[output, states of the
        members]`` for a Recurrence; for any other module the list of its members' states, None without members.

    Lua:
        ``module:getHiddenState(step)``, rnn's Module.lua
    """
    own = getattr(module, "get_hidden_state", None)
    if own is not None:
        return own(step)
    children = submodules(module)
    return [get_hidden_state(child, step) for child in children] if children else None


def set_hidden_state(module: nn.Module, step: int | None, state: Any) -> None:
    """Replace the hidden state after time step ``step``, so that the next step continues from it.

    Args:
        module: any module.
        step: 0 before the first step, None for the latest.
        state: structured as :func:`get_hidden_state` returns it; gradients flow into its tensors.

    Lua:
        ``module:setHiddenState(step, state)``, rnn's Module.lua
    """
    own = getattr(module, "set_hidden_state", None)
    if own is not None:
        own(step, state)
        return
    for child, part in zip(submodules(module), state or [], strict=False):
        set_hidden_state(child, step, part)
