"""Layers of multipathnet, also used by STMN and other Fast R-CNN packages: boxes, containers, a box loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dpnn_bridge.compare.nested import first_tensor, map_tensors
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion, Loss
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of, zero_gradient


@lua_class("nn.BBoxNorm")
class BBoxNorm(nn.Module):
    """Denormalizes box regressions in evaluation; returns its input in training.

    Args:
        mean, std: mean and standard deviation, buffers of shape :math:`(1, 4)`.

    Shape:
        - Input, output: :math:`(N, 4 C)`.

    Differs from Torch7:
        In evaluation, Torch7 overwrites its input and has no backward pass.

    Lua:
        ``nn.BBoxNorm(mean, std)``, multipathnet modules/BBoxNorm.lua
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return input
        return (input.unflatten(1, (-1, 4)) * self.std + self.mean).flatten(1)

    class Lua(LuaClass):
        tensors = ("mean", "std")
        tensor_args = ("mean", "std")
        default_training = False
        checked_by = "formula"
        test = "test_bbox_norm_scales_in_evaluation_only"


@lua_class("nn.NoBackprop")
class NoBackprop(nn.Sequential):
    """Container of one module that is not trained: its parameters get no gradient; the gradient of its input is zero.

    Args:
        module: the module.

    Shape:
        - Input, output: as for the module.

    Lua:
        ``nn.NoBackprop(module)``, multipathnet modules/NoBackprop.lua
    """

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        with torch.no_grad():
            output = self[0](input)
        return map_tensors(lambda t: zero_gradient(t, first_tensor(input)), output)

    class Lua(LuaClass):
        container = True
        version = 2
        checked_by = "formula"
        test = "test_nothing_is_trained_behind_no_backprop"

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade version 1, which stores the module in ``inner``."""
            if "inner" not in obj:
                return obj
            return obj.changed(inner=None, modules=LuaTable.from_list([obj["inner"]]))


@lua_class("nn.ModeSwitch")
class ModeSwitch(nn.Sequential):
    """Runs one module in training and another module in evaluation. Their parameters get no gradients.

    Args:
        *modules: the module for training and the module for evaluation.

    Shape:
        - Input, output: as for the active module.

    Differs from Torch7:
        Torch7 has no backward pass in evaluation.

    Lua:
        ``nn.ModeSwitch(train_module, test_module)``, multipathnet modules/ModeSwitch.lua
    """

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        active = self[0] if self.training else self[1]
        return functional_call(active, {name: p.detach() for name, p in active.named_parameters()}, (input,))

    class Lua(LuaClass):
        container = True
        checked_by = "formula"
        test = "test_mode_switch_leaves_parameters_alone"


@lua_class("nn.Foveal")
class Foveal(nn.Module):
    """Returns each box and three larger boxes around the same centre: 1.5, 2 and 4 times the size.

    Coordinates are rounded to single precision. There is no gradient.

    Shape:
        - Input: :math:`(N, 5)`, rows ``image, x1, y1, x2, y2``.
        - Output: :math:`(4 N, 5)`.

    Lua:
        ``nn.Foveal()``, multipathnet modules/Foveal.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        boxes = input.detach().float().double()
        start, size = boxes[:, 1:3], boxes[:, 3:] - boxes[:, 1:3]
        regions = [boxes]
        for before, scale in ((0.25, 1.5), (0.5, 2.0), (1.5, 4.0)):
            corner = start - size * before
            regions.append(torch.cat([boxes[:, :1], corner, corner + size * scale], 1))
        return torch.stack(regions, 1).flatten(0, 1).float().to(input.dtype)

    class Lua(LuaClass):
        checked_by = "formula"
        test = "test_regions_around_boxes"


@lua_class("nn.ContextRegion")
class ContextRegion(nn.Module):
    """Scales boxes around their centres by a constant factor. The gradient of the input is zero.

    Args:
        transform: matrix of shape :math:`(4, 4)`, a buffer; its elements are ``(1 + scale) / 2``, ``(1 - scale) / 2``
            and 0.

    Shape:
        - Input, output: :math:`(N, 5)`, rows ``image, x1, y1, x2, y2``.

    Lua:
        ``nn.ContextRegion(scale)``, multipathnet modules/ContextRegion.lua
    """

    transform: Tensor

    def __init__(self, transform: Tensor) -> None:
        super().__init__()
        self.register_buffer("transform", transform)

    def forward(self, input: Tensor) -> Tensor:
        boxes = input.detach()
        return zero_gradient(torch.cat([boxes[:, :1], boxes[:, 1:] @ self.transform], 1), input)

    class Lua(LuaClass):
        tensors = {"tr": "transform"}
        tensor_args = ("tr",)
        checked_by = "formula"
        test = "test_regions_around_boxes"


