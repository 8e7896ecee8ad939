"""Losses of neural-style and fast-neural-style that are layers of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient


@lua_class("nn.ContentLoss")
class ContentLoss(nn.Module):
    """Returns its input; compares it with a target; backward adds the gradient of the comparison.

    Args:
        crit: compares input and target.
        strength: factor of the loss.
        normalize: divide the gradient by the sum of its absolute values.
        mode: ``"none"`` does nothing, ``"capture"`` makes the input the target, ``"loss"`` compares.

    Attributes:
        target: target of the comparison, a buffer; None before it was captured.
        loss: that of the last input.

    Shape:
        - Input: :math:`(*)`. One of another size than the target only passes.
        - Output: the input.

    Lua:
        ``nn.ContentLoss(strength, normalize)``, neural-style neural_style.lua, whose older versions have no mode;
        ``nn.ContentLoss(strength, loss_type)``, fast-neural-style ContentLoss.lua
    """

    target: Tensor | None

    fx_leaf = True

    def __init__(self, crit: nn.Module, strength: float = 1.0, normalize: bool = False, mode: str = "none") -> None:
        super().__init__()
        self.crit, self.strength, self.normalize, self.mode = crit, strength, normalize, mode
        self.register_buffer("target", None)
        self.loss: Tensor | float = 0.0

    def features(self, input: Tensor) -> Tensor:
        """Return the value that is compared with the target."""
        return input

    def capture(self, features: Tensor) -> None:
        """Make ``features`` the target."""
        self.target = features.clone()

    def forward(self, input: Tensor) -> Tensor:
        if self.mode == "capture":
            self.capture(self.features(input.detach()))
        elif self.mode == "loss" and self.target is not None:
            return self._compared(input, self.target)
        return input

    def _compared(self, input: Tensor, target: Tensor) -> Tensor:
        leaf = input.detach().requires_grad_()
        with torch.enable_grad():
            features = self.features(leaf)
            if len(features) > len(target) == 1:
                target = target.expand_as(features)
            if features.numel() != target.numel():
                return input
            loss = self.crit(features, target.reshape(features.shape))
        (slope,) = torch.autograd.grad(loss, leaf)
        self.loss = self.strength * loss.detach()
        if self.normalize:
            slope = slope / (slope.abs().sum() + 1e-8)
        return add_gradient(input, slope * self.strength)

    def extra_repr(self) -> str:
        return f"strength={self.strength}, mode={self.mode!r}"

    class Lua(LuaClass):
        members = ("crit",)
        scalars = ("strength", "normalize", "mode")
        defaults = {"normalize": False, "mode": "loss"}
        tensors = ("target",)
        constants = {"loss": 0}
        checked_by = "formula"
        test = "test_content_is_compared_on_the_way"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return {"strength", "crit", "target"} <= set(obj)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {"target": LuaTensor.empty(ctx.type_of(module)), **super().to_lua(module, ctx)}


@lua_class("nn.StyleLoss")
class StyleLoss(ContentLoss):
    """Returns its input; compares its Gram matrix with a target; backward adds the gradient of the comparison.

    Args:
        crit, strength, normalize, mode: as :class:`ContentLoss`.
        gram: the Gram matrix, which is divided by the number of elements of the input.
        blend_weight: with several captured inputs, the weight of each in the target; None keeps the last alone.

    Attributes:
        target, loss: as :class:`ContentLoss`.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: the input.

    Lua:
        ``nn.StyleLoss(strength, normalize)``, neural-style neural_style.lua, whose older versions have no mode
    """

    def __init__(
        self,
        crit: nn.Module,
        gram: nn.Module,
        strength: float = 1.0,
        normalize: bool = False,
        mode: str = "none",
        blend_weight: float | None = None,
    ) -> None:
        super().__init__(crit, strength, normalize, mode)
        self.gram, self.blend_weight = gram, blend_weight

    def features(self, input: Tensor) -> Tensor:
        return self.gram(input) / input.numel()

    def capture(self, features: Tensor) -> None:
        if self.blend_weight is None:
            return super().capture(features)
        blended = features * self.blend_weight
        self.target = blended if self.target is None else self.target + blended

    class Lua(ContentLoss.Lua):
        test = "test_a_blend_of_styles_is_captured_and_compared"
        members = ("crit", "gram")
        scalars = {**ContentLoss.Lua.scalars, "blend_weight": "blend_weight"}
        defaults = {**ContentLoss.Lua.defaults, "blend_weight": None}
        scratch = ("G",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return super().matches(obj) and "gram" in obj


@lua_class("nn.StyleLoss")
class AggregatedStyleLoss(ContentLoss):
    """Returns its input; compares an aggregate of it with a target; backward adds the gradient of the comparison.

    Args:
        crit, strength, normalize, mode: as :class:`ContentLoss`.
        agg: the aggregate: a normalized Gram matrix or the means of the channels.

    Attributes:
        target, loss: as :class:`ContentLoss`. The target of one sample serves a whole batch.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: the input.

    Lua:
        ``nn.StyleLoss(strength, loss_type, agg_type)``, fast-neural-style StyleLoss.lua
    """

    fx_leaf = True

    def __init__(
        self, crit: nn.Module, agg: nn.Module, strength: float = 1.0, normalize: bool = False, mode: str = "none"
    ) -> None:
        super().__init__(crit, strength, normalize, mode)
        self.agg = agg

    def features(self, input: Tensor) -> Tensor:
        return self.agg(input)

    class Lua(ContentLoss.Lua):
        test = "test_one_style_serves_a_batch"
        members = ("crit", "agg")
        scratch = ("agg_out", "_target")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return super().matches(obj) and "agg" in obj
