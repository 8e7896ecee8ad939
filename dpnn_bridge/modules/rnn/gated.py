"""Gated step modules of rnn: LSTM, FastLSTM, GRU, MuFuRu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import first_tensor
from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.rnn.recurrent import AbstractRecurrent, state_entry
from dpnn_bridge.objects import LuaObject, LuaTable


class StepModule(AbstractRecurrent):
    """Base class of step modules that wrap a module with input ``[input, state]``.

    Args:
        recurrent_module: computes one time step.
        rho: maximum number of time steps through which gradients flow back.
        input_size, output_size: numbers of features, printed by ``repr``; ``output_size`` is also the size of the
            initial state.

    Attributes:
        user_prev_output: initial output of every sequence; None: zeros.
    """

    #: names of the elements of the state
    state_names: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(
        self,
        recurrent_module: nn.Module,
        *,
        rho: int = 9999,
        input_size: int | None = None,
        output_size: int | None = None,
    ) -> None:
        super().__init__(rho)
        self.recurrent_module = recurrent_module
        self.input_size, self.output_size = input_size, output_size
        self.user_prev_output: Tensor | None = None

    def _state_before(self, input: Tensor) -> Any:
        state = super()._state_before(input)
        output = first_tensor(state)
        if output.dim() == input.dim() and output.shape[:-1] != input.shape[:-1]:
            raise ValueError(
                f"{type(self).__name__}: the state of shape {tuple(output.shape)} and the input of shape "
                f"{tuple(input.shape)} have different batch sizes; call forget() when the batch size changes"
            )
        return state

    def _zeros(self, input: Tensor) -> Tensor:
        assert self.output_size is not None
        return input.new_zeros(*input.shape[:-1], self.output_size)

    class Lua(AbstractRecurrent.Lua):
        scalars = {"rho": "rho", "inputSize": "input_size", "outputSize": "output_size"}
        defaults = {"rho": 9999}

        @classmethod
        def to_lua(cls, module: StepModule, ctx: LuaContext) -> dict[str, Any]:
            fields = {"cells": LuaTable(), "gradCells": LuaTable()} | super().to_lua(module, ctx)
            return fields | {"zeroTensor": cls.zeros_to_lua(module, ctx)}


@lua_class("nn.GRU")
class GRU(StepModule):
    """Gated recurrent unit, one time step per call.

    The reset gate multiplies the state before the product: the candidate is
    :math:`\\tanh(W_c x + b_c + U_c (r \\odot h))`, and the new state is
    :math:`(1 - z) \\odot \\text{candidate} + z \\odot h`.

    Args:
        recurrent_module: maps ``[input, h]`` to the new ``h``.
        rho: maximum number of time steps through which gradients flow back.
        input_size, output_size: numbers of features.

    Shape:
        - Input: :math:`(N, I)` or :math:`(I)`.
        - Output: :math:`(N, O)` or :math:`(O)`.

    Lua:
        ``nn.GRU(inputSize, outputSize, rho, p, mono)``, GRU.lua

    Differs from PyTorch:
        ``torch.nn.GRU`` applies the reset gate after the product with the state, and processes complete sequences.
    """

    def forward(self, input: Tensor) -> Tensor:
        output = self.recurrent_module([input, self._previous(input)])
        return self._advance(output, output)

    def _initial(self, input: Tensor) -> Tensor:
        if self.user_prev_output is not None:
            return self.user_prev_output
        return self.states[0] if 0 in self.states else self._zeros(input)

    def migrate(self, parameters: Sequence[Tensor]) -> None:
        """Copy the parameters of a GRU without dropout, whose gates share matrices, to this GRU with dropout.

        Args:
            parameters: the six parameters of the GRU without dropout. A GRU with dropout has nine.

        Raises:
            ValueError: ``parameters`` are not six, or this GRU does not have nine parameters.
        """
        own = list(self.parameters())
        if len(parameters) != 6 or len(own) != 9:
            raise ValueError(
                f"migrate: expected 6 parameters for a GRU with 9, found {len(parameters)} for a GRU with {len(own)}"
            )
        (wr, wz), (br, bz), (ur, uz) = (p.chunk(2) for p in parameters[:3])
        with torch.no_grad():
            for target, value in zip(own, [wr, br, wz, bz, ur, uz, *parameters[3:]], strict=True):
                target.copy_(value)


@lua_class("nn.MuFuRu")
class MuFuRu(GRU):
    """Multi-function recurrent unit: a softmax per feature mixes operations on the previous state and a feature vector.

    Args:
        recurrent_module: maps ``[input, h]`` to the new ``h``.
        rho: maximum number of time steps through which gradients flow back.
        input_size, output_size: numbers of features.

    Shape:
        - Input: :math:`(N, I)`.
        - Output: :math:`(N, O)`.

    Lua:
        ``nn.MuFuRu(inputSize, outputSize, ops, rho)``, Mufuru.lua
    """


@lua_class("nn.LSTM")
class LSTM(StepModule):
    """Long short-term memory with peepholes, one time step per call.

    Args:
        recurrent_module: maps ``[input, h, c]`` to the new ``[h, c]``.
        rho: maximum number of time steps through which gradients flow back.
        input_size, output_size: numbers of features.

    Attributes:
        user_prev_output, user_prev_cell: initial output and cell of every sequence; None: zeros.

    Shape:
        - Input: :math:`(N, I)` or :math:`(I)`.
        - Output: :math:`(N, O)` or :math:`(O)`.

    Lua:
        ``nn.LSTM(inputSize, outputSize, rho, cell2gate, p, mono)``, LSTM.lua

    Differs from PyTorch:
        ``torch.nn.LSTM`` has no peepholes and processes complete sequences.
    """

    state_names = ("output", "cell")

    def __init__(self, recurrent_module: nn.Module, **arguments: Any) -> None:
        super().__init__(recurrent_module, **arguments)
        self.user_prev_cell: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        output, cell = self.recurrent_module([input, *self._previous(input)])
        return self._advance(output, [output, cell])

    def _initial(self, input: Tensor) -> list[Tensor]:
        given = [self.user_prev_output, self.user_prev_cell]
        stored = self.states.get(0, [None, None])
        values = [g if g is not None else s for g, s in zip(given, stored, strict=True)]
        return [self._zeros(input) if v is None else v for v in values]

    class Lua(StepModule.Lua):
        @classmethod
        def state_from_lua(cls, obj: LuaObject, step: int) -> Any:
            state = [state_entry(obj, "outputs", step), state_entry(obj, "cells", step)]
            return None if all(s is None for s in state) else state

        @classmethod
        def state_to_lua(cls, state: Any) -> dict[str, Any]:
            return {"outputs": state[0], "cells": state[1]}


@lua_class("nn.FastLSTM")
class FastLSTM(LSTM):
    """Long short-term memory without peepholes, one time step per call.

    Args:
        recurrent_module: maps ``[input, h, c]`` to the new ``[h, c]``.
        rho: maximum number of time steps through which gradients flow back.
        input_size, output_size: numbers of features.

    Shape:
        - Input: :math:`(N, I)` or :math:`(I)`.
        - Output: :math:`(N, O)` or :math:`(O)`.

    Lua:
        ``nn.FastLSTM(inputSize, outputSize, rho, eps, momentum, affine, p, mono)``, FastLSTM.lua
    """
