"""Random selection of boxes for the training of densecap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.steps import spend_steps
from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.zoo.densecap_boxes import corners


@lua_class("nn.BoxSampler")
class BoxSampler(nn.Module):
    """Draws boxes that overlap a target (positive) and boxes that do not (negative), at random.

    Args:
        box_iou: computes the intersection over union of all pairs of boxes, as :class:`BoxIoU` does.
        low_thresh: a box is negative if its overlap with every target is lower.
        high_thresh: a box is positive if its overlap with any target is higher, or if it is the best box of a target.
        batch_size: number of boxes to draw, at most half of them positive. Negative boxes are drawn with replacement if
            there are too few.
        bounds: smallest x and y, largest x and y. A box that exceeds them is drawn only if it is the best box of a
            target. If any of the four is None, there are no bounds, as in Torch7.
        index_base: first index, 1 as in Lua or 0.

    Shape:
        - Input: ``[boxes, targets]``, :math:`(1, B, 4)` and :math:`(1, T, 4)` as (xc, yc, w, h).
        - Output: ``[positive, target, negative]``: indices of the positive boxes :math:`(P)`, of the target of each
          positive box :math:`(P)`, and of the negative boxes :math:`(M)`.

    Lua:
        ``nn.BoxSampler(options)``, densecap modules/BoxSampler.lua
    """

    fx_leaf = True

    def __init__(
        self,
        box_iou: nn.Module,
        low_thresh: float = 0.3,
        high_thresh: float = 0.7,
        batch_size: int = 256,
        bounds: tuple[float | None, ...] = (None, None, None, None),
        index_base: int = 1,
    ) -> None:
        super().__init__()
        self.box_iou, self.low_thresh, self.high_thresh = box_iou, low_thresh, high_thresh
        self.batch_size, self.bounds, self.index_base = batch_size, bounds, index_base

    @torch.no_grad()
    def forward(self, input: list[Tensor]) -> list[Tensor]:
        boxes, targets = input
        if len(boxes) != 1 or len(targets) != 1:
            counts = f"boxes of {len(boxes)} and targets of {len(targets)} images"
            raise ValueError(f"BoxSampler takes boxes and targets of one image, found {counts}")
        overlaps = self.box_iou(input)[0]
        best, target = overlaps.max(1)
        positive, negative = best > self.high_thresh, best < self.low_thresh
        if None not in self.bounds:
            low, high = boxes.new_tensor(self.bounds).split(2)
            upper_left, lower_right = corners(boxes[0]).split(2, 1)
            beyond = (upper_left < low).any(1) | (lower_right > high).any(1)
            positive, negative = positive & ~beyond, negative & ~beyond
        closest = overlaps.argmax(0)
        positive[closest], negative[closest] = True, False
        if not negative.any():
            negative = ~positive
        total = int(positive.sum()), int(negative.sum())
        count = min(self.batch_size / 2, total[0])
        chosen = positive.nonzero()[:, 0][self.draw(total[0], int(count))]
        others = negative.nonzero()[:, 0][self.draw(total[1], int(self.batch_size - count))]
        return [i + self.index_base for i in (chosen, target[chosen], others)]

    def draw(self, total: int, count: int) -> Tensor:
        """Return ``count`` random integers below ``total``, without repetition if ``total`` is large enough."""
        if not total:
            raise ValueError("BoxSampler: every box is positive, so no negative box can be drawn")
        return torch.randint(total, (count,)) if total < count else torch.randperm(total)[:count]

    class Lua(LuaClass):
        indexed = True
        members = ("box_iou",)
        scalars = {
            "low_thresh": "low_thresh",
            "high_thresh": "high_thresh",
            "batch_size": "batch_size",
            ("x_min", "y_min", "x_max", "y_max"): "bounds",
        }
        defaults = dict.fromkeys(("x_min", "y_min", "x_max", "y_max"))
        scratch = ("pos_mask", "neg_mask")
        checked_by = "formula"
        test = "test_boxes_are_positive_above_the_threshold_or_as_the_best_of_a_target"


@lua_class("nn.BoxSamplerHelper")
class BoxSamplerHelper(nn.Module):
    """Selects the data of the boxes and targets that a :class:`BoxSampler` draws.

    Args:
        box_sampler: draws the indices.
        index_base: first index that ``box_sampler`` returns.

    Shape:
        - Input: two lists, ``[boxes, *data]`` of shapes :math:`(1, B, D_i)` and ``[targets, *data]`` of shapes
          :math:`(1, T, D_j)`.
        - Output: three lists: data of the positive boxes :math:`(P, D_i)`, data of the target of each positive box
          :math:`(P, D_j)`, and data of the negative boxes :math:`(M, D_i)`.

    Differs from PyTorch:
        As in Torch7, a negative box that is drawn several times gets only the gradient of its last copy, and the
        targets get no gradient.

    Lua:
        ``nn.BoxSamplerHelper(options)``, densecap modules/BoxSamplerHelper.lua
    """

    fx_leaf = True

    def __init__(self, box_sampler: nn.Module, index_base: int = 1) -> None:
        super().__init__()
        self.box_sampler, self.index_base = box_sampler, index_base

    def forward(self, input: list[list[Tensor]]) -> list[list[Tensor]]:
        boxes, targets = input
        drawn = self.box_sampler([boxes[0], targets[0]])
        positive, target, negative = (index - self.index_base for index in drawn)
        spend_steps(2 * len(negative))
        last = torch.zeros(len(negative), 1, dtype=torch.bool, device=negative.device)
        last[[*{index: position for position, index in enumerate(negative.tolist())}.values()]] = True
        return [
            [data[0][positive] for data in boxes],
            [data[0][target].detach() for data in targets],
            [torch.where(last, data[0][negative], data.detach()[0][negative]) for data in boxes],
        ]

    class Lua(LuaClass):
        indexed = True
        members = ("box_sampler",)
        scratch = ("pos_input_idx", "pos_target_idx", "neg_input_idx")
        constants = {"gradInput": empty_table}
        checked_by = "formula"
        test = "test_a_negative_box_that_is_drawn_twice_gets_the_gradient_of_the_last"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "output": LuaTable.from_list([LuaTable(), LuaTable(), LuaTable()])}
