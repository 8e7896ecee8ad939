"""Differences of random instances that are on purpose: which, when, and what stands here instead."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from instances import Instance
from torch import Tensor
from torch7 import EXCEPTION, differences

from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.nested import map_tensors
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.objects import LuaTable


class Explained(NamedTuple):
    """A difference that may be.

    Attributes:
        layer: pattern of the class.
        described: pattern of the description of the instance.
        difference: pattern of the comparison and its message. A call that Torch7 refuses is told by its message alone.
        reason: why it is.
        here: what changes Torch7's values into those that are right here, or its input into what Torch7 took it for:
            the difference is explained if it is gone then.
        within: the largest absolute difference that the reason accounts for.
    """

    layer: str
    described: str
    difference: str
    reason: str
    here: Callable[[LuaTable], None] | None = None
    within: Callable[[LuaTable], float] | None = None

    def covers(self, case: Instance, fixture: LuaTable, difference: Difference) -> bool:
        """Whether it explains a difference of an instance."""
        described = fnmatchcase(fixture["class"], self.layer) and fnmatchcase(repr(case), f"*{self.described}*")
        if not described or not fnmatchcase(f"{difference.name}: {difference.message}", self.difference):
            return False
        if self.within is not None:
            return difference.absolute <= self.within(fixture)
        if self.here is None:
            return difference.message.startswith("Torch7 refused")
        amended = LuaTable(list(fixture.items()))
        self.here(amended)
        return not {difference.name, EXCEPTION} & {d.name for d in differences(amended)}


def explanation(case: Instance, fixture: LuaTable, difference: Difference) -> str:
    """The reason of a difference, empty where there is none."""
    return next((known.reason for known in EXPLAINED if known.covers(case, fixture, difference)), "")


def perturbed(fixture: LuaTable, difference: Difference) -> LuaTable:
    """The instance with another reference value; of a call that Torch7 refuses it is the output."""
    name = "output" if difference.message.startswith("Torch7 refused") else difference.name.partition("[")[0]
    value = to_value(fixture[name])
    changed = LuaTable(list(fixture.items()))
    changed[name] = lua_value(torch.ones(1) if value is None else map_tensors(lambda t: t + 1, value))
    return changed


# ---------------------------------------------------------------------- what stands here
def in_memory_order(*names: str) -> Callable[[LuaTable], None]:
    """Takes a tensor's elements in the order of its memory, as code does that forgets about strides."""

    def change(fixture: LuaTable) -> None:
        for name in names:
            fixture[name] = lua_value(map_tensors(_memory, to_value(fixture[name])))

    return change


def _memory(x: Tensor) -> Tensor:
    order = sorted(range(x.dim()), key=lambda i: -x.stride(i))
    return x.permute(order).contiguous().view(x.shape)


def no_sign_at_zero(fixture: LuaTable) -> None:
    """No gradient where both inputs are equal."""
    x, y = to_value(fixture["input"])
    fixture["gradInput"] = lua_value([g.masked_fill(x == y, 0) for g in to_value(fixture["gradInput"])])


def only_the_smallest_target(fixture: LuaTable) -> None:
    """No gradient for targets that are not the smallest."""
    x, target, gradient = (to_value(fixture[name]) for name in ("input", "target", "gradInput"))
    for row, targets, g in zip(x, target.long() - 1, gradient, strict=True):
        least = min(targets.tolist(), key=lambda t, row=row: row[t].item())
        for t in set(targets.tolist()) - {least}:
            g[t] = 0
    fixture["gradInput"] = lua_value(gradient)


def identity(fixture: LuaTable) -> None:
    """The gradient of what lets its input through."""
    fixture["gradInput"] = fixture["gradOutput"]


def input_comes_out(fixture: LuaTable) -> None:
    """What the field output holds, where Torch7 returns nothing."""
    fixture["output"] = fixture["input"]


