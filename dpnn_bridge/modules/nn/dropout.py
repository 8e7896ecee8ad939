"""Dropout of elements, of channels of images, and of channels of volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.memory import Trace
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


def stored_noise(after: LuaObject) -> bool:
    """Return whether Torch7's object contains noise, possibly of an earlier call in training mode."""
    noise = after.get("noise")
    return isinstance(noise, LuaTensor) and noise.size > 0


def draws(module: nn.Module, after: LuaObject) -> bool:
    """Return whether the module draws noise in its current mode and Torch7's object contains this noise."""
    return (module.training or getattr(module, "stochastic_inference", False)) and stored_noise(after)


class Dropout(nn.Module):
    r"""Dropout with the options that :class:`torch.nn.Dropout` lacks.

    Args:
        p: probability of an element to be set to zero; a negative value means 0. With p=1 and ``v2``, the output in
            training mode is NaN, as in Torch7; the output of :class:`torch.nn.Dropout` is zero.
        v2: scale by :math:`1 / (1 - p)` in training mode; False: scale by :math:`1 - p` in evaluation mode.
        stochastic_inference: drop elements in evaluation mode too.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Dropout(p, v1, inplace, stochasticInference)``, Dropout.lua

    Differs from PyTorch:
        In evaluation mode with ``stochastic_inference``, as in Torch7, the gradient is that of the layer without noise:
        dropped elements get a gradient too.
    """

    def __init__(self, p: float = 0.5, v2: bool = True, stochastic_inference: bool = False) -> None:
        super().__init__()
        self.p, self.v2, self.stochastic_inference = p, v2, stochastic_inference

    def forward(self, input: Tensor) -> Tensor:
        if self.p > 0 and (self.training or self.stochastic_inference):
            noise = torch.empty_like(input).bernoulli_(1 - self.p)
            return self.masked(input, noise / (1 - self.p) if self.v2 else noise)
        return self.scaled(input)

    def scaled(self, input: Tensor) -> Tensor:
        """Compute the output without noise."""
        return input if self.training or self.v2 or self.p <= 0 else input * (1 - self.p)

    def masked(self, input: Tensor, noise: Tensor) -> Tensor:
        """Compute the output with the given noise."""
        return input * noise if self.training else with_gradient_of(input * noise, self.scaled(input))

    def extra_repr(self) -> str:
        return f"p={self.p}, v2={self.v2}, stochastic_inference={self.stochastic_inference}"


@lua_class("nn.Dropout")
class DropoutClass(LuaClass):
    torch_type = (nn.Dropout, Dropout)
    scalars = ("p",)
    defaults = {"v2": False, "stochastic_inference": False}
    constants = {"noise": LuaTensor.empty}
    scratch = ("noise",)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        p = cls.arguments(obj, ctx)["p"]
        if cls.becomes_stock(obj):
            return nn.Dropout(p, inplace=ctx.options.inplace and bool(obj.get("inplace")))
        return Dropout(p, v2=is_true(obj["v2"]), stochastic_inference=is_true(obj["stochastic_inference"]))

    @staticmethod
    def becomes_stock(obj: LuaObject) -> bool:
        """Return whether the Lua object becomes :class:`torch.nn.Dropout`, which can work in place."""
        return is_true(obj.get("v2")) and not is_true(obj.get("stochastic_inference")) and 0 <= obj["p"] < 1

    @classmethod
    def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
        """Return the input of an in-place dropout in evaluation mode. The first version of nn scales it."""
        scales = not is_true(obj.get("v2")) or is_true(obj.get("stochastic_inference"))
        is_idle = obj.get("inplace") and obj.get("train") is False and not scales
        return input if is_idle else super().output_memory(obj, input, trace)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        own = isinstance(module, Dropout)
        return {
            **super().to_lua(module, ctx),
            "v2": module.v2 if own else True,
            "stochastic_inference": own and module.stochastic_inference,
        }

    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
        if not draws(module, after):
            return None
        if isinstance(module, Dropout):
            return lambda x: module.masked(x, noise_of(after, "noise", x))
        return lambda x: x * noise_of(after, "noise", x)


@lua_class("nn.SpatialDropout")
class SpatialDropout(nn.Module):
    r"""Sets complete channels to zero at random in training mode; multiplies by :math:`1 - p` in evaluation mode.

    Args:
        p: probability of a channel to be set to zero.
        stochastic_inference: drop channels in evaluation mode too.

    Shape:
        - Input, output: :math:`(C, H, W)` or :math:`(N, C, H, W)`.

    Lua:
        ``nn.SpatialDropout(p, stochasticInference)``, SpatialDropout.lua

    Differs from PyTorch:
        :class:`torch.nn.Dropout2d` scales in training mode.

    Differs from Torch7:
        The backward pass in evaluation mode computes the derivative; in Torch7 it raises an error.
    """

    spatial_dims = 2

    def __init__(self, p: float = 0.5, stochastic_inference: bool = False) -> None:
        super().__init__()
        self.p, self.stochastic_inference = p, stochastic_inference

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() - self.spatial_dims not in (1, 2):
            dims = self.spatial_dims + 1
            raise ValueError(f"expected {dims} or {dims + 1} dimensions, found shape {tuple(input.shape)}")
        if not self.training and not self.stochastic_inference:
            return input * (1 - self.p)
        channels = input.shape[: -self.spatial_dims]
        return input * input.new_empty(*channels, *[1] * self.spatial_dims).bernoulli_(1 - self.p)

    class Lua(LuaClass):
        scalars = ("p", "stochastic_inference")
        defaults = {"stochastic_inference": False}
        constants = {"noise": LuaTensor.empty}
        scratch = ("noise",)

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            return (lambda x: x * noise_of(after, "noise", x)) if draws(module, after) else None


@lua_class("nn.VolumetricDropout")
class VolumetricDropout(SpatialDropout):
    r"""Sets complete channels of volumes to zero at random in training mode; multiplies by :math:`1 - p` in evaluation.

    Args:
        p: probability of a channel to be set to zero.
        stochastic_inference: drop channels in evaluation mode too.

    Shape:
        - Input, output: :math:`(C, T, H, W)` or :math:`(N, C, T, H, W)`.

    Lua:
        ``nn.VolumetricDropout(p, stochasticInference)``, VolumetricDropout.lua
    """

    spatial_dims = 3
