"""Modules of rnn for a sequence in one tensor: base class, SeqLSTM, SeqLSTMP."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import map_tensors
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faster import faster
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.rnn.cells import fast_lstm_of
from dpnn_bridge.modules.rnn.gated import FastLSTM
from dpnn_bridge.modules.rnn.lstm import LSTMWeights, lstm_sequence
from dpnn_bridge.modules.rnn.memory import Memory, Remembering, in_type_of, mode_of
from dpnn_bridge.modules.rnn.products import fit
from dpnn_bridge.objects import LuaObject, LuaTensor


class SequenceModule(Memory, Remembering):
    """Base class of modules for a complete sequence in one tensor.

    Args:
        input_size: number of input features, I.
        hidden_size: number of features of the hidden state, H.
        output_size: number of output features, O.
        gates: number of gates; the weight has ``hidden_size`` columns for each gate.
        batch_first: input and output have shape :math:`(N, T, *)`.
        mask_zero: set output and state to zero in time steps whose input is zero.

    Attributes:
        weight: weight :math:`(I + O, \\text{gates} \\cdot H)`; the rows of the input precede those of the output.
        bias: bias :math:`(\\text{gates} \\cdot H)`.
        initial: initial state of the last call, detached, output first; None after ``forget``.
        final: final state of the last call, output first, with its autograd graph; for example to start a decoder.
        user_prev_output: initial output of the next call only.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, gates: int, batch_first: bool, mask_zero: bool
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self.batch_first, self.mask_zero = batch_first, mask_zero
        self.weight = nn.Parameter(torch.empty(input_size + output_size, gates * hidden_size))
        self.bias = nn.Parameter(torch.empty(gates * hidden_size))
        self.initial: list[Tensor] | None = None
        self.final: list[Tensor] | None = None
        self.user_prev_output: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight with deviation :math:`1 / \\sqrt{I + H}`; set the bias to 0, but its elements O:2 O to 1."""
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.input_size + self.hidden_size))
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.bias[self.output_size : 2 * self.output_size] = 1

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        *given, x = [input] if isinstance(input, Tensor) else input
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: expected a batch of sequences with {self.input_size} features, "
                f"found shape {tuple(x.shape)}"
            )
        x = x.transpose(0, 1) if self.batch_first else x
        start = self._start(x, given)
        output, self.final = self._run(x, start)
        return output.transpose(0, 1) if self.batch_first else output

    def _run(self, x: Tensor, start: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute the outputs of all time steps, and the final state, output first."""
        raise NotImplementedError

    def _start(self, x: Tensor, given: list[Tensor]) -> list[Tensor]:
        """Return the initial state, output first.

        Each element is taken from the input, or from the attribute set by the user, or from the remembered state, or it
        is zero.

        Args:
            x: the sequence, time first.
            given: the states in the input: ``[]``, ``[h0]`` or ``[c0, h0]``.

        Raises:
            ValueError: there are more states than the module has, or a state is not :math:`(N, H)`.
        """
        names = self._state_names()
        if len(given) > len(names):
            raise ValueError(f"{type(self).__name__}: expected at most {len(names)} initial states, found {len(given)}")
        states: list[Tensor] = []
        own = list(self.initial) if self.initial is not None else [x.new_empty(0)] * len(names)
        for i, (name, size) in enumerate(zip(names, (self.output_size, self.hidden_size), strict=False)):
            if i < len(given):
                states.append(given[-1 - i])
            elif (user := getattr(self, name)) is not None:
                states.append(user)
            elif own[i].numel() == 0 or not self.remembers or self.final is None:
                states.append(x.new_zeros(x.shape[1], size))
            else:
                states.append(in_type_of(x, self.final[i].detach()))
            if states[i].shape != (x.shape[1], size):
                raise ValueError(
                    f"{type(self).__name__}: expected an initial state of shape {(x.shape[1], size)}, found "
                    f"{tuple(states[i].shape)}; call forget() when the batch size changes"
                )
        for i in range(len(given), len(names)):
            own[i] = states[i].detach()
            setattr(self, names[i], None)
        self.initial = own
        return states

    def _state_names(self) -> tuple[str, ...]:
        return ("user_prev_output",)

    def _masked(self, x: Tensor) -> Tensor | None:
        """Return whether each input row is zero, :math:`(T, N, 1)`; None without ``mask_zero``."""
        return x.square().sum(2, keepdim=True) == 0 if self.mask_zero else None

    # ------------------------------------------------------------------ memory
    def forget_own(self) -> None:
        self.initial = None

    def train(self, mode: bool = True) -> SequenceModule:
        if mode != self.training:
            self.forget_own()
        return super().train(mode)

    def _state_attributes(self) -> dict[str, Any]:
        values = {name: self.__dict__[name] for name in ("initial", "final", *self._state_names())}
        return map_tensors(Tensor.detach, values)

    class Lua(LuaClass):
        """The final state of the last call is in the last time step of ``_output`` and ``cell``."""

        scratch = (
            *("gates", "buffer1", "buffer2", "buffer3", "grad_a_buffer", "grad_c0", "grad_h0", "grad_x"),
            *("cell", "zeroMask", "next_h", "grad_next_h", "userGradPrevOutput", "userGradPrevCell", "gradPrevOutput"),
        )
        tensors = ("weight", "bias")
        #: Lua fields of output and cell: for all time steps, for the initial state, and for the state set by the user
        state_fields: ClassVar[tuple[tuple[str, str, str], ...]] = (("_output", "h0", "userPrevOutput"),)

        @classmethod
        def fill(cls, module: SequenceModule, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            module.remembering = mode_of(obj, ctx)
            final = [_full(obj.get(sequence)) for sequence, _, _ in cls.state_fields]
            if all(f is not None for f in final):
                module.final = [to_value(f)[-1].clone() for f in final]
            initial = [obj.get(start) for _, start, _ in cls.state_fields]
            if any(_full(s) is not None for s in initial):
                module.initial = [to_value(s) for s in initial]
            for attribute, (_, _, user) in zip(module._state_names(), cls.state_fields, strict=True):
                if _full(obj.get(user)) is not None:
                    setattr(module, attribute, to_value(obj[user]))

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            return super().handled(module) | {"_remember"} | {n for names in cls.state_fields for n in names}

        @classmethod
        def to_lua(cls, module: SequenceModule, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx) | {"_remember": module.remembering or "neither"}
            tensor_class = ctx.type_of(module)
            for name in cls.scratch[:8]:
                fields.setdefault(name, LuaTensor.empty(tensor_class))
            for i, (sequence, start, user) in enumerate(cls.state_fields):
                if module.final:
                    fields[sequence] = ctx.constant(module.final[i].unsqueeze(0), module)
                elif sequence != "_output":  # Torch7 creates `_output` itself
                    fields[sequence] = LuaTensor.empty(tensor_class)
                fields[start] = (
                    ctx.constant(module.initial[i], module) if module.initial else LuaTensor.empty(tensor_class)
                )
                value = getattr(module, module._state_names()[i])
                if value is not None:
                    fields[user] = ctx.constant(value, module)
            return fields


def _lstm_at_once(module: SeqLSTM, x: Tensor, start: list[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
    """Compute :meth:`SeqLSTM._run` with :func:`lstm_sequence`; return None if the tensors do not allow this."""
    (hidden, cell), projection = start, module.weight_o
    matching = fit(x, module.weight, [hidden], module.output_size) and fit(x, module.weight, [cell], module.hidden_size)
    if not matching or not x.numel():
        return None
    if projection is not None and (x.is_cuda or not fit(x, projection, [], 0)):
        return None  # on CUDA, torch.lstm runs cuDNN's kernel with a projection
    weight, recurrent = (part.t() for part in module.weight.split([module.input_size, module.output_size]))
    projection = None if projection is None else projection.t()
    weights = LSTMWeights(weight, recurrent, module.bias, "ifog", projection=projection)
    output, cell, _ = lstm_sequence(x, weights, hidden, cell, module._masked(x))
    return output, [output[-1].clone(), cell]


@lua_class("nn.SeqLSTM")
class SeqLSTM(SequenceModule):
    """Long short-term memory for a complete sequence.

    Args:
        input_size: number of input features, I.
        output_size: number of features of output and cell, O.
        batch_first: input and output have shape :math:`(N, T, *)`.
        mask_zero: set output and cell to zero in time steps whose input is zero.

    Attributes:
        weight: weight :math:`(I + O, 4 O)`; rows of the input, then of the output; columns of input gate, forget gate,
            output gate and candidate.
        bias: bias :math:`(4 O)`.
        user_prev_output, user_prev_cell: initial output and cell of the next call only.

    Shape:
        - Input: :math:`(T, N, I)`, or the list ``[h0, x]`` or ``[c0, h0, x]`` with states :math:`(N, O)`.
        - Output: :math:`(T, N, O)`.

    Examples:
        >>> SeqLSTM(3, 4)(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 2, 4])

    Lua:
        ``nn.SeqLSTM(inputsize, outputsize)``, SeqLSTM.lua

    Differs from PyTorch:
        The equations and kernels are those of ``torch.nn.LSTM``. The order of the gates differs, there is one bias,
        and the module supports masks and :meth:`remember`.

    Raises:
        ValueError: the input is not a batch of sequences, or a state has another batch size or number of features.
    """

    weight_o: Tensor | None

    def __init__(
        self, input_size: int, output_size: int, *, batch_first: bool = False, mask_zero: bool = False
    ) -> None:
        super().__init__(input_size, output_size, output_size, 4, batch_first, mask_zero)
        self.register_parameter("weight_o", None)
        self.user_prev_cell: Tensor | None = None

    def _state_names(self) -> tuple[str, ...]:
        return "user_prev_output", "user_prev_cell"

    @faster(_lstm_at_once)
    def _run(self, x: Tensor, start: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mask = self._masked(x)
        projects = self.weight_o is not None
        # torch.lstm detects a projection by its sizes; ONNX has no LSTM with a projection
        stepwise = projects and (self.hidden_size == self.output_size or torch.onnx.is_in_onnx_export())
        if mask is not None or stepwise:
            return self._run_steps(x, start, mask)
        i, f, o, g = self.weight.t().chunk(4)
        weight = torch.cat([i, f, g, o])  # PyTorch's order of the gates
        i, f, o, g = self.bias.chunk(4)
        bias = torch.cat([i, f, g, o])
        weights = [weight[:, : self.input_size], weight[:, self.input_size :], bias, torch.zeros_like(bias)]
        if self.weight_o is not None:
            weights.append(self.weight_o.t())
        weights = [w.contiguous() for w in weights]
        output, hidden, cell = torch.lstm(
            x,
            [s.unsqueeze(0).contiguous() for s in start],
            weights,
            True,
            1,
            0.0,
            torch.is_grad_enabled(),
            False,
            False,
        )
        return output, [hidden[0], cell[0]]

    def _run_steps(self, x: Tensor, start: list[Tensor], mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        projected = x @ self.weight[: self.input_size] + self.bias
        recurrent = self.weight[self.input_size :]
        output, cell = start
        outputs = []
        for t, step in enumerate(projected.unbind(0)):
            i, f, o, g = (step + output @ recurrent).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            if mask is not None:
                cell = cell.masked_fill(mask[t], 0)
            output = o.sigmoid() * cell.tanh()  # zero where the cell is zero
            if self.weight_o is not None:
                output = output @ self.weight_o
            outputs.append(output)
        return torch.stack(outputs), [output, cell]

    def to_fast_lstm(self) -> FastLSTM:
        """Return a :class:`FastLSTM`, which computes one time step, with copies of the parameters.

        As in Torch7, the FastLSTM does not mask zeros.

        Raises:
            TypeError: the module has a projection, which :class:`FastLSTM` does not support.
        """
        if self.weight_o is not None:
            raise TypeError(f"cannot convert {type(self).__name__} to FastLSTM, which does not support a projection")
        return fast_lstm_of(self.weight, self.bias, self.input_size, self.output_size)

    class Lua(SequenceModule.Lua):
        scalars = {"inputsize": "input_size", "outputsize": "output_size", "batchfirst": "batch_first"}
        scalars |= {"maskzero": "mask_zero"}
        defaults = {"batchfirst": False, "maskzero": False}
        state_fields = (*SequenceModule.Lua.state_fields, ("cell", "c0", "userPrevCell"))

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade files from before SeqLSTMP, which have no ``hiddensize``."""
            obj = super().upgrade(obj)
            return obj if obj.get("hiddensize") is not None else obj.changed(hiddensize=obj["outputsize"])


@lua_class("nn.SeqLSTMP")
class SeqLSTMP(SeqLSTM):
    """Long short-term memory for a complete sequence, with a projection of the output (PyTorch's ``proj_size``).

    Args:
        input_size: number of input features, I.
        hidden_size: number of features of the cell, H.
        output_size: number of output features, O.
        batch_first: input and output have shape :math:`(N, T, *)`.
        mask_zero: set output and cell to zero in time steps whose input is zero.

    Attributes:
        weight: weight :math:`(I + O, 4 H)`.
        bias: bias :math:`(4 H)`.
        weight_o: weight of the projection, :math:`(H, O)`.

    Shape:
        - Input: :math:`(T, N, I)`, or the list ``[h0, x]`` or ``[c0, h0, x]``.
        - Output: :math:`(T, N, O)`.

    Lua:
        ``nn.SeqLSTMP(inputsize, hiddensize, outputsize)``, SeqLSTMP.lua, which raises an error for ``c0``
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        batch_first: bool = False,
        mask_zero: bool = False,
    ) -> None:
        SequenceModule.__init__(self, input_size, hidden_size, output_size, 4, batch_first, mask_zero)
        self.user_prev_cell = None
        self.weight_o = nn.Parameter(torch.empty(hidden_size, output_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw parameters as in :class:`SequenceModule`; the projection's deviation is :math:`1 / \\sqrt{O + H}`."""
        super().reset_parameters()
        # None when the constructor of the base class calls this method
        if (weight := self._parameters.get("weight_o")) is not None:
            nn.init.normal_(weight, std=1 / math.sqrt(self.output_size + self.hidden_size))

    class Lua(SeqLSTM.Lua):
        scalars = {**SeqLSTM.Lua.scalars, "hiddensize": "hidden_size"}
        tensors = {**SequenceModule.Lua.tensors, "weightO": "weight_o"}


def _full(value: Any) -> Any:
    """Return a Lua tensor that has elements; None for any other value."""
    return value if isinstance(value, LuaTensor) and value.size else None
