"""Criterions for classification with margins or with several labels per sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import plain_object
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Loss, LossClass, checked_reduction, class_indices, elementwise, expanded
from dpnn_bridge.modules.nn.criterion_classification import IndexedClass, WeightsClass
from dpnn_bridge.modules.nn.criterion_regression import MSECriterion
from dpnn_bridge.modules.nn.indices import rows_at
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of

#: keeps BCECriterion's logarithms finite
EPSILON = 1e-12


class _BinaryCrossEntropy(torch.autograd.Function):
    """Binary cross entropy of each element, with the formula of Torch7's gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, target: Tensor) -> Tensor:
        return -(target * (input + EPSILON).log() + (1 - target) * (1 - input + EPSILON).log())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        input, target = ctx.saved_tensors
        return grad_output * (input - target) / ((1 - input + EPSILON) * (input + EPSILON)), None


@lua_class("nn.BCECriterion")
class BCECriterion(Loss):
    r"""Mean or sum of :math:`-w (t \log(x + \epsilon) + (1 - t) \log(1 - x + \epsilon))`, :math:`\epsilon = 10^{-12}`.

    Args:
        weight: one factor for each column.
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`, probabilities; :math:`(N, C)` or :math:`(C)` with weights.
        - Target: as many elements as the input.
        - Output: scalar.

    Lua:
        ``nn.BCECriterion([weights], [sizeAverage])``, BCECriterion.lua. For inputs outside 0 … 1, Torch7 raises an
        error; the loss here is NaN.

    Differs from PyTorch:
        :class:`torch.nn.BCELoss` clamps the logarithms to at least -100; here :math:`\epsilon` limits them to -27.6.

    Raises:
        ValueError: the target has another number of elements, or not one column per weight.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        losses: Tensor = _BinaryCrossEntropy.apply(input, elementwise(target, input))  # type: ignore[assignment]
        weight = expanded(self.weight, target)
        return self.reduced(losses if weight is None else losses * weight.reshape(losses.shape))

    class Lua(WeightsClass):
        torch_type = nn.BCELoss


@lua_class("nn.MultiLabelSoftMarginCriterion")
class MultiLabelSoftMarginCriterion(nn.BCEWithLogitsLoss):
    r"""Mean or sum over all elements of the cross entropy between :math:`\sigma(x)` and the target.

    Args:
        weight: one factor for each column.
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`; :math:`(N, C)` or :math:`(C)` with weights.
        - Target: as many elements as the input, each 0 or 1.
        - Output: scalar.

    Lua:
        ``nn.MultiLabelSoftMarginCriterion([weights], [sizeAverage])``, MultiLabelSoftMarginCriterion.lua

    Differs from PyTorch:
        The sum of :class:`torch.nn.MultiLabelSoftMarginLoss` is smaller by the factor :math:`C`.

    Raises:
        ValueError: the target has another number of elements, or not one column per weight.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(weight, reduction=reduction)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        weight = expanded(self.weight, target)
        target = elementwise(target, input)
        weight = None if weight is None else weight.reshape(input.shape)
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=self.reduction)

    class Lua(WeightsClass):
        is_mean = is_true
        torch_type = nn.BCEWithLogitsLoss
        constants = {"output": 0, "sigmoid": plain_object("nn.Sigmoid")}
        averages = False

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade files from before 2017: a sigmoid ``lsm``, and a BCECriterion ``nll`` with the settings."""
            nll = obj.get("nll")
            if not isinstance(nll, LuaObject):
                return super().upgrade(obj)
            average = nll.get("sizeAverage", True)
            return obj.changed(sizeAverage=average, weights=nll.get("weights"), sigmoid=obj["lsm"], nll=None, lsm=None)


@lua_class("nn.MultiLabelMarginCriterion")
class MultiLabelMarginCriterion(nn.MultiLabelMarginLoss):
    r"""Sum of :math:`\max(0, 1 - x_t + x_j) / C` over the target classes t and all other classes j.

    Args:
        reduction: ``"mean"``, over the batch, or ``"sum"``.
        index_base: index of the first class; ``index_base - 1`` ends a list of targets.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`.
        - Target: the input's shape, lists of target classes; integers or floats.
        - Output: scalar.

    Lua:
        ``nn.MultiLabelMarginCriterion()``, MultiLabelMarginCriterion.lua

    Differs from PyTorch:
        Class indices start at 1, and 0 ends a list of targets.
    """

    def __init__(self, reduction: str = "mean", index_base: int = 1) -> None:
        super().__init__(reduction=reduction)
        self.index_base = index_base

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return super().forward(input, class_indices(target, input, self.index_base))

    class Lua(LossClass):
        torch_type = nn.MultiLabelMarginLoss
        indexed = True
        constants = {"output": 0, "isTarget": LuaTensor.empty}
        scratch = ("isTarget",)


@lua_class("nn.MultiMarginCriterion")
class MultiMarginCriterion(nn.MultiMarginLoss):
    r"""Sum of :math:`w_t \max(0, m - x_t + x_j)^p / C` over all classes j except the target t.

    Args:
        p: exponent, 1 or 2.
        margin: :math:`m`.
        weight: one factor for each class.
        reduction: ``"mean"``, over the batch, or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`.
        - Target: :math:`(N)`, or one number; integers or floats.
        - Output: scalar.

    Lua:
        ``nn.MultiMarginCriterion([p], [weights], [margin])``, MultiMarginCriterion.lua

    Differs from PyTorch:
        Class indices start at 1.
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: str = "mean",
        index_base: int = 1,
    ) -> None:
        super().__init__(p, margin, weight, reduction=reduction)
        self.index_base = index_base

    def forward(self, input: Tensor, target: Any) -> Tensor:
        target = class_indices(target, input, self.index_base)
        if input.dim() == 1:
            input, target = input.unsqueeze(0), target.reshape(-1)[:1]
        return super().forward(input, target)

    class Lua(IndexedClass):
        scalars = ("p", "margin")
        defaults = {"p": 1, "margin": 1}
        buffers = ("output_tensor", "target_tensor")


@lua_class("nn.MarginCriterion")
class MarginCriterion(Loss):
    r"""Mean or sum of :math:`\max(0, m - x t)`.

    Args:
        margin: :math:`m`.
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`.
        - Target: as many elements as the input, each 1 or -1.
        - Output: scalar.

    Lua:
        ``nn.MarginCriterion([margin])``, MarginCriterion.lua
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input: Tensor, target: Any = None) -> Tensor:
        return self.reduced(F.relu(self.margin - input * elementwise(target, input)))

    class Lua(LossClass):
        scalars = ("margin",)
        defaults = {"margin": 1}


