"""Criterions for classification with one class per sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import Field, LuaRecord
from dpnn_bridge.conversion.lua_class import constant_fields, plain_object
from dpnn_bridge.conversion.registry import lua_class, mapping_of
from dpnn_bridge.modules.nn.criterion import (
    Criterion,
    LossClass,
    checked_reduction,
    class_indices,
    filled,
    nll_loss,
    reduction,
)
from dpnn_bridge.objects import LuaObject, LuaTensor

#: default of ``ignore_index`` in Torch7 and PyTorch; does not depend on ``index_base``
NO_CLASS = -100

#: an ``ignore_index`` that never occurs, for classes of Torch7 without ``ignoreIndex``
NEVER = torch.iinfo(torch.int32).min


def _sample_nll(criterion: ClassNLLCriterion | CrossEntropyCriterion, log_probs: Tensor, target: Any) -> Tensor:
    """Compute :func:`nll_loss` of one sample or a batch.

    Raises:
        ValueError: the shapes are neither those of a sample nor those of a batch.
    """
    base = criterion.index_base
    target = class_indices(target, log_probs, base)
    if log_probs.dim() == 1:
        log_probs, target = log_probs.unsqueeze(0), target.reshape(-1)[:1]
    elif target.dim() == 0:
        target = target.reshape(1)
    if log_probs.dim() != 2 or target.shape != log_probs.shape[:1]:
        raise ValueError(
            f"expected input of shape (C,) with one target, or (N, C) with a target of shape (N,), "
            f"found {tuple(log_probs.shape)} and {tuple(target.shape)}"
        )
    return nll_loss(log_probs, target, criterion.weight, criterion.ignore_index - base, criterion.reduction)


class WeightsClass(LossClass):
    """Base class of the mappings of criterions with optional ``weights``, one for each class."""

    tensors = {"weights": "weight"}


class IndexedClass(WeightsClass):
    """Base class of the mappings of criterions whose targets are class indices."""

    indexed = True


class NLLClass(IndexedClass):
    """Base class of the mappings of criterions with buffers that Torch7 needs before the first call."""

    scratch = ("output_tensor", "total_weight_tensor", "target")
    buffers = ()

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        tensor_class = ctx.type_of(module)
        return {
            **super().to_lua(module, ctx),
            "output_tensor": filled(0)(tensor_class),
            "total_weight_tensor": filled(1)(tensor_class),
            "target": filled(0)("torch.LongTensor"),
        }


@lua_class("nn.ClassNLLCriterion")
class ClassNLLCriterion(nn.NLLLoss):
    r"""Negative log likelihood :math:`-w_t x_t`; the mean is weighted by the weights of the targets.

    Args:
        weight: one factor for each class.
        ignore_index: target that is ignored, numbered as the targets.
        reduction: ``"mean"`` or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`, log probabilities.
        - Target: :math:`(N)`, or one number for one sample; integers or floats.
        - Output: scalar.

    Lua:
        ``nn.ClassNLLCriterion([weights], [sizeAverage], [ignoreIndex])``, ClassNLLCriterion.lua

    Differs from PyTorch:
        Class indices start at 1. If all targets are ignored, the loss is 0, not NaN.

    Raises:
        ValueError: input or target has another shape.
        IndexError: a target is not the index of a class.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = NO_CLASS,
        reduction: str = "mean",
        index_base: int = 1,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=checked_reduction(reduction))
        self.index_base = index_base

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return _sample_nll(self, input, target)

    class Lua(NLLClass):
        torch_type = nn.NLLLoss
        computed_fields = ("ignoreIndex",)
        defaults = {"ignoreIndex": NO_CLASS}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "ignore_index": ignore_index(obj, ctx)}

        @classmethod
        def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            note_average(module, obj, ctx)

        @classmethod
        def to_lua(cls, module: nn.NLLLoss, ctx: LuaContext) -> dict[str, Any]:
            number = module.ignore_index
            return {
                **super().to_lua(module, ctx),
                "ignoreIndex": number if number == NO_CLASS else number - index_base(module) + 1,
            }


def note_average(module: Any, obj: LuaObject, ctx: TorchContext) -> None:
    """Note that Torch7 before August 2015, which wrote no ``output_tensor``, averaged weighted losses differently."""
    if module.weight is not None and module.reduction == "mean" and obj.get("output_tensor") is None:
        ctx.note(
            "this nn.ClassNLLCriterion has weights and no output_tensor. Torch7 before August "
            "2015, which wrote such files, divided the weighted sum by the number of samples; the module divides it by "
            "the weights of the targets, as Torch7 has done since"
        )


def index_base(module: nn.Module) -> int:
    """Return the index of the first class; 0 for PyTorch's own losses."""
    return getattr(module, "index_base", 0)


def ignore_index(obj: LuaObject, ctx: TorchContext) -> int:
    """Return ``ignoreIndex``, numbered from the ``index_base`` of the conversion."""
    number = int(obj.get("ignoreIndex", NO_CLASS))
    return number if number == NO_CLASS else number - 1 + ctx.index_base


@lua_class("nn.CrossEntropyCriterion")
class CrossEntropyCriterion(nn.CrossEntropyLoss):
    r"""Negative log likelihood of the softmax of the input; dimensions of size 1 are removed first.

    Args:
        weight: one factor for each class.
        ignore_index: target that is ignored, numbered as the targets.
        reduction: ``"mean"`` or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`, with any additional dimensions of size 1.
        - Target: :math:`(N)`, or one number; integers or floats.
        - Output: scalar.

    Lua:
        ``nn.CrossEntropyCriterion([weights], [sizeAverage])``, CrossEntropyCriterion.lua

    Differs from PyTorch:
        Class indices start at 1. If all targets are ignored, the loss is 0, not NaN.

    Raises:
        ValueError: input or target has another shape.
        IndexError: a target is not the index of a class.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = NO_CLASS,
        reduction: str = "mean",
        index_base: int = 1,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=checked_reduction(reduction))
        self.index_base = index_base

    def forward(self, input: Tensor, target: Any) -> Tensor:
        scores = input.squeeze()
        target = torch.as_tensor(target, device=input.device).squeeze()
        return _sample_nll(self, F.log_softmax(scores, -1), target)

    class Lua(LossClass):
        torch_type = nn.CrossEntropyLoss
        computed_fields = ("nll", "oldSizeAverage")
        constants = {"output": 0, "lsm": plain_object("nn.LogSoftMax")}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            nll, own = obj["nll"], obj.get("sizeAverage")
            average = own if own != obj.get("oldSizeAverage") else nll.get("sizeAverage", True)
            return {
                "reduction": reduction(average),
                "ignore_index": ignore_index(nll, ctx),
                "index_base": ctx.index_base,
            }

        @classmethod
        def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
            assign_weights(module, obj["nll"], ctx)
            note_average(module, obj["nll"], ctx)

        @classmethod
        def to_lua(cls, module: nn.CrossEntropyLoss, ctx: LuaContext) -> dict[str, Any]:
            nll = ClassNLLCriterion(module.weight, module.ignore_index, module.reduction, index_base(module))
            return {
                **super().to_lua(module, ctx),
                "oldSizeAverage": module.reduction == "mean",
                "nll": part_to_lua(nll, module, ctx),
            }


