"""Complete models of OpenNMT, which checkpoints store as tables, see :mod:`dpnn_bridge.checkpoints.onmt`."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.zoo.onmt import ATTENTION, reset_masks


def tensors(value: Any) -> list[Any]:
    """Return a list of tensors: the value itself if it is a list or tuple, else a list of one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def step_input(source: Any, t: int) -> Any:
    """Return the input of time step ``t`` for OpenNMT's networks.

    Args:
        source: words :math:`(T, N)`, or a list of the words and of features of the same shape.
        t: the time step.

    Returns:
        Words :math:`(N)`, ``[words, feature]`` or ``[words, [features]]``.
    """
    words, *features = (column[t] for column in tensors(source))
    return [words, features if len(features) > 1 else features[0]] if features else words


class _Part(LuaClass):
    """Mapping of a part of a model: modules and a table ``args``."""

    container = True
    checked_by = "formula"

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return cls.settings(obj["args"])

    @classmethod
    def settings(cls, args: LuaTable) -> dict[str, Any]:
        """Convert OpenNMT's arguments to keyword arguments of the module."""
        states = args.get("numStates") or args["numEffectiveLayers"]  # name of the argument before 2017
        return {"num_states": states, "rnn_size": args["rnnSize"]}

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields = super().to_lua(module, ctx)
        return fields if record_of(module) else fields | {"args": LuaTable(cls.lua_settings(module))}

    @classmethod
    def lua_settings(cls, module: Any) -> dict[str, Any]:
        """Convert the module's attributes to OpenNMT's arguments."""
        return {"numStates": module.num_states, "rnnSize": module.rnn_size}


@lua_class("onmt.Encoder")
class Encoder(nn.Module):
    """Applies a recurrent step to the words of a batch of sentences that are padded on the left.

    Args:
        step: maps ``[*states, word]`` to ``[*states]``.
        num_states: number of states.
        rnn_size: size of each state.

    Shape:
        - Input: ``[source, lengths]``: words :math:`(T, N)`, or a list of words and features, and :math:`(N)`.
        - Output: ``[states, context]``: a list of :math:`(N, H)`, and :math:`(N, T, H)`, which is 0 at padding.

    Lua:
        ``onmt.Encoder``, OpenNMT onmt/modules/Encoder.lua
    """

    fx_leaf = True

    def __init__(self, step: nn.Module, num_states: int, rnn_size: int) -> None:
        super().__init__()
        self.step, self.num_states, self.rnn_size = step, num_states, rnn_size

    def forward(self, input: list[Any]) -> list[Any]:
        source, lengths = input
        T, N = tensors(source)[0].shape[:2]
        like = next(self.parameters())
        states = [*like.new_zeros(N, self.rnn_size).expand(self.num_states, -1, -1)]
        reset_masks(self)
        outputs = []
        for t in range(T):
            states = tensors(self.step([*states, step_input(source, t)]))
            real = (t >= T - lengths.to(like.device)).view(N, 1)
            states = [state * real for state in states]
            outputs.append(states[-1])
        return [states, torch.stack(outputs, 1)]

    class Lua(_Part):
        test = "test_a_sentence_is_read_both_ways"