@lua_class("nn.SelectBoxes")
class SelectBoxes(nn.Module):
    """Returns the box of the class with the largest score. There is no gradient.

    Args:
        mean, std: mean and standard deviation of normalized boxes, of shape :math:`(1, 4)`; None: boxes are not
            normalized.

    Shape:
        - Input: ``[scores, boxes]``, :math:`(N, C)` and :math:`(N, 4 C)`.
        - Output: :math:`(N, 4)`.

    Lua:
        ``nn.SelectBoxes()``, multipathnet modules/SelectBoxes.lua; the caller sets the fields ``mean`` and ``std``
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, input: list[Tensor]) -> Tensor:
        scores, boxes = (t.detach() for t in input)
        best = scores.argmax(1)
        selected = boxes.unflatten(1, (-1, 4))[torch.arange(len(boxes), device=boxes.device), best]
        if self.std is None or self.mean is None:
            return selected
        return selected * self.std + self.mean

    class Lua(LuaClass):
        tensors = ("mean", "std")
        tensor_args = ("mean", "std")
        optional = {"mean": None, "std": None}
        scratch = ("gradInput_classes", "gradInput_boxes", "maxvals", "maxids", "ids")
        constants = dict.fromkeys(("gradInput_classes", "gradInput_boxes"), LuaTensor.empty)
        checked_by = "formula"
        test = "test_select_boxes_takes_those_of_the_best_class"


@lua_class("nn.ConvertFrom")
class ConvertFrom(nn.Module):
    """Applies regressed shifts and log scales to boxes. There is no gradient.

    Shape:
        - Input: ``[rois, regressions]``, :math:`(N, 5)` with rows ``image, x1, y1, x2, y2`` and :math:`(N, 4)`.
        - Output: :math:`(N, 5)`.

    Lua:
        ``nn.ConvertFrom()``, multipathnet modules/ConvertFrom.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        rois, shift = (t.detach() for t in input)
        size = rois[:, 3:] - rois[:, 1:3]
        centre = (rois[:, 1:3] + rois[:, 3:]) * 0.5 + shift[:, :2] * size
        half = shift[:, 2:].exp() * size * 0.5
        return torch.cat([rois[:, :1], centre - half, centre + half], 1)

    class Lua(LuaClass):
        scratch = ("gradInput1", "gradInput2")
        constants = dict.fromkeys(scratch, LuaTensor.empty)
        checked_by = "formula"
        test = "test_convert_from_moves_and_scales_boxes"


@lua_class("nn.SequentialSplitBatch")
class SequentialSplitBatch(nn.Sequential):
    """Splits a large batch into parts and runs the modules on each part.

    In a list ``[features, boxes]`` only the boxes are split.

    Args:
        *modules: the modules, which run in sequence.
        batch_size: maximum number of rows of a part.

    Shape:
        - Input: :math:`(N, *)`, or ``[features, boxes]``.
        - Output: :math:`(N, *)`.

    Lua:
        ``nn.SequentialSplitBatch(size)``, multipathnet modules/SequentialSplitBatch.lua
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, batch_size: int) -> None:
        super().__init__(*modules)
        self.batch_size = batch_size

    def forward(self, input: Any) -> Tensor:  # type: ignore[override]
        if isinstance(input, Tensor):
            parts: list[Any] = list(input.split(self.batch_size))
        else:
            parts = [[input[0], part] for part in input[1].split(self.batch_size)]
        if len(parts) == 1:
            return super().forward(input)
        return torch.cat([super(SequentialSplitBatch, self).forward(part) for part in parts])

    class Lua(LuaClass):
        container = True
        scalars = ("batch_size",)
        scratch = ("output_", "parent_output")
        checked_by = "formula"
        test = "test_a_large_batch_runs_in_parts"


@lua_class("nn.BBoxRegressionCriterion")
class BBoxRegressionCriterion(Loss):
    """Smooth L1 loss of the boxes that were regressed for the target class. The first class is the background.

    The boxes of other classes, and of the background, are 0 in the loss, but their gradient is not masked.

    Args:
        index_base: index of the first class.

    Shape:
        - Input: :math:`(N, 4 C)`.
        - Target: ``[classes, boxes]``, :math:`(N)` and :math:`(N, 4 C)`.
        - Output: the loss, a number.

    Lua:
        ``nn.BBoxRegressionCriterion()``, multipathnet modules/BBoxRegressionCriterion.lua
    """

    def __init__(self, *, index_base: int = 1) -> None:
        super().__init__("sum")
        self.index_base = index_base

    def forward(self, input: Tensor, target: list[Tensor]) -> Tensor:  # type: ignore[override]
        classes, boxes = target
        of_class = F.one_hot(classes.reshape(-1).long() - self.index_base, boxes.shape[1] // 4)
        of_class[:, 0] = 0
        counted = with_gradient_of(input * of_class.repeat_interleave(4, 1), input)
        return self.reduced(F.smooth_l1_loss(counted, boxes, reduction="none")) / len(input)

    class Lua(Criterion.Lua):
        constants = {**Criterion.Lua.constants, "sizeAverage": False}
        checked_by = "formula"
        test = "test_box_regression_counts_the_class_of_the_target"
        indexed = True
