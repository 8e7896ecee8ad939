"""Export losses with other arguments or options than Torch7's criterions."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.nn.criterion_embedding import (
    CosineEmbeddingCriterion,
    HingeEmbeddingCriterion,
    MarginRankingCriterion,
)
from dpnn_bridge.modules.nn.criterion_margin import MultiLabelSoftMarginCriterion, MultiMarginCriterion
from dpnn_bridge.modules.nn.criterion_regression import SmoothL1Criterion
from dpnn_bridge.modules.pytorch.parts import refuse, refuse_all
from dpnn_bridge.objects import LuaObject


def _reduction(module: Any) -> str:
    if module.reduction == "none":
        refuse(module, "reduction='none'", "'mean' and 'sum' can be exported")
    return module.reduction


@composition(nn.HingeEmbeddingLoss, nn.CosineEmbeddingLoss, nn.MarginRankingLoss)
def pair_loss(module: Any, ctx: LuaContext) -> LuaObject:
    """Export a loss with a margin; in Torch7, two inputs are one table."""
    names = {nn.CosineEmbeddingLoss: CosineEmbeddingCriterion, nn.MarginRankingLoss: MarginRankingCriterion}
    equivalent = names.get(type(module), HingeEmbeddingCriterion)(module.margin, _reduction(module))
    return ctx.to_lua(equivalent)


@composition(nn.MultiMarginLoss)
def multi_margin(module: nn.MultiMarginLoss, ctx: LuaContext) -> LuaObject:
    """Export a margin loss; class indices start at 1 in Torch7."""
    return ctx.to_lua(MultiMarginCriterion(module.p, module.margin, module.weight, _reduction(module)))


@composition(nn.MultiLabelSoftMarginLoss)
def multi_label_soft_margin(module: nn.MultiLabelSoftMarginLoss, ctx: LuaContext) -> LuaObject:
    """Export a soft margin loss; with ``sum``, PyTorch sums the means over classes, Torch7 sums all elements."""
    weight, reduction = module.weight, _reduction(module)
    if reduction == "sum":
        if weight is None:
            what = "reduction='sum' without weights, which averages over the classes"
            refuse(module, what, "'mean' can be exported, and 'sum' with weight=torch.ones(number of classes)")
        weight = weight / len(weight)
    return ctx.to_lua(MultiLabelSoftMarginCriterion(weight, reduction))


@composition(nn.SmoothL1Loss, nn.HuberLoss)
def smooth_l1(module: Any, ctx: LuaContext) -> LuaObject | None:
    name = "beta" if isinstance(module, nn.SmoothL1Loss) else "delta"
    if getattr(module, name) != 1:
        refuse(module, f"{name}={getattr(module, name)}", f"{name}=1 can be exported")
    reduction = _reduction(module)
    return None if isinstance(module, nn.SmoothL1Loss) else ctx.to_lua(SmoothL1Criterion(reduction=reduction))


@composition(nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.KLDivLoss)
def options(module: Any, ctx: LuaContext) -> None:
    if getattr(module, "label_smoothing", 0):
        refuse(module, "label_smoothing", "label_smoothing=0 can be exported")
    if getattr(module, "pos_weight", None) is not None:
        refuse(module, "pos_weight", "weight can be exported, with one factor for each column")
    _check_weight(module)
    if getattr(module, "log_target", False):
        refuse(module, "log_target=True", "log_target=False can be exported")
    if module.reduction == "batchmean":
        refuse(module, "reduction='batchmean'", "'mean' and 'sum' can be exported")
    _reduction(module)


@composition(nn.MSELoss, nn.L1Loss, nn.NLLLoss, nn.BCELoss, nn.SoftMarginLoss, nn.MultiLabelMarginLoss)
def plain_loss(module: Any, ctx: LuaContext) -> None:
    _check_weight(module)
    _reduction(module)


def _check_weight(module: Any) -> None:
    """Raise an error for factors of single samples, which binary losses of PyTorch accept."""
    weight = getattr(module, "weight", None)
    if weight is not None and weight.numel() != weight.shape[-1:].numel():
        refuse(
            module,
            f"a weight of shape {tuple(weight.shape)}",
            "weight can be exported, with one factor for each column",
        )


#: losses that cannot be exported, with similar losses that can
NEAREST_LOSS: dict[type[nn.Module], str] = {
    nn.PoissonNLLLoss: "MSELoss and KLDivLoss can be exported",
    nn.GaussianNLLLoss: "MSELoss can be exported",
    nn.CTCLoss: "use nn.CTCCriterion in Lua, which requires the package warp-ctc",
    nn.TripletMarginLoss: "MarginRankingLoss and CosineEmbeddingLoss can be exported",
    nn.TripletMarginWithDistanceLoss: "MarginRankingLoss and CosineEmbeddingLoss can be exported",
}

if hasattr(nn, "LinearCrossEntropyLoss"):
    NEAREST_LOSS[nn.LinearCrossEntropyLoss] = "Linear and CrossEntropyLoss can be exported"


refuse_all(NEAREST_LOSS)