@lua_class("onmt.BiEncoder")
class BiEncoder(nn.Module):
    """Two encoders, one of which reads the sentences backwards.

    Args:
        fwd, bwd: the encoders for the forward and the backward direction.
        merge: how their states and contexts are combined: ``"concat"`` or ``"sum"``.

    Shape:
        - Input, output: as for :class:`Encoder`.

    Lua:
        ``onmt.BiEncoder``, OpenNMT onmt/modules/BiEncoder.lua
    """

    fx_leaf = True

    def __init__(self, fwd: nn.Module, bwd: nn.Module, merge: str) -> None:
        super().__init__()
        self.fwd, self.bwd, self.merge = fwd, bwd, merge

    def forward(self, input: list[Any]) -> list[Any]:
        source, lengths = input
        backwards = [_reverse(column, lengths) for column in tensors(source)]
        states, context = self.fwd(input)
        back_states, back = self.bwd([backwards, lengths])
        back = _reverse(back.transpose(0, 1), lengths).transpose(0, 1)
        return [[self._merge(a, b) for a, b in zip(states, back_states, strict=True)], self._merge(context, back)]

    def _merge(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], -1) if self.merge == "concat" else a + b

    class Lua(_Part):
        test = "test_a_sentence_is_read_both_ways"

        @classmethod
        def settings(cls, args: LuaTable) -> dict[str, Any]:
            return {"merge": args.get("brnn_merge") or args["merge"]}

        @classmethod
        def lua_settings(cls, module: Any) -> dict[str, Any]:
            rnn_size = module.fwd.rnn_size
            hidden_size = 2 * rnn_size if module.merge == "concat" else rnn_size
            sizes = {"numStates": module.fwd.num_states, "rnn_size": rnn_size, "hiddenSize": hidden_size}
            return {"brnn_merge": module.merge, **sizes}


