"""The class nn.Dropout of rnn, which can use one mask per sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, has_tensor
from dpnn_bridge.conversion.lua_values import is_true, to_value
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.dropout import draws
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.Dropout")
class LazyDropout(nn.Module):
    """Dropout that keeps its mask until the next backward pass, so that all steps of a sequence share the mask.

    In a step module, each time step has its own mask, like Torch7's clone for each step. In the first sequence, all
    steps share the mask of the first step. In later sequences, each step that has a mask draws a new one.

    Args:
        p: probability of an element to be set to zero.
        v2: scale by :math:`1 / (1 - p)` in training mode; False: scale by :math:`1 - p` in evaluation mode.
        lazy: keep the mask until the next backward pass.
        mono: draw the mask of one row and use it for all rows of the batch.

    Attributes:
        masks: time step -> mask.
        stale: time steps whose mask is redrawn when it is used next.
        step: current time step; step modules set it.

    Shape:
        - Input, output: :math:`(N, *)`.

    Lua:
        ``nn.Dropout(p, v1, inplace, lazy, mono)``, rnn's Dropout.lua
    """

    def __init__(self, p: float = 0.5, v2: bool = True, lazy: bool = True, mono: bool = False) -> None:
        super().__init__()
        self.p, self.v2, self.lazy, self.mono = p, v2, lazy, mono
        self.masks: dict[int, Tensor] = {}
        self.stale: set[int] = set()
        self.step = 1

    def forward(self, input: Tensor) -> Tensor:
        if self.p <= 0 or not self.training:
            return input if self.training or self.v2 or self.p <= 0 else input * (1 - self.p)
        hooked = self.lazy and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if hooked and not input.requires_grad:
            input = input.detach().requires_grad_()  # so that the backward pass runs the hook below
        output = input * self._mask(input)
        if hooked:
            step = self.step
            output.register_hook(lambda grad: self.stale.add(step))
        return output

    def _mask(self, input: Tensor) -> Tensor:
        step = self.step
        if torch.compiler.is_compiling():  # hooks do not run, so each sequence draws one mask
            self.stale, step = {1} if step == 1 else set(), 1
        if step not in self.masks and step not in self.stale and 1 in self.masks:  # in Torch7, a new clone of step 1
            self.masks[step] = self.masks[1]
            self.stale |= {step} if 1 in self.stale else set()
        if not self.lazy or step not in self.masks or step in self.stale:
            shape = [1, *input.shape[1:]] if self.mono else list(input.shape)
            mask = torch.empty(shape, dtype=input.dtype, device=input.device).bernoulli_(1 - self.p)
            self.masks[step] = mask / (1 - self.p) if self.v2 else mask
            self.stale.discard(step)
        return self.masks[step]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LazyDropout:
        super()._apply(fn, recurse)
        self.masks = {step: fn(mask) for step, mask in self.masks.items()}
        return self

    class Lua(LuaClass):
        computed_fields = ("noise", "flag")
        scalars = ("p", "v2", "lazy", "mono")
        defaults = {"v2": False, "lazy": False, "mono": False}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return is_true(obj.get("lazy")) or is_true(obj.get("mono"))

        @classmethod
        def fill(cls, module: LazyDropout, obj: LuaObject, ctx: TorchContext) -> None:
            cls.fill_step(module, obj, 1)

        @staticmethod
        def fill_step(module: LazyDropout, obj: LuaObject, step: int) -> None:
            """Set the mask of one time step from the Lua object of this step."""
            module.masks.pop(step, None)
            module.stale.discard(step)
            if has_tensor(obj, "noise"):
                module.masks[step] = to_value(obj["noise"])
            if obj.get("flag") is not False:
                module.stale.add(step)

        @classmethod
        def to_lua(cls, module: LazyDropout, ctx: LuaContext) -> dict[str, Any]:
            return super().to_lua(module, ctx) | cls.step_to_lua(module, 1, ctx)

        @staticmethod
        def step_to_lua(module: LazyDropout, step: int, ctx: LuaContext) -> dict[str, Any]:
            """Return the Lua fields with the mask of a time step."""
            mask = module.masks.get(step)
            noise = LuaTensor.empty(ctx.type_of(module)) if mask is None else ctx.constant(mask, module)
            return {"noise": noise, "flag": mask is None or step in module.stale}

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            return (lambda x: x * noise_of(after, "noise", x)) if draws(module, after) else None
