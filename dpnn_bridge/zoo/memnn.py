"""Layers of key-value memory networks (MemNN)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table, size_storage
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.objects import LuaTensor


@lua_class("nn.WeightedLookupTableSkinny")
class WeightedLookupTableSkinny(LookupTable):
    """An embedding whose vectors may be multiplied by weights in the input.

    Args:
        num_embeddings, embedding_dim, index_base: as for :class:`~dpnn_bridge.modules.nn.lookup.LookupTable`.

    Shape:
        - Input: :math:`(N, 2)`, an index and a weight in each row; or :math:`(N)`, indices only.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.WeightedLookupTableSkinny(nIndex, embDim)``, MemNN KVmemnn/library/WeightedLookupTableSkinny.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 1:
            return super().forward(input.detach())
        return super().forward(input[:, 0].detach()) * input[:, 1:].detach().to(self.weight.dtype)

    class Lua(LuaClass):
        """In MemNN the gradient is a queue of rows; here it is an ordinary gradient."""

        computed_fields = ("inputs", "inputWeights")
        tensors = ("weight",)
        sizes = {"weight": ("num_embeddings", "embedding_dim")}
        indexed = True
        checked_by = "formula"
        test = "test_a_skinny_table_multiplies_its_rows"

        @classmethod
        def to_lua(cls, module: WeightedLookupTableSkinny, ctx: LuaContext) -> dict[str, Any]:
            rows = 10_000  # length of MemNN's queue
            return {
                **super().to_lua(module, ctx),
                "size": size_storage(module.weight.shape),
                "_input": LuaTensor.empty(ctx.type_of(module)),
                "inputs": size_storage([0]),
                "inputWeights": ctx.constant(torch.zeros(rows, dtype=torch.int32), module),
                "gradWeight": ctx.constant(module.weight.new_zeros(rows, module.embedding_dim), module),
            }


@lua_class("nn.PositionalEncoder")
class PositionalEncoder(nn.Module):
    r"""Multiplies the elements of word vectors by weights that depend on the position of the word in its sentence.

    Element k of d elements, in word j of l words, is multiplied by :math:`(1 - j/l) - (k/d) (1 - 2 j/l)`.

    Args:
        forward_len: return the lengths as well.

    Shape:
        - Input: ``[words, lengths]``, :math:`(\sum l_i, D)` and :math:`(N)`; the sentences are concatenated.
        - Output: the words, or ``[words, lengths]``.

    Lua:
        ``nn.PositionalEncoder(forwardLen)``, MemNN KVmemnn/library/PositionalEncoder.lua
    """

    def __init__(self, forward_len: bool = False) -> None:
        super().__init__()
        self.forward_len = forward_len

    def forward(self, input: list[Tensor]) -> Tensor | list[Tensor]:
        words, lengths = input
        sizes = lengths.long()
        ends = sizes.cumsum(0).repeat_interleave(sizes)
        size = sizes.repeat_interleave(sizes)
        number = torch.arange(len(words), device=words.device) - ends + size + 1
        position = (number.to(words.dtype) / size).unsqueeze(1)
        element = torch.arange(1, words.shape[1] + 1, dtype=words.dtype, device=words.device) / words.shape[1]
        output = words * ((1 - position) - element * (1 - 2 * position))
        return [output, lengths] if self.forward_len else output

    class Lua(LuaClass):
        scalars = {"forwardLen": "forward_len"}
        defaults = {"forwardLen": False}
        checked_by = "formula"
        test = "test_words_are_weighed_by_their_place"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = {**super().to_lua(module, ctx), "gradInput": ctx.empty_tensors(module, 2)}
            return {**fields, "output": ctx.empty_tensors(module, 2)} if fields["forwardLen"] else fields


@lua_class("nn.SumVecarr")
class SumVecarr(nn.Module):
    r"""Sums the word vectors of each sentence.

    Shape:
        - Input: ``[words, lengths]``, :math:`(\sum l_i, D)` and :math:`(N)`; the sentences are concatenated.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.SumVecarr()``, MemNN KVmemnn/library/SumVecarr.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        words, lengths = input
        sentence = torch.arange(len(lengths), device=words.device).repeat_interleave(lengths.long())
        return words.new_zeros(len(lengths), words.shape[1]).index_add(0, sentence, words)

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}
        checked_by = "formula"
        test = "test_sentences_are_sums_of_words"