def assign_weights(module: nn.Module, nll: LuaObject, ctx: TorchContext) -> None:
    """Set the module's class weights from the inner criterion ``nll``."""
    if isinstance(nll.get("weights"), LuaTensor):
        ctx.assign(module, Field("weight"), "weights", nll)


def part_to_lua(inner: nn.Module, outer: nn.Module, ctx: LuaContext) -> LuaObject:
    """Convert an inner criterion, which PyTorch does not have as a module, with the tensor type of the outer one."""
    mapping, tensor_class = mapping_of(inner), ctx.type_of(outer)
    inner.__dict__["lua_record"] = LuaRecord(mapping.names[0], tensor_type=tensor_class)
    obj = ctx.to_lua(inner)
    for name, value in constant_fields(mapping, tensor_class).items():
        obj.setdefault(name, value)
    return obj


@lua_class("nn.SpatialClassNLLCriterion")
class SpatialClassNLLCriterion(nn.NLLLoss):
    r"""Negative log likelihood :math:`-w_t x_t` of each pixel; the mean is weighted by the weights of the targets.

    Args:
        weight: one factor for each class.
        reduction: ``"mean"`` or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C, H, W)`, log probabilities.
        - Target: :math:`(N, H, W)`; integers or floats.
        - Output: scalar.

    Lua:
        ``nn.SpatialClassNLLCriterion([weights], [sizeAverage])``, SpatialClassNLLCriterion.lua

    Differs from PyTorch:
        Class indices start at 1, and no class is ignored.

    Raises:
        ValueError: input or target has another shape.
        IndexError: a target is not the index of a class.
    """

    spatial_dims = 2

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", index_base: int = 1) -> None:
        super().__init__(weight, ignore_index=NEVER, reduction=checked_reduction(reduction))
        self.index_base = index_base

    def forward(self, input: Tensor, target: Any) -> Tensor:
        target = class_indices(target, input, self.index_base)
        if input.dim() != self.spatial_dims + 2 or target.shape != input.shape[:1] + input.shape[2:]:
            raise ValueError(
                f"expected input (N, C, ...) with {self.spatial_dims} dimensions after C, and a target (N, ...), "
                f"found {tuple(input.shape)} and {tuple(target.shape)}"
            )
        return nll_loss(input, target, self.weight, self.ignore_index, self.reduction)

    class Lua(NLLClass):
        pass


