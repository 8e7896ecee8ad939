"""Losses that PyTorch calls with other arguments, and losses that Torch7 lacks."""

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
from dpnn_bridge.modules.pytorch.parts import refuse
from dpnn_bridge.objects import LuaObject


def _reduction(module: Any) -> str:
    if module.reduction == "none":
        refuse(module, "reduction='none'", "'mean' and 'sum' can be written")
    return module.reduction


@composition(nn.HingeEmbeddingLoss, nn.CosineEmbeddingLoss, nn.MarginRankingLoss)
def pair_loss(module: Any, ctx: LuaContext) -> LuaObject:
    """Wrap a loss of two inputs, which takes a table in Torch7."""
    names = {nn.CosineEmbeddingLoss: CosineEmbeddingCriterion, nn.MarginRankingLoss: MarginRankingCriterion}
    twin = names.get(type(module), HingeEmbeddingCriterion)(module.margin, _reduction(module))
    return ctx.to_lua(twin)


@composition(nn.MultiMarginLoss)
def multi_margin(module: nn.MultiMarginLoss, ctx: LuaContext) -> LuaObject:
    """Export a margin loss; classes count from 1 in Torch7."""
    return ctx.to_lua(MultiMarginCriterion(module.p, module.margin, module.weight, _reduction(module)))


@composition(nn.MultiLabelSoftMarginLoss)
def multi_label_soft_margin(module: nn.MultiLabelSoftMarginLoss, ctx: LuaContext) -> LuaObject:
    """Export a soft margin loss: PyTorch sums means over classes, Torch7 sums over both."""
    weight, reduction = module.weight, _reduction(module)
    if reduction == "sum":
        if weight is None:
            what = "reduction='sum' without weights, a sum over samples of the mean over the classes"
            refuse(module, what, "'mean' can be written, and 'sum' with weight=torch.ones(number of classes)")
        weight = weight / len(weight)
    return ctx.to_lua(MultiLabelSoftMarginCriterion(weight, reduction))


@composition(nn.SmoothL1Loss, nn.HuberLoss)
def smooth_l1(module: Any, ctx: LuaContext) -> LuaObject | None:
    name = "beta" if isinstance(module, nn.SmoothL1Loss) else "delta"
    if getattr(module, name) != 1:
        refuse(module, f"{name}={getattr(module, name)}", f"{name}=1 can be written")
    reduction = _reduction(module)
    return None if isinstance(module, nn.SmoothL1Loss) else ctx.to_lua(SmoothL1Criterion(reduction=reduction))


@composition(nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.KLDivLoss)
def options(module: Any, ctx: LuaContext) -> None:
    if getattr(module, "label_smoothing", 0):
        refuse(module, "label_smoothing", "label_smoothing=0 can be written")
    if getattr(module, "pos_weight", None) is not None:
        refuse(module, "pos_weight", "weight can be written, one for each column")
    if getattr(module, "log_target", False):
        refuse(module, "log_target=True", "log_target=False can be written")
    if module.reduction == "batchmean":
        refuse(module, "reduction='batchmean'", "'mean' and 'sum' can be written")
    _reduction(module)


@composition(nn.MSELoss, nn.L1Loss, nn.NLLLoss, nn.BCELoss, nn.SoftMarginLoss, nn.MultiLabelMarginLoss)
def plain_loss(module: Any, ctx: LuaContext) -> None:
    _reduction(module)


#: losses that cannot be written, with the nearest thing that can
NEAREST_LOSS: dict[type[nn.Module], str] = {
    nn.PoissonNLLLoss: "MSELoss and KLDivLoss can be written",
    nn.GaussianNLLLoss: "MSELoss can be written",
    nn.CTCLoss: "nn.CTCCriterion needs the package warp-ctc",
    nn.TripletMarginLoss: "MarginRankingLoss can be written, and CosineEmbeddingLoss",
    nn.TripletMarginWithDistanceLoss: "MarginRankingLoss can be written, and CosineEmbeddingLoss",
}

if hasattr(nn, "LinearCrossEntropyLoss"):
    NEAREST_LOSS[nn.LinearCrossEntropyLoss] = "Linear and CrossEntropyLoss can be written"


def _without_counterpart(module: nn.Module, ctx: LuaContext) -> LuaObject:
    return refuse(module, "it", NEAREST_LOSS[type(module)])


composition(*NEAREST_LOSS)(_without_counterpart)
