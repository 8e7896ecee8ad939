"""Recurrent layers of torch-rnn, also used by densecap, and torch-rnn's language model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, WithoutParameters
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor


def over_time(
    modules: Iterable[nn.Module], input: Tensor, joining: Collection[int], parting: Collection[int]
) -> Tensor:
    """Run modules in order; those at ``joining`` merge batch and time, those at ``parting`` separate them again."""
    lead: torch.Size | None = None
    for i, module in enumerate(modules):
        if i in joining:
            lead = input.shape[:2]
            input = input.flatten(0, 1)
        elif i in parting and lead is not None:
            input = input.unflatten(0, lead)
        else:
            input = module(input)
    return input


def positions(modules: Collection[LuaObject], views: Iterable[LuaObject]) -> list[int]:
    """Return the positions of the ``nn.View`` objects whose size follows the input."""
    ids = [id(m) for m in modules]
    return [ids.index(id(view)) for view in views]


class SequenceRNN(nn.Module):
    """Base of :class:`LSTM` and :class:`VanillaRNN`: one weight, one bias, states that may outlast a call.

    Args:
        input_dim: size D of the inputs.
        hidden_dim: size H of the states.
        remember_states: start from the last states of the previous call.

    Attributes:
        weight: :math:`(D + H, gates H)`, rows of the input first.
        bias: :math:`(gates H)`.
        last: last states, a buffer of shape :math:`(states, N, H)`, or None.
    """

    gates = 1
    states = 1
    last: Tensor | None

    def __init__(self, input_dim: int, hidden_dim: int, remember_states: bool = False, device: Any = None) -> None:
        super().__init__()
        self.input_dim, self.hidden_dim, self.remember_states = input_dim, hidden_dim, remember_states
        self.weight = nn.Parameter(torch.empty(input_dim + hidden_dim, self.gates * hidden_dim, device=device))
        self.bias = nn.Parameter(torch.empty(self.gates * hidden_dim, device=device))
        self.register_buffer("last", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight as torch-rnn does."""
        nn.init.normal_(self.weight, std=(self.input_dim + self.hidden_dim) ** -0.5)
        nn.init.zeros_(self.bias)

    def reset_states(self) -> None:
        """Forget the last states, as :func:`dpnn_bridge.memory.forget` does."""
        self.last = None

    forget_own = reset_states

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        *given, x = input if isinstance(input, (list, tuple)) else [input]
        zeros = x.new_zeros(x.shape[0], self.hidden_dim)
        initial = [zeros] * self.states
        if self.remember_states and self.last is not None:
            if self.last.shape[1] != x.shape[0]:
                raise ValueError(
                    f"the stored states have a batch size of {self.last.shape[1]}, the input of {x.shape[0]}; "
                    "call reset_states() first"
                )
            initial = list(self.last)
        initial[self.states - len(given) :] = given
        output, last = self._run(x, [state.unsqueeze(0) for state in initial])
        if self.remember_states:
            self.last = last.detach().to(self.weight.dtype)  # under autocast it is of another
        return output

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the outputs (N, T, H) and last states (states, N, H) from initial states (1, N, H)."""
        raise NotImplementedError

    def _weights(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """Return torch's four tensors for a layer."""
        w, u = weight.t().split([self.input_dim, self.hidden_dim], 1)
        return [w.contiguous(), u.contiguous(), bias, torch.zeros_like(bias)]

    class Lua(LuaClass):
        """The states of the last call are in fields ``output`` and ``cell``; they count unless ``h0`` is empty."""

        scalars = ("input_dim", "hidden_dim", "remember_states")
        tensors = ("weight", "bias")
        scratch = (
            "cell",
            "gates",
            "buffer1",
            "buffer2",
            "buffer3",
            "grad_a_buffer",
            "h0",
            "c0",
            "grad_c0",
            "grad_h0",
            "grad_x",
        )
        state_fields: tuple[str, ...] = ()

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "hidden_dim" in obj

        @classmethod
        def fill(cls, module: SequenceRNN, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            states = [obj.get(name) for name in cls.state_fields]
            h0 = obj.get("h0")
            started = isinstance(h0, LuaTensor) and h0.size > 0
            if module.remember_states and started and all(isinstance(s, LuaTensor) and s.ndim == 3 for s in states):
                module.last = torch.stack([s.torch()[:, -1] for s in states if isinstance(s, LuaTensor)])

        @classmethod
        def to_lua(cls, module: SequenceRNN, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if module.last is not None:
                for name, state in zip(cls.state_fields, module.last, strict=True):
                    fields[name] = ctx.constant(state.unsqueeze(1), module)
                zeros = torch.zeros_like(module.last[0])
                fields.update((name, ctx.constant(zeros, module)) for name in ("h0", "c0")[: module.states])
            return fields


@lua_class("nn.LSTM")
class LSTM(SequenceRNN):
    """LSTM over a batch of sequences.

    Args:
        input_dim: size D of the inputs.
        hidden_dim: size H of the states.
        remember_states: start from the last states of the previous call.

    Shape:
        - Input: :math:`(N, T, D)`, ``[h0, x]`` or ``[c0, h0, x]`` with states :math:`(N, H)`.
        - Output: :math:`(N, T, H)`.

    Attributes:
        weight: :math:`(D + H, 4 H)`, columns of the input, forget, output and candidate gate.
        bias: :math:`(4 H)`.
        last: last cell and last output, or None.

    Lua:
        ``nn.LSTM(input_dim, hidden_dim)``, torch-rnn LSTM.lua
    """

    gates = 4
    states = 2

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        cell, hidden = initial
        weights = self._weights(_candidate_before_output(self.weight), _candidate_before_output(self.bias))
        output, hidden, cell = torch.lstm(x, [hidden, cell], weights, True, 1, 0.0, False, False, True)
        return output, torch.cat([cell, hidden])

    class Lua(SequenceRNN.Lua):
        constants = dict.fromkeys(SequenceRNN.Lua.scratch, LuaTensor.empty)
        state_fields = ("cell", "output")


def _candidate_before_output(x: Tensor) -> Tensor:
    """Return the columns i, f, o, g in torch's order i, f, g, o."""
    i, f, o, g = x.chunk(4, -1)
    return torch.cat([i, f, g, o], -1)


@lua_class("nn.VanillaRNN")
class VanillaRNN(SequenceRNN):
    """Recurrent layer with tanh over a batch of sequences.

    Args:
        input_dim: size D of the inputs.
        hidden_dim: size H of the states.
        remember_states: start from the last state of the previous call.

    Shape:
        - Input: :math:`(N, T, D)`, or ``[h0, x]`` with :math:`(N, H)`.
        - Output: :math:`(N, T, H)`.

    Attributes:
        weight: :math:`(D + H, H)`.
        bias: :math:`(H)`.
        last: last output, or None.

    Lua:
        ``nn.VanillaRNN(input_dim, hidden_dim)``, torch-rnn VanillaRNN.lua
    """

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        weights = self._weights(self.weight, self.bias)
        return torch.rnn_tanh(x, initial[0], weights, True, 1, 0.0, False, False, True)

    class Lua(SequenceRNN.Lua):
        constants = dict.fromkeys(("buffer1", "buffer2", "h0", "grad_h0", "grad_x"), LuaTensor.empty)
        state_fields = ("output",)


@lua_class("nn.LanguageModel")
class LanguageModel(nn.Module):
    """Scores of the next token at every place of a batch of sequences.

    Args:
        net: embedding, recurrent layers and the output layer, in order.
        joining: positions in ``net`` that merge batch and time.
        parting: positions that separate them again.

    Shape:
        - Input: tokens :math:`(N, T)`.
        - Output: :math:`(N, T, V)`.

    Lua:
        ``nn.LanguageModel{…}``, torch-rnn LanguageModel.lua
    """

    def __init__(self, net: nn.Sequential, joining: list[int], parting: list[int]) -> None:
        super().__init__()
        self.net, self.joining, self.parting = net, joining, parting

    def forward(self, input: Tensor) -> Tensor:
        return over_time(self.net, input, self.joining, self.parting)

    def reset_states(self) -> None:
        """Forget the states of all recurrent layers."""
        for module in self.net:
            if isinstance(module, SequenceRNN):
                module.reset_states()

    class Lua(LuaClass):
        """Sizes and the vocabulary are kept as they are; the network says how it is built."""

        members = ("net",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "rnns" in obj

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            modules = obj["net"]["modules"].as_list()
            joining, parting = (
                positions(modules, [*(obj[many].as_list() if many in obj else []), obj[one]])
                for many, one in (("bn_view_in", "view1"), ("bn_view_out", "view2"))
            )
            return {**super().arguments(obj, ctx), "joining": joining, "parting": parting}


@lua_class("nn.TemporalAdapter")
class TemporalAdapter(nn.Module):
    """Applies a module for :math:`(N, A)` at every time step.

    Args:
        net: two views around the module.

    Shape:
        - Input: :math:`(N, T, A)`.
        - Output: :math:`(N, T, B)`.

    Lua:
        ``nn.TemporalAdapter(module)``, torch-rnn TemporalAdapter.lua
    """

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, input: Tensor) -> Tensor:
        return over_time(self.net, input, {0}, {len(self.net) - 1})

    class Lua(WithoutParameters):
        members = ("net",)


@lua_class("nn.TemporalCrossEntropyCriterion")
class TemporalCrossEntropyCriterion(nn.Module):
    """Cross entropy at every time step; target 0 counts nothing.

    Args:
        batch_average: divide the sum by N.
        time_average: divide the sum by T.
        index_base: of the classes.

    Shape:
        - Input: scores :math:`(N, T, C)`; target :math:`(N, T)`, classes or ``index_base - 1``.
        - Output: scalar.

    Lua:
        ``nn.TemporalCrossEntropyCriterion()``, torch-rnn TemporalCrossEntropyCriterion.lua
    """

    def __init__(self, batch_average: bool = True, time_average: bool = False, index_base: int = 1) -> None:
        super().__init__()
        self.batch_average, self.time_average, self.index_base = batch_average, time_average, index_base

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        N, T = target.shape
        total = F.cross_entropy(
            input.flatten(0, 1), target.flatten().long() - self.index_base, ignore_index=-1, reduction="sum"
        )
        return total / ((N if self.batch_average else 1) * (T if self.time_average else 1))

    class Lua(LuaClass):
        indexed = True
        scalars = ("batch_average", "time_average")
        scratch = ("grad_logprobs", "losses")
        constants = dict.fromkeys(scratch, LuaTensor.empty)
