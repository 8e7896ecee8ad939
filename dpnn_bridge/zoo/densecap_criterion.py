"""Criterions of densecap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, WithoutParameters
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.zoo.densecap import InvertBoxTransform


@lua_class("nn.BoxRegressionCriterion")
class BoxRegressionCriterion(nn.Module):
    """Loss between predicted transforms and the transforms that map the anchors to the target boxes.

    Args:
        smooth_l1: loss that compares the transforms.
        weight: factor of the loss.

    Shape:
        - Input: ``[anchors, transforms]``, both :math:`(N, 4)`; target boxes :math:`(N, 4)`.
        - Output: scalar. Boxes whose target transform has an absolute value above 10 contribute 0
          (a mean counts them).

    Lua:
        ``nn.BoxRegressionCriterion(w)``, densecap modules/BoxRegressionCriterion.lua
    """

    def __init__(self, smooth_l1: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        self.smooth_l1, self.weight, self.invert = smooth_l1, weight, InvertBoxTransform()

    def forward(self, input: list[Tensor], target: Tensor) -> Tensor:
        anchors, transforms = input
        expected = self.invert([anchors, target])
        far = (expected.detach().abs() > 10).any(1, keepdim=True)
        return self.weight * self.smooth_l1(transforms.masked_fill(far, 0), expected.masked_fill(far, 0))

    class Lua(WithoutParameters):
        members = ("smooth_l1",)
        scalars = {"w": "weight"}
        scratch = ("target_transforms", "mask")

        @classmethod
        def to_lua(cls, module: BoxRegressionCriterion, ctx: LuaContext) -> dict[str, Any]:
            fields = {**super().to_lua(module, ctx), "gradInput": ctx.empty_tensors(module, 2)}
            # the field is not a member: a converted module keeps the object of its file, and export restores it
            return fields if record_of(module) else {**fields, "invert_transform": ctx.to_lua(module.invert)}


@lua_class("nn.OurCrossEntropyCriterion")
class OurCrossEntropyCriterion(nn.Module):
    """Cross entropy: log softmax and negative log likelihood.

    Args:
        lsm: the log softmax.
        nll: the negative log likelihood.

    Shape:
        - Input: :math:`(N, C)`; target :math:`(N)`.
        - Output: scalar.

    Lua:
        ``nn.OurCrossEntropyCriterion(weights)``, densecap modules/OurCrossEntropyCriterion.lua
    """

    def __init__(self, lsm: nn.Module, nll: nn.Module) -> None:
        super().__init__()
        self.lsm, self.nll = lsm, nll

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.nll(self.lsm(input), target)

    class Lua(WithoutParameters):
        members = ("lsm", "nll")


@lua_class("nn.LogisticCriterion")
class LogisticCriterion(nn.Module):
    """Mean logistic loss of every class against all other classes.

    Args:
        index_base: index of the first class; ``index_base - 1`` means no class.

    Shape:
        - Input: scores :math:`(N, C)`; target :math:`(N)`.
        - Output: scalar.

    Lua:
        ``nn.LogisticCriterion()``, densecap modules/LogisticCriterion.lua
    """

    def __init__(self, index_base: int = 1) -> None:
        super().__init__()
        self.index_base = index_base

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        classes = torch.arange(input.shape[1], device=input.device) + self.index_base
        return F.binary_cross_entropy_with_logits(input, (target.view(-1, 1) == classes).to(input.dtype))

    class Lua(LuaClass):
        scratch = ("offsets", "buffer", "log_den", "losses", "mask", "target_nonzero", "target_zero_mask")
        constants = {
            **dict.fromkeys(("offsets", "buffer", "log_den", "losses"), LuaTensor.empty),
            "mask": lambda tensor_class: LuaTensor.empty("torch.ByteTensor"),
            "target_nonzero": lambda tensor_class: LuaTensor.empty("torch.LongTensor"),
            "target_zero_mask": lambda tensor_class: LuaTensor.empty("torch.ByteTensor"),
        }
        checked_by = "structure"
        test = "test_a_model_is_the_same_after_t7_and_pt"
        indexed = True
