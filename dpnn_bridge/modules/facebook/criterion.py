"""Criterions of fbnn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion, class_indices
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.TrueNLLCriterion")
class TrueNLLCriterion(Criterion):
    """Negative log likelihood of probabilities, :math:`-\\log(x_t + 10^{-8})`.

    Args:
        size_average: divide by N.
        index_base: index of the first class.

    Shape:
        - Input: probabilities :math:`(N, C)` or :math:`(C)`; target :math:`(N)` or one number.
        - Output: scalar.

    Lua:
        ``nn.TrueNLLCriterion()``, fbnn TrueNLLCriterion.lua
    """

    def __init__(self, size_average: bool = True, index_base: int = 1) -> None:
        super().__init__()
        self.size_average, self.index_base = size_average, index_base

    def forward(self, input: Tensor, target: Tensor | int) -> Tensor:
        x = input.reshape(-1, input.shape[-1])
        classes = class_indices(target, input, self.index_base).reshape(len(x), 1)
        losses = -(x.gather(1, classes) + 1e-8).log()
        return losses.mean() if self.size_average else losses.sum()

    class Lua(Criterion.Lua):
        indexed = True
        scalars = {"sizeAverage": "size_average"}
        checked_by = "formula"
        test = "test_true_likelihood_of_probabilities"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "weights" not in obj


@lua_class("nn.ClassNLLCriterionWithUNK")
class ClassNLLCriterionWithUNK(Criterion):
    """A negative log likelihood that ignores the samples of one class.

    As in fbnn, the loss of a batch with an ignored sample is a sum, even if ``crit`` averages.

    Args:
        crit: criterion for inputs without an ignored sample.
        unk_index: the ignored class, numbered as in the targets; None: no class is ignored.
        always_sum: sum the loss of every batch, as fbnn does on CUDA.
        index_base: index of the first class.

    Shape:
        - Input: log probabilities :math:`(N, C)` or :math:`(C)`; target :math:`(N)` or one number.
        - Output: scalar.

    Lua:
        ``nn.ClassNLLCriterionWithUNK(unk_index, sizeAverage)``, fbnn ClassNLLCriterionWithUNK.lua
    """

    def __init__(
        self, crit: nn.Module, unk_index: int | None = None, always_sum: bool = False, index_base: int = 1
    ) -> None:
        super().__init__()
        self.crit, self.unk_index = crit, unk_index
        self.always_sum, self.index_base = always_sum, index_base

    def forward(self, input: Tensor, target: Tensor | int) -> Tensor:
        if self.unk_index is None:
            return self.crit(input, target)
        unknown = self.unk_index - self.index_base
        classes = class_indices(target, input, self.index_base).reshape(-1)
        batch = input.reshape(-1, input.shape[-1])
        if input.dim() == 2 and not self.always_sum and not (classes == unknown).any():
            return self.crit(input, target)
        known = classes != unknown
        return F.nll_loss(batch[known], classes[known], reduction="sum")

    class Lua(Criterion.Lua):
        computed_fields = ("unk_index",)
        indexed = True
        members = ("crit",)
        scratch = ("tmp", "gradInputExtra")
        constants = {
            "tmp": lambda tensor_class: LuaTensor.empty("torch.LongTensor"),
            "gradInputExtra": LuaTensor.empty,
            "tensortype": lambda tensor_class: tensor_class,
        }
        checked_by = "formula"
        test = "test_likelihood_without_the_unknown_class_is_a_sum"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            unknown = obj.get("unk_index")
            return {
                **super().arguments(obj, ctx),
                "unk_index": None if unknown is None else unknown - 1 + ctx.index_base,
                "always_sum": obj.get("tensortype") == "torch.CudaTensor",
            }

        @classmethod
        def to_lua(cls, module: ClassNLLCriterionWithUNK, ctx: Any) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            unknown = module.unk_index
            return fields if unknown is None else {**fields, "unk_index": unknown + 1 - module.index_base}


@lua_class("nn.SoftPlusLSECriterion")
class SoftPlusLSECriterion(Criterion):
    """Sum over the rows of :math:`\\log(1 + \\sum_j e^{x_j})`; there is no target.

    Shape:
        - Input: :math:`(N, C)`.
        - Output: scalar.

    Lua:
        ``nn.SoftPlusLSECriterion()``, fbnn SoftPlusLSECriterion.lua
    """

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        return F.softplus(torch.logsumexp(input, 1)).sum()

    class Lua(Criterion.Lua):
        scratch = ("LSE", "SoftPlusLSE")
        constants = {"LSE": LuaTensor.empty, "sizeAverage": True, "threshold": 20}
        checked_by = "formula"
        test = "test_soft_plus_of_sums"


@lua_class("nn.SoftPlusLSEMinusLSECriterion")
class SoftPlusLSEMinusLSECriterion(SoftPlusLSECriterion):
    """Sum over the rows of :math:`\\log(1 + \\sum_j e^{x_j}) - \\log \\sum_j e^{x_j}`; there is no target.

    Shape:
        - Input: :math:`(N, C)`.
        - Output: scalar.

    Lua:
        ``nn.SoftPlusLSEMinusLSECriterion()``, fbnn SoftPlusLSEMinusLSECriterion.lua
    """

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        return super().forward(input) - torch.logsumexp(input, 1).sum()

    class Lua(SoftPlusLSECriterion.Lua):
        test = "test_soft_plus_of_sums"
