"""Lookup tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import is_traced
from dpnn_bridge.modules.nn.indices import explains_index_base
from dpnn_bridge.objects import LuaObject


@lua_class("nn.LookupTable", "nn.LookupTableEmbedding_train")
class LookupTable(nn.Embedding):
    """:class:`torch.nn.Embedding` whose indices count from 1 and may be floating-point numbers.

    Args:
        num_embeddings: number of rows.
        embedding_dim: size of a row.
        padding_idx: 0-based row that is never trained; None: all rows are trained.
        max_norm: a row with a larger norm is scaled to this norm when it is used; in place, except in a traced call.
        norm_type: order p of the norm for ``max_norm``.
        scale_grad_by_freq: divide a row's gradient by the number of its occurrences in the input.
        index_base: index of the first row.

    Shape:
        - Input: :math:`(*)`, integers of any dtype.
        - Output: :math:`(*, D)`.

    Lua:
        ``nn.LookupTable(nIndex, nOutput, paddingValue, maxNorm, normType)``, LookupTable.lua

    Raises:
        IndexError: an index is not in the table.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        *,
        index_base: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            device=device,
            dtype=dtype,
        )
        self.index_base = index_base

    @explains_index_base
    def forward(self, input: Tensor) -> Tensor:
        index = input.long() - self.index_base
        if self.max_norm is None or torch.compiler.is_compiling():
            return super().forward(index)
        if not is_traced():
            torch.embedding_renorm_(self.weight.data, index.contiguous(), self.max_norm, self.norm_type)
            return self._rows(index)
        rows = self._rows(index)
        norm = rows.detach().norm(self.norm_type, -1, keepdim=True)
        excess = torch.where(norm > self.max_norm, 1 - self.max_norm / (norm + 1e-7), 0)
        return rows - rows.detach() * excess

    def _rows(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, index_base={self.index_base}"

    class Lua(LuaClass):
        torch_type = nn.Embedding
        version = 4
        tensors = ("weight",)
        sizes = {"weight": ("num_embeddings", "embedding_dim")}
        indexed = True
        constants = {"paddingValue": 0}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            arguments = super().arguments(obj, ctx)
            padding = obj.get("paddingValue") or 0
            return {
                **arguments,
                "padding_idx": padding - 1 if 1 <= padding <= arguments["num_embeddings"] else None,
                "max_norm": obj.get("maxNorm"),
                "norm_type": 2 if (norm_type := obj.get("normType")) is None else norm_type,
                "scale_grad_by_freq": bool(obj.get("shouldScaleGradByFreq")),
            }

        @classmethod
        def to_lua(cls, module: nn.Embedding, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if module.padding_idx is not None:
                fields["paddingValue"] = module.padding_idx + 1
            if module.max_norm is not None:
                fields["maxNorm"] = module.max_norm
            if module.norm_type != 2:
                fields["normType"] = module.norm_type
            if module.scale_grad_by_freq:
                fields["shouldScaleGradByFreq"] = True
            return fields