def _reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse sequences (T, N, *) without their padding, which stays on the left."""
    T = x.shape[0]
    start = T - lengths.to(x.device).long()
    t = torch.arange(T, device=x.device)[:, None]
    index = torch.where(t >= start, T - 1 - t + start, t)
    return x[index, torch.arange(x.shape[1], device=x.device)]


@lua_class("onmt.Decoder")
class Decoder(nn.Module):
    """Predicts each word of a batch of sentences from the words before it.

    Args:
        step: maps ``[*states, word, context, previous output]`` to ``[*states, output]``.
        generator: maps an output to a list of log probabilities.
        num_states: number of states.
        rnn_size: size of each state.
        input_feed: pass the previous output to ``step``.

    Shape:
        - Input: ``[target, states, context, lengths]``: words :math:`(T, N)`, or a list of words and features; states
          and context of an encoder, with None as states for zeros; and the lengths of the source sentences.
        - Output: list of T lists of log probabilities :math:`(N, V)`.

    Differs from Torch7:
        There is no scheduled sampling: the input is always the target's previous word, never a predicted word.

    Lua:
        ``onmt.Decoder``, OpenNMT onmt/modules/Decoder.lua
    """

    fx_leaf = True

    def __init__(
        self, step: nn.Module, generator: nn.Module, num_states: int, rnn_size: int, input_feed: bool = True
    ) -> None:
        super().__init__()
        self.step, self.generator = step, generator
        self.num_states, self.rnn_size, self.input_feed = num_states, rnn_size, input_feed

    def forward(self, input: list[Any]) -> list[list[Tensor]]:
        return [self.generator(output) for output in self.outputs(input)]

    def outputs(self, input: list[Any]) -> list[Tensor]:
        """Return the inputs of the generator, one :math:`(N, H)` for each word."""
        target, states, context, lengths = input
        T, N = tensors(target)[0].shape[:2]
        output = context.new_zeros(N, self.rnn_size)
        states = [*output.expand(self.num_states, -1, -1)] if states is None else tensors(states)
        reset_masks(self)
        outputs = []
        with _padding_masked(self.step, lengths, context.shape[1]):
            for t in range(T):
                inputs = [*states, step_input(target, t), context]
                *states, output = tensors(self.step([*inputs, output] if self.input_feed else inputs))
                outputs.append(output)
        return outputs

    class Lua(_Part):
        test = "test_a_decoder_goes_on_from_the_encoder"

        @classmethod
        def settings(cls, args: LuaTable) -> dict[str, Any]:
            return super().settings(args) | {"input_feed": args.get("inputFeed") in (True, 1)}

        @classmethod
        def lua_settings(cls, module: Any) -> dict[str, Any]:
            inputs = ("x", "context", "inputFeed") if module.input_feed else ("x", "context")
            positions = LuaTable({name: module.num_states + i for i, name in enumerate(inputs, 1)})
            return {**super().lua_settings(module), "inputFeed": module.input_feed, "inputIndex": positions}


class _MaskedSoftmax:
    """Forward hook for the softmax of an attention layer: sets the weights of the source's left padding to 0.

    The hook acts in one thread only, because each thread that runs the model registers its own hook.
    """

    def __init__(self, lengths: Tensor, size: int) -> None:
        self.lengths, self.size, self.thread = lengths, size, threading.get_ident()

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if threading.get_ident() != self.thread:
            return output
        real = torch.arange(self.size, device=output.device) >= self.size - self.lengths.to(output.device)[:, None]
        kept = output * real
        return kept / (kept.sum(1, keepdim=True) + 1e-10)


class _padding_masked:  # noqa: N801 (a context manager)
    """Masks the padding of the source in the softmax layers of attention inside the ``with`` block."""

    def __init__(self, module: nn.Module, lengths: Tensor, size: int) -> None:
        masked = _MaskedSoftmax(lengths, size)
        needed = bool((lengths != size).any())
        layers = [m for name, m in module.named_modules() if needed and is_attention(name, m)]
        self._hooks = [layer.register_forward_hook(masked) for layer in layers]

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


def is_attention(path: str, module: nn.Module) -> bool:
    """Return whether a module is the softmax of an attention layer, by OpenNMT's name of the module.

    In an exported ``.py`` file, the name of the attribute is OpenNMT's name.
    """
    record = module.__dict__.get("lua_record")
    return ATTENTION in (path.rpartition(".")[2], record and record.fields.get("name"))


@lua_class("onmt.Seq2Seq")
class Seq2Seq(nn.Module):
    """An encoder and a decoder with attention.

    Args:
        encoder: module with the interface of :class:`Encoder`.
        decoder: the decoder.
        bridge: converts the encoder's last states to the decoder's first states. If it returns None, the decoder starts
            from zeros. Without a bridge, the decoder starts from the encoder's states.

    Shape:
        - Input: ``[source, lengths, target]``.
        - Output: list of lists of log probabilities, as for :class:`Decoder`.

    Lua:
        ``onmt.Seq2Seq``, OpenNMT onmt/Seq2Seq.lua
    """

    fx_leaf = True

    def __init__(self, encoder: nn.Module, decoder: Decoder, bridge: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.bridge = encoder, decoder, bridge

    def forward(self, input: list[Any]) -> list[list[Tensor]]:
        source, lengths, target = input
        states, context = self.encoder([source, lengths])
        if self.bridge is not None:
            states = self.bridge(states)
        return self.decoder([target, states, context, lengths])

    class Lua(LuaClass):
        members = ("encoder", "decoder", "bridge")
        checked_by = "formula"
        test = "test_a_decoder_goes_on_from_the_encoder"


@lua_class("onmt.LanguageModel", "onmt.SeqTagger")
class SequenceModel(nn.Module):
    """An encoder whose output for every word goes to a generator: OpenNMT's language models and taggers.

    Args:
        encoder: module with the interface of :class:`Encoder`.
        generator: maps an output to a list of log probabilities.

    Shape:
        - Input: ``[source, lengths]``, as for :class:`Encoder`.
        - Output: list of T lists of log probabilities :math:`(N, V)`.

    Lua:
        ``onmt.LanguageModel``, ``onmt.SeqTagger``, OpenNMT onmt/LanguageModel.lua and onmt/SeqTagger.lua
    """

    fx_leaf = True

    def __init__(self, encoder: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator

    def forward(self, input: list[Any]) -> list[list[Tensor]]:
        _, context = self.encoder(input)
        return [self.generator(output) for output in context.unbind(1)]

    class Lua(LuaClass):
        members = ("encoder", "generator")
        checked_by = "formula"
        test = "test_language_model_predicts_after_every_word"
