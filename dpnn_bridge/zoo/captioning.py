"""Language models that describe images: densecap and neuraltalk2."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import forward_replaced, has_noise, replayed
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.zoo.torch_rnn import SequenceRNN, over_time, positions


@lua_class("nn.LanguageModel")
class DenseCapLanguageModel(nn.Module):
    """Predicts the scores of each word of a caption from an image vector and the words before it.

    Args:
        image_encoder: maps image vectors to :math:`(N, 1, W)`.
        lookup_table: maps tokens to :math:`(N, T, W)`.
        rnn: recurrent layers and the output layer.
        joining: positions in ``rnn`` of the views that merge the dimensions of batch and time.
        parting: positions in ``rnn`` of the views that separate them again.
        vocab_size: number V of words; token V + 1 starts and ends a caption, token V + 2 means no word.
        seq_length: length of sampled captions.
        sample_argmax: sample the most likely word instead of drawing a random word.
        words: token, counted from 1 -> word.
        index_base: token of the first word; ``index_base - 1`` means no word.

    Shape:
        - Input: ``[images, captions]``, :math:`(N, D)` and :math:`(N, T)`, or an empty tensor to sample.
        - Output: scores :math:`(N, T + 2, V + 1)`, or sampled tokens :math:`(N, seq\\_length)`.

    Lua:
        ``nn.LanguageModel{…}``, densecap LanguageModel.lua
    """

    fx_leaf = True

    def __init__(
        self,
        image_encoder: nn.Module,
        lookup_table: nn.Module,
        rnn: nn.Sequential,
        joining: list[int],
        parting: list[int],
        vocab_size: int,
        seq_length: int,
        sample_argmax: bool = True,
        words: dict[int, str] | None = None,
        index_base: int = 1,
    ) -> None:
        super().__init__()
        self.words = words or {}
        self.image_encoder, self.lookup_table, self.rnn = image_encoder, lookup_table, rnn
        self.joining, self.parting, self.index_base = joining, parting, index_base
        self.vocab_size, self.seq_length, self.sample_argmax = vocab_size, seq_length, sample_argmax

    def forward(self, input: list[Tensor]) -> Tensor:
        images, captions = input
        if captions.numel() == 0:
            return self.sample(images)
        start = torch.full_like(captions[:, :1], self.vocab_size + self.index_base)
        no_word = captions == self.index_base - 1
        tokens = torch.cat([start, captions.masked_fill(no_word, self.vocab_size + 1 + self.index_base)], 1)
        return self._compute_scores(torch.cat([self._encode(images), self.lookup_table(tokens)], 1))

    def _encode(self, images: Tensor) -> Tensor:
        return self.image_encoder(images).flatten(1).unsqueeze(1)

    def _compute_scores(self, vectors: Tensor) -> Tensor:
        return over_time(self.rnn, vectors, self.joining, self.parting)

    @torch.no_grad()
    def sample(self, images: Tensor) -> Tensor:
        """Return the tokens of one caption for each image, :math:`(N, seq\\_length)`."""
        recurrent = [m for m in self.rnn if isinstance(m, SequenceRNN)]
        try:
            for module in recurrent:
                module.reset_states()
                module.remember_states = True
            return self._sample_tokens(images)
        finally:
            for module in recurrent:
                module.reset_states()
                module.remember_states = False

    def _sample_tokens(self, images: Tensor) -> Tensor:
        self._compute_scores(self._encode(images))
        word = torch.full((images.shape[0], 1), self.vocab_size + self.index_base, device=images.device)
        words = []
        for _ in range(self.seq_length):
            scores = self._compute_scores(self.lookup_table(word))[:, -1]
            if self.sample_argmax:
                word = scores.argmax(1, keepdim=True) + self.index_base
            else:
                word = torch.multinomial(scores.softmax(1), 1) + self.index_base
            words.append(word)
        return torch.cat(words, 1)

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the captions of sampled tokens, :math:`(N, T)`; each ends before its end token."""
        captions = []
        for row in (tokens - self.index_base + 1).tolist():
            words = itertools.takewhile(lambda number: number not in (0, self.vocab_size + 1), row)
            captions.append(" ".join(self.words[number] for number in words))
        return captions

    def target(self, captions: Tensor) -> Tensor:
        """Return the target tokens :math:`(N, T + 2)` of the loss for true captions :math:`(N, T)`."""
        none = captions.new_full((len(captions), 1), self.index_base - 1)
        no_word = F.pad(captions == self.index_base - 1, (0, 1), value=True)
        end = no_word & (no_word.cumsum(1) == 1)
        words = torch.cat([captions, none], 1).masked_fill(end, self.vocab_size + self.index_base)
        return torch.cat([none, words], 1)

    class Lua(LuaClass):
        computed_fields = ("idx_to_token",)
        indexed = True
        members = ("image_encoder", "lookup_table", "rnn")
        scalars = ("vocab_size", "seq_length", "sample_argmax")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "image_encoder" in obj and "view_in" in obj

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            modules = obj["rnn"]["modules"].as_list()
            views = {"joining": positions(modules, [obj["view_in"]]), "parting": positions(modules, [obj["view_out"]])}
            if "beam_size" in obj:
                raise ctx.error("beam search is not supported; omit 'beam_size' to select the most likely words", obj)
            words = dict(obj.get("idx_to_token") or ())
            return {**super().arguments(obj, ctx), **views, "words": words}

        @classmethod
        def to_lua(cls, module: DenseCapLanguageModel, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "idx_to_token": LuaTable(module.words)}


