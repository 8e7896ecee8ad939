"""nnx's lookup table for language models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import explains_index_base
from dpnn_bridge.objects import LuaTensor


@lua_class("nn.NarrowLookupTable")
class NarrowLookupTable(nn.Embedding):
    """Concatenates the embeddings of a sequence of words, of which distant words give fewer elements.

    Args:
        num_embeddings: number of rows.
        embedding_dim: size of a row, D.
        delta_size: number of elements by which each word gives fewer than its neighbor.
        ascending: the first word gives its whole row; otherwise the last word does.
        index_base: index of the first row.

    Shape:
        - Input: :math:`(N, T)` or :math:`(T)`, integers of any dtype.
        - Output: :math:`(N, T D - delta\\_size\\, T (T - 1) / 2)`, or without N.

    Differs from Torch7:
        The gradient is multiplied by the ``scale`` of ``backward``; Torch7's class ignores it. A negative index, which
        Torch7 counts from the last row, is an error.

    Lua:
        ``nn.NarrowLookupTable(deltaSize, nIndex, embedSize, ascDelta)``, nnx NarrowLookupTable.lua until September 2015

    Raises:
        IndexError: an index is not in the table.
        ValueError: the input has other dimensions, or so many words that one gives no element.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        delta_size: int,
        ascending: bool = True,
        *,
        index_base: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, device=device, dtype=dtype)
        self.delta_size, self.ascending, self.index_base = delta_size, ascending, index_base

    @explains_index_base
    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (1, 2):
            raise ValueError(f"NarrowLookupTable: expected an input (N, T) or (T), found {tuple(input.shape)}")
        words = input.shape[-1]
        sizes = [self.embedding_dim - self.delta_size * i for i in range(words)]
        if min(sizes, default=0) <= 0:
            raise ValueError(
                f"NarrowLookupTable: found {words} words; one would give {min(sizes, default=0)} of the "
                f"{self.embedding_dim} elements of its row, expected at least one element of each word"
            )
        rows = super().forward(input.long() - self.index_base).unbind(-2)
        sizes = sizes if self.ascending else sizes[::-1]
        return torch.cat([row[..., :size] for row, size in zip(rows, sizes, strict=True)], -1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, delta_size={self.delta_size}, ascending={self.ascending}"

    class Lua(LuaClass):
        scalars = {"embedSize": "embedding_dim", "deltaSize": "delta_size", "ascDelta": "ascending"}
        tensors = ("weight",)
        sizes = {"weight": ("num_embeddings", "embedding_dim")}
        indexed = True
        constants = {
            "accUpdate": False,
            "deltaSizes": lambda _: LuaTensor.empty("torch.LongTensor"),
            "inputs": empty_table,
            "nBackward": 0,
            "nIndex": 0,
        }
