"""Criterions of nnx."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table, plain_object
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.criterion import MultiCriterion, WeightedCriterions, elementwise, filled
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.DistNLLCriterion")
class DistNLLCriterion(nn.Module):
    """Cross entropy between a distribution and a target distribution.

    Args:
        distance: the input contains distances, which are negated.
        probability: the input contains probabilities.
        log_probability: the input contains log probabilities. By default, the input contains scores for a log softmax.
        target_probability: the target contains probabilities; False: scores for a softmax.

    Shape:
        - Input: :math:`(C)`; target :math:`(C)`.
        - Output: scalar.

    Lua:
        ``nn.DistNLLCriterion{inputIsADistance=, …}``, nnx DistNLLCriterion.lua
    """

    def __init__(
        self,
        distance: bool = False,
        probability: bool = False,
        log_probability: bool = False,
        target_probability: bool = True,
    ) -> None:
        super().__init__()
        self.distance, self.probability = distance, probability
        self.log_probability, self.target_probability = log_probability, target_probability

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        target = elementwise(target if self.target_probability else target.softmax(-1), input)
        input = -input if self.distance else input
        if not self.log_probability:
            input = input.log() if self.probability else input.log_softmax(-1)
        return -(input * target).sum()

    class Lua(LuaClass):
        """The inner layers (``targetSoftMax`` …) have no parameters and are not converted."""

        scalars = {
            "inputIsADistance": "distance",
            "inputIsProbability": "probability",
            "inputIsLogProbability": "log_probability",
            "targetIsProbability": "target_probability",
        }
        scratch = ("gradLogInput", "input", "probTarget", "logProbInput")
        constants = {
            **dict.fromkeys(("gradLogInput", "input"), LuaTensor.empty),
            "targetSoftMax": plain_object("nn.SoftMax"),
            "inputLogSoftMax": plain_object("nn.LogSoftMax"),
            "inputLog": plain_object("nn.Log"),
        }


@lua_class("nn.DistMarginCriterion")
class DistMarginCriterion(nn.Module):
    """Hinge loss between the smallest score of the target classes and the score of every other class.

    If several target classes have the smallest score, the first in the list gets the gradient.

    Args:
        size_average: divide by the number of classes (not by the batch size).
        index_base: index of the first class; ``index_base - 1`` ends a list of targets.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`; target: lists of class indices in the input's shape.
        - Output: scalar.

    Lua:
        ``nn.DistMarginCriterion()``, nnx DistMarginCriterion.lua
    """

    def __init__(self, size_average: bool = True, index_base: int = 1) -> None:
        super().__init__()
        self.size_average, self.index_base = size_average, index_base

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        scores = input.reshape(-1, input.shape[-1])
        target = target.reshape(scores.shape).long() - self.index_base
        valid = (target >= 0).cumprod(1).bool()
        is_target = torch.zeros_like(scores).scatter_add(1, target.clamp(min=0), valid.to(scores.dtype)) > 0
        smallest = scores.gather(1, target.clamp(min=0)).masked_fill(~valid, float("inf")).min(1, keepdim=True).values
        loss = F.relu(1 - smallest + scores).masked_fill(is_target, 0).sum()
        return loss / input.shape[-1] if self.size_average else loss

    class Lua(LuaClass):
        indexed = True
        scalars = {"sizeAverage": "size_average"}


@lua_class("nn.SuperCriterion")
class SuperCriterion(WeightedCriterions):
    """Weighted sum of criterions, each with its own input.

    Args:
        criterions: the criterions.
        weights: factor of each criterion; default: 1.

    Shape:
        - Input: list with at least one element for each criterion.
        - Target: list with at least one element for each criterion, or one target for all criterions.
        - Output: scalar.

    Lua:
        ``nn.SuperCriterion():add(criterion, weight)``, nnx SuperCriterion.lua
    """

    def forward(self, input: Any, target: Any = None) -> Any:
        targets = target if isinstance(target, (list, tuple)) else [target] * len(self)
        return self.weighted_sum(input, targets)

    class Lua(MultiCriterion.Lua):
        constants = {"gradInput": empty_table}

        @classmethod
        def weights_to_lua(cls, weights: list[float]) -> Any:
            return LuaTable.from_list(weights)


@lua_class("nn.TreeNLLCriterion")
class TreeNLLCriterion(nn.Module):
    """Negative mean of the log probabilities that a tree of softmaxes returns; the target is ignored.

    Shape:
        - Input: :math:`(N)`.
        - Output: scalar.

    Lua:
        ``nn.TreeNLLCriterion()``, nnx TreeNLLCriterion.lua
    """

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        return -input.mean()

    class Lua(LuaClass):
        constants = {"_module": plain_object("nn.Mean", dimension=1, sizeAverage=True, squeeze=True)}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "_output_grad": filled(-1)(ctx.type_of(module))}


@lua_class("nn.CTCCriterion")
class CTCCriterion(nn.Module):
    """Connectionist temporal classification (CTC) loss of scores.

    Args:
        batch_first: the input has shape :math:`(N, T, C)`.

    Shape:
        - Input: scores :math:`(T, N, C)`; class 0 is the blank.
        - Target: ``[labels, lengths]``: a list with the labels of each sequence, counted from 1, and the lengths of the
          inputs.
        - Output: scalar, the mean over the batch.

    Differs from PyTorch:
        The gradient is that of the sum over the batch, N times the derivative of the output. Torch7 divides the loss by
        N, but not warp-ctc's gradient.

    Lua:
        ``nn.CTCCriterion(batchFirst)``, nnx CTCCriterion.lua, which calls warp-ctc
    """

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first

    def forward(self, input: Tensor, target: list[Any]) -> Tensor:
        labels, lengths = target
        scores = input.transpose(0, 1) if self.batch_first else input
        rows = [torch.as_tensor(row, dtype=torch.long).flatten() for row in labels]
        sizes = torch.tensor([len(row) for row in rows])
        losses = F.ctc_loss(
            scores.log_softmax(-1),
            torch.cat(rows).to(input.device),
            torch.as_tensor(lengths).long().cpu(),
            sizes,
            reduction="sum",
        )
        return with_gradient_of(losses / len(rows), losses)

    class Lua(LuaClass):
        scalars = {"batchFirst": "batch_first"}
        scratch = ("acts", "sizes")
        checked_by = "structure"
        test = "test_ctc_loss_of_a_batch"


@lua_class("nn.SparseCriterion", "nn.SpatialSparseCriterion")
class SparseCriterion(nn.Module):
    """Placeholder for a criterion whose C code is not in any version of nnx; raises an error when it runs.

    Raises:
        ConversionError: always, in ``forward``.

    Lua:
        ``nn.SparseCriterion()`` and ``nn.SpatialSparseCriterion()``, nnx
    """

    def forward(self, input: Any, target: Any = None) -> Tensor:
        raise ConversionError(
            "no version of nnx contains the C code of this criterion, so its result is unknown",
            class_name="nn.SparseCriterion",
        )

    class Lua(LuaClass):
        checked_by = "structure"
        test = "test_object_becomes_a_module_and_an_object_again"