def one_step_of_single_precision(fixture: LuaTable) -> float:
    """Rounding of a factor near 1, times the gradient."""
    return torch.finfo(torch.float32).eps * float(to_value(fixture["gradOutput"]).abs().max())


STRIDED = "Torch7 takes a gradient in another arrangement of memory for one in plain order; here it is used as it is"
STRIDED_INPUT = (
    "Torch7 takes an input in another arrangement of memory for one in plain order; here it is used as it is"
)
REFUSED = "Torch7 refuses backward in evaluation; here it is the derivative"
VIEW = "Torch7 refuses a view of a strided gradient; here it works"
BALANCE = "in evaluation Torch7 divides the gradient by sums that are of an earlier training batch, or of none"
UNSET = "Torch7 leaves what its memory held in the gradient of targets that are not the smallest"
CANCELS = "1 - (1 - tanh^2) for small numbers in single precision: what is left is rounding error on both sides"
SIGN = "where a difference is 0 Torch7 draws a random sign"
SINGLE = "Torch7 forgets that a single sample has no gradInput; nothing stands in the way here"
CROPPED = "Torch7's backward takes no target larger than the input, which its forward crops; here it works"
NOTHING = "the abstract class returns nothing in Torch7; here what it would keep in its field output"
BUFFERS = "Torch7's backward needs the buffers of a training forward; here it is the derivative"
COUNTS = "Torch7's PushTable takes the gradients behind its element for those before it, and misses one"
DEFAULT = "Torch7 makes buffers of the default type, double, whatever the criterion's is; here it works"

EXPLAINED = (
    Explained("*", "strided '?*'", "backward: *expecting a contiguous tensor*", VIEW),
    Explained("nn.LayerNormalization", "strided '?*'", "backward: *expecting a contiguous*", VIEW),
    Explained("nn.SparseLinear", "strided '?*'", "backward: *SparseLinear.c:191*", VIEW),
    Explained("nn.IndexLinear", "strided '?*'", "backward: *IndexLinear.c:638*", VIEW),
    Explained("nn.SpatialDropout", "eval", "backward: *SpatialDropout.lua*", REFUSED),
    Explained("nn.VolumetricDropout", "eval", "backward: *VolumetricDropout.lua*", REFUSED),
    Explained("nn.Sequencer", "NormStabilizer*eval", "backward: *NormStabilizer*", REFUSED),
    Explained("nn.SpatialUniformCrop", "eval", "backward: *THTensor.c:43[89]*", REFUSED),
    Explained("nn.NCEModule", "eval", "backward: *", BUFFERS),
    Explained("nn.IndexLinear", "", "backward: *IndexLinear.lua:310*", SINGLE),
    Explained("nn.SpatialAutoCropMSECriterion", "", "backward: *must have the same size*", CROPPED),
    Explained("nn.SuperCriterion", "float", "backward: *torch.DoubleTensor expected, got torch.FloatTensor*", DEFAULT),
    Explained("nn.Sequential", "nn.PushTable(1)", "backward: *PushTable.lua*tables size mismatch*", COUNTS),
    Explained("nn.SpatialDepthWiseConvolution", "strided 'gradient'", "grad*", STRIDED, in_memory_order("gradOutput")),
    Explained("nn.SpatialDepthWiseConvolution", "strided 'both'", "grad*", STRIDED, in_memory_order("gradOutput")),
    Explained("nn.SpatialClassifier", "strided '?*'", "*", STRIDED_INPUT, in_memory_order("input", "gradOutput")),
    Explained("nn.PairwiseDistance", "PairwiseDistance(1)", "gradInput*", SIGN, no_sign_at_zero),
    Explained("nn.DistMarginCriterion", "", "gradInput: *", UNSET, only_the_smallest_target),
    Explained("nn.Balance", "eval", "gradInput: *", BALANCE, identity),
    Explained("nn.Reinforce", "", "output: expected None*", NOTHING, input_comes_out),
    Explained("nn.TanhShrink", "float", "gradInput: *", CANCELS, within=one_step_of_single_precision),
)
