"""The lookup table of fbcunn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.objects import LuaObject


@lua_class("nn.LookupTableGPU")
class LookupTableGPU(LookupTable):
    """A lookup table with an option for the order of the output's dimensions.

    Args:
        num_embeddings, embedding_dim, index_base: as in :class:`~dpnn_bridge.modules.nn.lookup.LookupTable`.
        features_in_dim2: return the output of a batch as :math:`(N, D, L)`.
        unk_index: index of an unknown word, for which the output is zero; None: no such index.

    Shape:
        - Input: :math:`(N, L)` or :math:`(L)`.
        - Output: :math:`(N, L, D)`, or :math:`(N, D, L)` with ``features_in_dim2``; :math:`(L, D)` for an input without
          batch dimension.

    Lua:
        ``nn.LookupTableGPU(nInput, nOutput, featuresInDim2)``, fbcunn LookupTableGPU.lua
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        features_in_dim2: bool = False,
        unk_index: int | None = None,
        *,
        index_base: int = 1,
        device: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, index_base=index_base, device=device)
        self.features_in_dim2, self.unk_index = features_in_dim2, unk_index

    def forward(self, input: Tensor) -> Tensor:
        if self.unk_index is None:
            output = super().forward(input)
        else:
            unknown = input == self.unk_index
            output = super().forward(input.masked_fill(unknown, self.index_base))
            output = output.masked_fill(unknown.unsqueeze(-1), 0)
        return output.transpose(1, 2) if self.features_in_dim2 and input.dim() == 2 else output

    class Lua(LuaClass):
        indexed = True
        tensors = ("weight",)
        sizes = {"weight": ("num_embeddings", "embedding_dim")}
        scalars = {"featuresInDim2": "features_in_dim2"}
        defaults = {"featuresInDim2": False}
        checked_by = "formula"
        test = "test_look_up_table_with_features_first_and_an_unknown_word"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            unknown = obj.get("unk_index")
            return {
                **super().arguments(obj, ctx),
                "unk_index": None if unknown is None else int(unknown) - 1 + ctx.index_base,
            }

        @classmethod
        def to_lua(cls, module: LookupTableGPU, ctx: LuaContext) -> dict[str, Any]:
            fields = {**super().to_lua(module, ctx), "nInput": module.num_embeddings, "nOutput": module.embedding_dim}
            if module.unk_index is not None:
                fields["unk_index"] = module.unk_index + 1 - module.index_base
            return fields