spatial_log_softmax = plain_object(
    "cudnn.SpatialLogSoftMax", algorithm="CUDNN_SOFTMAX_LOG", mode="CUDNN_SOFTMAX_MODE_CHANNEL"
)


@lua_class("cudnn.SpatialCrossEntropyCriterion")
class SpatialCrossEntropyCriterion(SpatialClassNLLCriterion):
    r"""Negative log likelihood of the softmax over the channels of each pixel.

    Args:
        weight: one factor for each class.
        reduction: ``"mean"`` or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Target: :math:`(N, H, W)`; integers or floats.
        - Output: scalar.

    Lua:
        ``cudnn.SpatialCrossEntropyCriterion([weights])``, SpatialCrossEntropyCriterion.lua

    Raises:
        ValueError: input or target has another shape.
        IndexError: a target is not the index of a class.
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return super().forward(F.log_softmax(input, 1), target)

    class Lua(LossClass):
        computed_fields = ("nll",)
        indexed = True
        constants = {"output": 0, "slsm": spatial_log_softmax}

        @classmethod
        def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
            assign_weights(module, obj["nll"], ctx)

        @classmethod
        def to_lua(cls, module: SpatialCrossEntropyCriterion, ctx: LuaContext) -> dict[str, Any]:
            nll = SpatialClassNLLCriterion(module.weight, module.reduction, module.index_base)
            return {**super().to_lua(module, ctx), "nll": part_to_lua(nll, module, ctx)}


@lua_class("cudnn.VolumetricCrossEntropyCriterion")
class VolumetricCrossEntropyCriterion(SpatialCrossEntropyCriterion):
    r"""Negative log likelihood of the softmax over the channels of each voxel.

    Args:
        weight: one factor for each class.
        reduction: ``"mean"`` or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C, T, H, W)`.
        - Target: :math:`(N, T, H, W)`; integers or floats.
        - Output: scalar.

    Lua:
        ``cudnn.VolumetricCrossEntropyCriterion([weights])``, VolumetricCrossEntropyCriterion.lua

    Raises:
        ValueError: input or target has another shape.
        IndexError: a target is not the index of a class.
    """

    spatial_dims = 3

    class Lua(Criterion.Lua):
        computed_fields = ("scec",)

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return SpatialCrossEntropyCriterion.Lua.arguments(obj["scec"], ctx)

        @classmethod
        def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
            assign_weights(module, obj["scec"]["nll"], ctx)

        @classmethod
        def to_lua(cls, module: VolumetricCrossEntropyCriterion, ctx: LuaContext) -> dict[str, Any]:
            scec = SpatialCrossEntropyCriterion(module.weight, module.reduction, module.index_base)
            return {**super().to_lua(module, ctx), "scec": part_to_lua(scec, module, ctx)}