@lua_class("nn.SoftMarginCriterion")
class SoftMarginCriterion(nn.SoftMarginLoss):
    r"""Mean or sum of :math:`\log(1 + e^{-x t})`.

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Shape:
        - Input: :math:`(*)`.
        - Target: as many elements as the input, each 1 or -1.
        - Output: scalar.

    Lua:
        ``nn.SoftMarginCriterion()``, SoftMarginCriterion.lua

    Differs from PyTorch:
        The target is reshaped to the input's shape, not broadcast. The exponential is computed in float64, so a loss
        above 88 is finite; its gradient is NaN, as in PyTorch.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=checked_reduction(reduction))

    def forward(self, input: Tensor, target: Any) -> Tensor:
        target = elementwise(target, input)
        losses = torch.log(1 + torch.exp((-input * target).double())).to(input.dtype)
        return with_gradient_of(
            losses.mean() if self.reduction == "mean" else losses.sum(), super().forward(input, target)
        )

    class Lua(LossClass):
        torch_type = nn.SoftMarginLoss


def simplex(n: int) -> Tensor:
    """Return ``n`` unit vectors with equal angles between them, of shape (n, n), one per row; the last column is 0."""
    k = torch.arange(n - 1, dtype=torch.float64)
    diagonal = (n * (n - 1 - k) / ((n - 1) * (n - k))).sqrt()
    below = -diagonal / (n - 1 - k)
    vertices = torch.zeros(n, n, dtype=torch.float64)
    vertices[:, :-1] = torch.tril(below.expand(n, n - 1), -1)
    vertices.diagonal()[:-1] = diagonal
    return vertices


@lua_class("nn.ClassSimplexCriterion")
class ClassSimplexCriterion(MSECriterion):
    r"""Mean or sum of squared errors between the input and the target class's vertex of a regular simplex.

    Args:
        n_classes: number of classes :math:`C`.
        reduction: ``"mean"`` or ``"sum"``.
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`.
        - Target: :math:`(N)`, or one number; integers or floats.
        - Output: scalar.

    Attributes:
        simplex: buffer :math:`(C, C)` with one vertex per row.

    Lua:
        ``nn.ClassSimplexCriterion(nClasses)``, ClassSimplexCriterion.lua

    Raises:
        ValueError: the input does not have :math:`C` elements for each target.
        IndexError: a target is not the index of a class.
    """

    simplex: Tensor

    def __init__(self, n_classes: int, reduction: str = "mean", index_base: int = 1) -> None:
        super().__init__(reduction=reduction)
        self.n_classes, self.index_base = n_classes, index_base
        self.register_buffer("simplex", simplex(n_classes).to(torch.get_default_dtype()))

    def forward(self, input: Tensor, target: Any) -> Tensor:
        classes = class_indices(target, input, self.index_base).reshape(-1)
        return super().forward(input, rows_at(self.simplex, classes, self.index_base))

    def predictions(self, input: Tensor) -> Tensor:
        """Return the similarity of each sample to each class, shape :math:`(N, C)`. Lua: ``getPredictions``."""
        return input.reshape(-1, self.n_classes) @ self.simplex.t()

    def top_prediction(self, input: Tensor) -> Tensor:
        """Return the most similar class of each sample, shape :math:`(N)`. Lua: ``getTopPrediction``."""
        return self.predictions(input).argmax(-1) + self.index_base

    class Lua(LossClass):
        indexed = True
        constants = {"output": 0, "_target": LuaTensor.empty}
        scalars = {"nClasses": "n_classes"}
        tensors = ("simplex",)
