"""Layers of neural-style and fast-neural-style that add the gradient of a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient


@lua_class("nn.ContentLoss")
class ContentLoss(RunBuffers):
    """Returns its input; the backward pass adds the gradient of a loss between the input and a target.

    Args:
        crit: the loss.
        strength: factor of the loss.
        normalize: divide the gradient by the sum of its absolute values.
        mode: ``"capture"`` stores the input as the target, ``"loss"`` computes the loss, ``"none"`` does nothing.

    Attributes:
        target: a buffer; None before ``"capture"``.
        loss: the loss of the last input.

    Shape:
        - Input: :math:`(*)`. If its size differs from the target's, there is no loss.
        - Output: the input.

    Lua:
        ``nn.ContentLoss(strength, normalize)``, neural-style neural_style.lua, whose older versions have no mode;
        ``nn.ContentLoss(strength, loss_type)``, fast-neural-style ContentLoss.lua
    """

    target: Tensor | None

    fx_leaf = True
    run_buffers = ("target",)

    def __init__(self, crit: nn.Module, strength: float = 1.0, normalize: bool = False, mode: str = "none") -> None:
        super().__init__()
        self.crit, self.strength, self.normalize, self.mode = crit, strength, normalize, mode
        self.register_buffer("target", None)
        self.loss: Tensor | float = 0.0

    def features(self, input: Tensor) -> Tensor:
        """Return the value that is compared with the target."""
        return input

    def capture(self, features: Tensor) -> None:
        """Store ``features`` as the target."""
        with torch.inference_mode(False):  # autograd cannot use a tensor that was created in inference mode
            self.target = features.clone()

    def target_of(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the target that ``features`` are compared with."""
        return target

    def forward(self, input: Tensor) -> Tensor:
        if self.mode == "capture":
            self.capture(self.features(input.detach()))
        elif self.mode == "loss" and self.target is not None:
            return self._add_loss(input, self.target)
        return input

    def _add_loss(self, input: Tensor, target: Tensor) -> Tensor:
        needed = torch.is_grad_enabled() and input.requires_grad
        leaf = input.detach().requires_grad_() if needed else input
        features = self.features(leaf)
        target = self.target_of(features, target)
        if features.numel() != target.numel():
            return input
        loss = self.crit(features, target.reshape(features.shape))
        self.loss = self.strength * loss.detach()
        if not needed:
            return input
        (gradient,) = torch.autograd.grad(loss, leaf)
        if self.normalize:
            gradient = gradient / (gradient.abs().sum() + 1e-8)
        return add_gradient(input, gradient * self.strength)

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
    """Like :class:`ContentLoss`, but compares the Gram matrix of the input.

    Args:
        crit, strength, normalize, mode: see :class:`ContentLoss`.
        gram: computes the Gram matrix, which is then divided by the number of elements of the input.
        blend_weight: in ``"capture"``, add the Gram matrix times this weight to the target; None replaces the target.

    Attributes:
        target, loss: see :class:`ContentLoss`.

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
        if self.blend_weight is not None:
            features = features * self.blend_weight
            features = features if self.target is None else self.target + features
        super().capture(features)

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
    """Like :class:`ContentLoss`, but compares a statistic of the input.

    Args:
        crit, strength, normalize, mode: see :class:`ContentLoss`.
        agg: computes the statistic: a normalized Gram matrix or the means of the channels.

    Attributes:
        target, loss: see :class:`ContentLoss`. A target of one sample is broadcast to the batch.

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

    def target_of(self, features: Tensor, target: Tensor) -> Tensor:
        return target.expand_as(features) if len(features) > len(target) == 1 else target

    class Lua(ContentLoss.Lua):
        test = "test_one_style_serves_a_batch"
        members = ("crit", "agg")
        scratch = ("agg_out", "_target")

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return super().matches(obj) and "agg" in obj
