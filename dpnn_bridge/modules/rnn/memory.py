"""Control the state that recurrent modules keep between calls: forget, remember, detach, hidden states."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpnn_bridge.base.display import described
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.compare.nested import first_tensor, map_tensors
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.fields import submodules
from dpnn_bridge.conversion.modes import restoring_modes
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.structure import modules_in
from dpnn_bridge.objects import LuaObject

#: arguments of ``remember``: the modes in which a call starts from the final state of the previous call
MODES = ("both", "eval", "train", "neither")


class Memory(nn.Module):
    """Base class of modules that keep a state between calls; subclasses implement the methods for their own state."""

    #: a tracer would store its proxies as the state
    fx_leaf = True

    def forget(self) -> None:
        """Reset this module and its submodules to the start of a sequence."""
        forget(self)

    def forget_own(self) -> None:
        """Reset the state of this module, but not of its submodules."""

    def detach_own(self) -> None:
        """Detach the state of this module, but not of its submodules."""

    def _state_attributes(self) -> dict[str, Any]:
        """Return the attributes that contain the state, with detached tensors."""
        return {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        state = self._state_attributes()  # before the cast of the parameters, from which earlier states are computed
        super()._apply(fn, recurse)
        self.__dict__.update(map_tensors(fn, state))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for copies and pickles, with detached states."""
        return {**self.__dict__, **self._state_attributes()}


def mode_of(obj: LuaObject, ctx: TorchContext) -> str | None:
    """Return the mode of ``remember`` in a file; None if it was never called.

    Raises:
        ConversionError: it is none of :data:`MODES`.
    """
    mode = obj.get("_remember")
    if mode is not None and (not isinstance(mode, str) or mode not in MODES):
        raise ctx.error(f"expected _remember to be one of {', '.join(MODES)}, found {described(mode)}", obj)
    return mode


class Remembering:
    """Base class of modules for complete sequences that can continue from the previous sequence.

    Attributes:
        remembering: one of :data:`MODES`, or None if :meth:`remember` was never called.
    """

    remembering: str | None = None
    training: bool

    def remember(self, mode: str = "both") -> None:
        """Set whether a call starts from the final state of the previous call.

        Args:
            mode: ``"both"`` (always), ``"train"`` or ``"eval"`` (only in this mode of the module), or ``"neither"``.

        Raises:
            ValueError: ``mode`` is not one of these.
        """
        if mode not in MODES:
            raise ValueError(f"remember: expected one of {', '.join(MODES)}, found {mode!r}")
        self.remembering = mode

    @property
    def remembers(self) -> bool:
        """Whether the next call starts from the final state of the previous call."""
        return self.remembering in ("both", "train" if self.training else "eval")


def in_type_of(input: Any, state: Any) -> Any:
    """Convert a stored state to the dtype of the next input, unless the state has a higher precision.

    Under ``torch.autocast``, the final state of a call has a lower precision; the next call may run without autocast.
    """
    dtype = first_tensor(input).dtype
    if not dtype.is_floating_point:
        return state

    def widened(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if torch.promote_types(tensor.dtype, dtype) == dtype else tensor

    return map_tensors(widened, state)


def forget(module: nn.Module) -> None:
    """Reset every stateful module in ``module`` to the start of a sequence: call its ``forget_own``.

    In training mode, a state set with :func:`set_hidden_state` is also removed. In evaluation mode it is kept, as in
    Torch7.

    Lua:
        ``module:forget()``, rnn's Module.lua
    """
    for forget_own in _methods(module):
        forget_own()


def _methods(module: nn.Module) -> list[Callable[[], None]]:
    """Return the methods ``forget_own`` of the modules in a module."""
    return [m.forget_own for m in modules_in(module) if hasattr(type(m), "forget_own")]  # type: ignore[misc]


def at_sequence_start(module: nn.Module) -> nn.Module:
    """Return a copy at the start of its first sequence, without states set with :func:`set_hidden_state`."""
    copy = copied(module)
    with restoring_modes(copy):
        for m in copy.modules():
            m.training = True  # in evaluation mode, forget would keep the states that the user set
            if isinstance(m, LazyDropout):
                m.masks, m.stale = {}, set()
        for forget_own in _methods(copy):
            with suppress(LuaBridgeError):  # a method of a user's layer in Lua, which Torch7 would not call here
                forget_own()
    return copy


def detach(module: nn.Module) -> None:
    """Detach the states of all recurrent modules in ``module``."""
    for m in modules_in(module):
        if isinstance(m, Memory):
            m.detach_own()


def remember(module: nn.Module, mode: Literal["both", "eval", "train", "neither"] = "both") -> None:
    """Set whether sequence modules in ``module`` start from the final state of their previous call.

    Args:
        module: any module; only the outermost sequence modules in it are set.
        mode: ``"both"`` (always), ``"train"`` or ``"eval"`` (only in this mode of the module), or ``"neither"``.

    Raises:
        ValueError: ``mode`` is not one of these.

    Lua:
        ``module:remember(mode)``, rnn's Module.lua and AbstractSequencer.lua
    """
    if isinstance(module, Remembering):
        module.remember(mode)
    else:
        for child in module.children():
            remember(child, mode)


def max_bptt_step(module: nn.Module, rho: int) -> None:
    """Set the maximum number of time steps through which gradients flow back, in every step module in ``module``.

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
    """Return the hidden state after time step ``step``; 0 is the initial state, None the latest.

    Returns:
        ``[output, cell]`` for an LSTM; the output for a GRU; ``[output, states of its module]`` for a Recurrence. For
        any other module the list of its submodules' states, or None if it has no submodules.

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
        step: number of the time step; 0: the initial state, None: the latest step.
        state: state with the structure of the result of :func:`get_hidden_state`; gradients flow into its tensors.

    Raises:
        TypeError: the state of a module that is not recurrent is a tensor.

    Lua:
        ``module:setHiddenState(step, state)``, rnn's Module.lua
    """
    own = getattr(module, "set_hidden_state", None)
    if own is not None:
        own(step, state)
        return
    if isinstance(state, Tensor):
        raise TypeError(f"set_hidden_state: expected a list of states for a {type(module).__name__}, found a tensor")
    for child, part in zip(submodules(module), state or [], strict=False):
        set_hidden_state(child, step, part)