def _unwritten_steps(output: Tensor) -> Tensor:
    """Return a mask of the last time steps of :class:`NeuralTalkLanguageModel` if no caption has a word there.

    The output is 0 there. Log probabilities of several words are never all 0.
    """
    empty = (output[2:] == 0).flatten(1).all(1)
    last = empty.flip(0).cumprod(0).flip(0).bool()
    return torch.cat([last.new_zeros(2), last]).view(-1, 1, 1)


@lua_class("nn.LanguageModel")
class NeuralTalkLanguageModel(nn.Module):
    """Predicts the log probabilities of each word of a caption from an image vector and the words before it.

    Args:
        core: one time step; maps ``[x, *states]`` to ``[*states, log probabilities]``.
        lookup_table: maps tokens to vectors.
        vocab_size: number V of words; token V + 1 starts and ends a caption.
        seq_length: number T of tokens.
        num_state: number of states.
        rnn_size: size of each state.
        index_base: token of the first word; ``index_base - 1`` means no word.

    Shape:
        - Input: ``[images, captions]``, :math:`(N, E)` and :math:`(T, N)`.
        - Output: :math:`(T + 2, N, V + 1)`. Time steps at which no caption has a word are 0; Torch7 does not write
          these elements.

    Lua:
        ``nn.LanguageModel{…}``, neuraltalk2 misc/LanguageModel.lua
    """

    fx_leaf = True

    def __init__(
        self,
        core: nn.Module,
        lookup_table: nn.Module,
        vocab_size: int,
        seq_length: int,
        num_state: int,
        rnn_size: int,
        index_base: int = 1,
    ) -> None:
        super().__init__()
        self.core, self.lookup_table = core, lookup_table
        self.vocab_size, self.seq_length = vocab_size, seq_length
        self.num_state, self.rnn_size, self.index_base = num_state, rnn_size, index_base

    def forward(self, input: list[Tensor]) -> Tensor:
        images, captions = input
        if captions.shape[0] != self.seq_length:
            raise ValueError(f"expected captions of {self.seq_length} tokens, found {captions.shape[0]}")
        words = captions != self.index_base - 1
        start = torch.full_like(captions[:1], self.vocab_size + self.index_base)
        tokens = torch.cat([start, captions.masked_fill(~words, self.index_base)])
        vectors = [images, *self.lookup_table(tokens)]
        state = [*images.new_zeros(images.shape[0], self.rnn_size).expand(self.num_state, -1, -1)]
        outputs = []
        for vector in vectors:
            *state, output = self.core([vector, *state])
            outputs.append(output)
        written = torch.cat([words.new_ones(2), words.any(1)])
        return torch.stack(outputs).masked_fill(~written[:, None, None], 0)

    class Lua(LuaClass):
        checked_by = "formula"
        test = "test_a_caption_starts_with_the_image"
        faults = (
            Fault(
                ("output",),
                "Torch7 does not write the output of time steps at which no caption has a word: uninitialized memory",
                elements=lambda module, output: _unwritten_steps(output),
            ),
        )
        indexed = True
        members = ("core", "lookup_table")
        scalars = ("vocab_size", "seq_length", "num_state", "rnn_size")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "core" in obj and "init_state" in obj

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Remove the copies that Torch7 makes for each time step."""
            return obj.changed(dict.fromkeys(("clones", "lookup_tables", "state", "inputs", "lookup_tables_inputs")))

        @classmethod
        def replay(cls, module: NeuralTalkLanguageModel, after: LuaObject) -> Callable[..., Any] | None:
            """Replay the random numbers that the clone of each time step stores; the first clone is ``core``."""
            clones, ran = after.get("clones"), after.get("tmax")
            objects = clones.as_list() if isinstance(clones, LuaTable) else []
            known = [has_noise(module.core, obj) for obj in objects[: ran if isinstance(ran, int) else None]]
            if not any(known) and not has_noise(module.core, after.get("core")):
                return None
            if len(known) != ran or not all(known):
                return NotImplemented

            def forward(input: list[Tensor]) -> Tensor:
                steps = iter(objects[: len(known)])

                def step(input: list[Tensor]) -> list[Tensor]:
                    if (obj := next(steps, None)) is None:  # Torch7 did not run the last time steps
                        return [*input[1:], input[0].new_zeros(len(input[0]), module.vocab_size + 1)]
                    with replayed(module.core, obj):
                        return type(module.core).forward(module.core, input)

                with forward_replaced(module.core, step):
                    return type(module).forward(module, input)

            return forward


@lua_class("nn.LanguageModelCriterion")
class LanguageModelCriterion(nn.Module):
    """Mean negative log probability of the words and of the end token of each caption.

    Args:
        index_base: token of the first word; ``index_base - 1`` means no word.

    Shape:
        - Input: output of :class:`NeuralTalkLanguageModel`, :math:`(T + 2, N, V + 1)`; target :math:`(T, N)`.
        - Output: scalar.

    Raises:
        ValueError: the numbers of time steps or of captions do not match.

    Lua:
        ``nn.LanguageModelCriterion()``, neuraltalk2 misc/LanguageModel.lua
    """

    def __init__(self, index_base: int = 1) -> None:
        super().__init__()
        self.index_base = index_base

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if input.dim() != 3 or (input.shape[0] - 2, input.shape[1]) != target.shape:
            raise ValueError(
                "LanguageModelCriterion takes scores (T + 2, N, V + 1) and words (T, N), "
                f"found {tuple(input.shape)} and {tuple(target.shape)}"
            )
        words = torch.cat([target.long() - self.index_base, target.new_full((1, target.shape[1]), -1).long()])
        no_word = words < 0
        end = no_word & (no_word.cumsum(0) == 1)
        words = words.masked_fill(end, input.shape[2] - 1)
        counted = words >= 0
        picked = input[1:].gather(2, words.clamp(min=0).unsqueeze(2)).squeeze(2)
        return -picked.where(counted, 0).sum() / counted.sum()

    class Lua(LuaClass):
        checked_by = "formula"
        test = "test_captions_are_judged_word_by_word"
        indexed = True


@lua_class("nn.FeatExpander")
class FeatExpander(nn.Module):
    """Repeats each row.

    Args:
        n: number of copies.

    Shape:
        - Input: :math:`(N, D)`.
        - Output: :math:`(n N, D)`; the copies of a row are consecutive.

    Lua:
        ``nn.FeatExpander(n)``, neuraltalk2 misc/net_utils.lua
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, input: Tensor) -> Tensor:
        if self.n == 1:
            return input
        if input.dim() != 2:
            raise ValueError(f"FeatExpander takes features (N, D), found {tuple(input.shape)}")
        return input.repeat_interleave(self.n, 0)

    class Lua(LuaClass):
        scalars = ("n",)
        checked_by = "formula"
        test = "test_repeated_features"
