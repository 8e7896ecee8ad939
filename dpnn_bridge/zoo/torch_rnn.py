"""Recurrent layers of torch-rnn, also used by densecap, and torch-rnn's language model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, WithoutParameters, has_tensor, size_storage
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTensor

#: sizes, before the first call, of the views that merge and separate the dimensions of batch and time
_VIEWS = ((1, 1, -1), (1, -1))


def over_time(
    modules: Iterable[nn.Module], input: Tensor, joining: Collection[int], parting: Collection[int]
) -> Tensor:
    """Run modules in sequence. At ``joining`` the dimensions of batch and time are merged, at ``parting`` separated."""
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
    """Return the positions of the ``nn.View`` objects ``views`` in ``modules``."""
    first: dict[int, int] = {}
    for position, module in enumerate(modules):
        first.setdefault(id(module), position)
    return [first[id(view)] for view in views]


class SequenceRNN(RunBuffers):
    """Base of :class:`LSTM` and :class:`VanillaRNN`: one weight, one bias, and optional states between calls.

    Args:
        input_dim: size D of the inputs.
        hidden_dim: size H of the states.
        remember_states: start from the last states of the previous call. As in Torch7, a state is remembered only after
            a call in which it was not passed as input.

    Attributes:
        weight: :math:`(D + H, gates H)`; the first D rows are for the input.
        bias: :math:`(gates H)`.
        last: last states, a buffer of shape :math:`(states, N, H)`, or None.
    """

    gates = 1
    states = 1
    last: Tensor | None

    run_buffers = ("last",)

    def __init__(self, input_dim: int, hidden_dim: int, remember_states: bool = False, device: Any = None) -> None:
        super().__init__()
        self.input_dim, self.hidden_dim, self.remember_states = input_dim, hidden_dim, remember_states
        self.weight = nn.Parameter(torch.empty(input_dim + hidden_dim, self.gates * hidden_dim, device=device))
        self.bias = nn.Parameter(torch.empty(self.gates * hidden_dim, device=device))
        self.register_buffer("last", None)
        self._always_given: set[int] = set()  # positions of states that were inputs of every call since the reset
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the parameters as torch-rnn does."""
        nn.init.normal_(self.weight, std=(self.input_dim + self.hidden_dim) ** -0.5)
        nn.init.zeros_(self.bias)

    def reset_states(self) -> None:
        """Discard the last states, as :func:`dpnn_bridge.memory.forget` does."""
        self.last = None

    forget_own = reset_states

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        *given, x = input if isinstance(input, (list, tuple)) else [input]
        first = self.states - len(given)
        if first < 0:
            raise ValueError(f"{type(self).__name__} takes at most {self.states} initial states, found {len(given)}")
        if x.dim() != 3 or x.shape[2] != self.input_dim:
            raise ValueError(
                f"{type(self).__name__} expects an input of shape (N, T, {self.input_dim}), found {tuple(x.shape)}"
            )
        initial = [*(self._state(i, x) for i in range(first)), *given]
        shape = (x.shape[0], self.hidden_dim)
        for state in initial:
            if state.shape != shape:
                raise ValueError(
                    f"{type(self).__name__}: an initial state has shape {tuple(state.shape)}, expected {shape}; call "
                    "reset_states() if the batch size changes"
                )
        output, last = self._run(x, [state.unsqueeze(0) for state in initial])
        if self.remember_states:
            now = set(range(first, self.states))
            self._always_given = now if self.last is None else self._always_given & now
            remembers = len(self._always_given) < self.states
            self.last = last.detach().to(self.weight.dtype) if remembers else None  # autocast changes the dtype
        return output

    def _state(self, i: int, x: Tensor) -> Tensor:
        """Return an initial state that is not an input of the call: the remembered state, or zeros."""
        if self.remember_states and self.last is not None and i not in self._always_given:
            return self.last[i]
        return x.new_zeros(x.shape[0], self.hidden_dim)

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the outputs (N, T, H) and the last states (states, N, H).

        Args:
            x: the input, (N, T, D).
            initial: the initial states, (1, N, H) each.
        """
        raise NotImplementedError

    def _weights(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """Convert the weight and the bias to the four tensors of a layer in PyTorch."""
        w, u = weight.t().split([self.input_dim, self.hidden_dim], 1)
        return [w.contiguous(), u.contiguous(), bias, torch.zeros_like(bias)]

    class Lua(LuaClass):
        """The last states are in ``output`` and ``cell``. If ``h0`` or ``c0`` is empty, Torch7 does not use that state.

        Attributes:
            state_fields: for each state, the field with the states of all time steps and the field with the initial
                state.
        """

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
        state_fields: ClassVar[tuple[tuple[str, str], ...]] = ()

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "hidden_dim" in obj

        @classmethod
        def fill(cls, module: SequenceRNN, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            states = [obj.get(sequence) for sequence, _ in cls.state_fields]
            started = [has_tensor(obj, start) for _, start in cls.state_fields]
            if not module.remember_states or not any(started):
                return
            if all(isinstance(s, LuaTensor) and s.ndim == 3 for s in states):
                module.last = torch.stack([s.torch()[:, -1] for s in states if isinstance(s, LuaTensor)])
                module._always_given = {i for i, each in enumerate(started) if not each}

        @classmethod
        def to_lua(cls, module: SequenceRNN, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if module.last is not None:
                for i, ((sequence, start), state) in enumerate(zip(cls.state_fields, module.last, strict=True)):
                    fields[sequence] = ctx.constant(state.unsqueeze(1), module)
                    if i not in module._always_given:
                        fields[start] = ctx.constant(torch.zeros_like(state), module)
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

    def reset_parameters(self) -> None:
        """Initialize the parameters as torch-rnn does; the bias of the forget gate is 1."""
        super().reset_parameters()
        with torch.no_grad():
            self.bias[self.hidden_dim : 2 * self.hidden_dim] = 1

    def _run(self, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, Tensor]:
        cell, hidden = initial
        weights = self._weights(_candidate_before_output(self.weight), _candidate_before_output(self.bias))
        output, hidden, cell = torch.lstm(x, [hidden, cell], weights, True, 1, 0.0, False, False, True)
        return output, torch.cat([cell, hidden])

    class Lua(SequenceRNN.Lua):
        constants = dict.fromkeys(SequenceRNN.Lua.scratch, LuaTensor.empty)
        state_fields = (("cell", "c0"), ("output", "h0"))


def _candidate_before_output(x: Tensor) -> Tensor:
    """Reorder the columns of the gates from i, f, o, g to PyTorch's order i, f, g, o."""
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
        state_fields = (("output", "h0"),)


