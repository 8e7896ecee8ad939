"""nn.Dropout as the rnn package replaces it: one mask per sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import parity
from dpnn_bridge.conversion import LuaContext, TorchContext, to_value
from dpnn_bridge.modules.dropout import stored_noise
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.registry import LuaClass, lua_class


class LazyDropout(nn.Module):
    """Dropout that keeps its mask until the next backward, so that all steps of a sequence share it.

    Args:
        p: probability of an element to be zeroed.
        v2: scale by :math:`1 / (1 - p)` in training; False: scale by :math:`1 - p` in evaluation.
        lazy: keep the mask until the next backward.
        mono: draw one row and use it for the whole batch.

    Attributes:
        noise: the mask, None before the first call.
        redraw: whether the next call draws a new mask.

    Shape:
        - Input, output: :math:`(N, *)`.

    Lua:
        ``nn.Dropout(p, v1, inplace, lazy, mono)``, rnn's Dropout.lua

    Differs from torch:
        Torch7 gives each time step its own mask from the second sequence on, since every step has a clone by then;
        here all steps of every sequence share one.
    """

    def __init__(self, p: float = 0.5, v2: bool = True, lazy: bool = True, mono: bool = False) -> None:
        super().__init__()
        self.p, self.v2, self.lazy, self.mono = p, v2, lazy, mono
        self.noise: Tensor | None = None
        self.redraw = True

    def forward(self, input: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return input if self.v2 else input * (1 - self.p)
        if self.noise is None or self.redraw or not self.lazy:
            shape = [1, *input.shape[1:]] if self.mono else list(input.shape)
            noise = torch.empty(shape, dtype=input.dtype, device=input.device).bernoulli_(1 - self.p)
            self.noise = noise / (1 - self.p) if self.v2 else noise
            self.redraw = False
        output = input * self.noise
        if self.lazy and output.requires_grad and not torch.compiler.is_compiling():
            output.register_hook(self._note_backward)
        return output

    def _note_backward(self, grad: Tensor) -> None:
        self.redraw = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LazyDropout:
        super()._apply(fn, recurse)
        self.noise = None if self.noise is None else fn(self.noise)
        return self

    def extra_repr(self) -> str:
        return f"p={self.p}, lazy={self.lazy}, mono={self.mono}" + ("" if self.v2 else ", v2=False")


@lua_class("nn.Dropout")
class LazyDropoutClass(LuaClass):
    torch_type = LazyDropout
    scalars = {"p": "p", "v2": "v2", "lazy": "lazy", "mono": "mono"}
    defaults = {"v2": False, "lazy": False, "mono": False}

    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        return obj.get("lazy") is True or obj.get("mono") is True

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        return super().handled(module) | {"noise", "flag"}

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        assert isinstance(module, LazyDropout)
        noise = obj.get("noise")
        if obj.get("flag") is False and isinstance(noise, LuaTensor) and noise.size:
            module.noise, module.redraw = to_value(noise), False

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        assert isinstance(module, LazyDropout)
        noise = None if module.redraw else module.noise
        value = LuaTensor.empty(ctx.type_of(module)) if noise is None else ctx.constant(noise, module)
        return super().to_lua(module, ctx) | {"noise": value, "flag": noise is None}

    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
        return (lambda x: x * parity.noise(after, "noise", x)) if stored_noise(after) else None