@lua_class("nn.LanguageModel")
class LanguageModel(nn.Module):
    """Scores of the next token at every time step of a batch of sequences.

    Args:
        net: embedding, recurrent layers and the output layer, in this order.
        joining: positions in ``net`` of the views that merge the dimensions of batch and time.
        parting: positions in ``net`` of the views that separate them again.

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
        """Discard the states of all recurrent layers."""
        for module in self.net:
            if isinstance(module, SequenceRNN):
                module.reset_states()

    class Lua(LuaClass):
        """Sizes and the vocabulary are kept unchanged for the export; the network is built from ``net``."""

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
    """Applies a module to every time step.

    Args:
        net: a view, the module, which maps :math:`(N, A)` to :math:`(N, B)`, and a view.

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
        computed_fields = ("view_in", "view_out")
        members = ("net",)

        @classmethod
        def to_lua(cls, module: TemporalAdapter, ctx: LuaContext) -> dict[str, Any]:
            ends = {"view_in": ctx.to_lua(module.net[0]), "view_out": ctx.to_lua(module.net[-1])}
            return {**super().to_lua(module, ctx), **ends}


def _log_softmax(tensor_class: str) -> LuaObject:
    """Return a new field ``lsm``: a log softmax between two views, whose sizes the criterion sets."""
    views = [
        fresh("nn.View", tensor_class, size=size_storage(size), numElements=1, numInputDims=len(size))
        for size in _VIEWS
    ]
    return fresh("nn.Sequential", tensor_class, views[0], fresh("nn.LogSoftMax", tensor_class), views[1])


@lua_class("nn.TemporalCrossEntropyCriterion")
class TemporalCrossEntropyCriterion(nn.Module):
    """Cross entropy, summed over time steps; targets of ``index_base - 1`` are ignored.

    Args:
        batch_average: divide the sum by N.
        time_average: divide the sum by T.
        index_base: index of the first class.

    Shape:
        - Input: scores :math:`(N, T, C)`; target :math:`(N, T)`, classes or ``index_base - 1``.
        - Output: scalar.

    Raises:
        ValueError: input or target has another shape.

    Lua:
        ``nn.TemporalCrossEntropyCriterion()``, torch-rnn TemporalCrossEntropyCriterion.lua
    """

    def __init__(self, batch_average: bool = True, time_average: bool = False, index_base: int = 1) -> None:
        super().__init__()
        self.batch_average, self.time_average, self.index_base = batch_average, time_average, index_base

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if input.dim() != 3 or target.shape != input.shape[:2]:
            raise ValueError(
                f"TemporalCrossEntropyCriterion expects scores (N, T, C) and a target (N, T), found "
                f"{tuple(input.shape)} and {tuple(target.shape)}"
            )
        N, T = target.shape
        total = F.cross_entropy(
            input.flatten(0, 1), target.flatten().long() - self.index_base, ignore_index=-1, reduction="sum"
        )
        return total / ((N if self.batch_average else 1) * (T if self.time_average else 1))

    class Lua(LuaClass):
        indexed = True
        scalars = ("batch_average", "time_average")
        scratch = ("grad_logprobs", "losses")
        constants = {**dict.fromkeys(scratch, LuaTensor.empty), "lsm": _log_softmax}
