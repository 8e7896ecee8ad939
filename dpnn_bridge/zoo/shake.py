"""Shake-shake regularization (xgastaldi/shake-shake)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.torch7.gradient import with_gradient_of

#: Lua field with the string "true" or "false" -> attribute
FLAGS = {"forwardShake": "forward_shake", "backwardShake": "backward_shake", "shakeImage": "shake_image"}


@lua_class("nn.ShakeShakeTable")
class ShakeShakeTable(nn.Module):
    """Multiplies two branches by random weights, and their gradients by other random weights.

    Args:
        forward_shake: in training, draw the weights; otherwise they are 0.5. In evaluation they are 0.5.
        backward_shake: draw the weights of the gradients, in evaluation too; otherwise they are 0.5.
        shake_image: draw one weight for each image; otherwise one for the batch.

    Shape:
        - Input: ``[skip, x1, x2]``, all :math:`(N, *)`.
        - Output: ``[skip, a x1, (1 - a) x2]``.

    Lua:
        ``nn.ShakeShakeTable(constant, forwardShake, backwardShake, shakeImage, batchSize)``, shake-shake
        models/shakeshaketable.lua; the flags are the strings "true" and "false"
    """

    def __init__(self, forward_shake: bool = True, backward_shake: bool = True, shake_image: bool = True) -> None:
        super().__init__()
        self.forward_shake, self.backward_shake, self.shake_image = forward_shake, backward_shake, shake_image

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        alpha = self._weights(input[1], self.training and self.forward_shake)
        return self.weighed(input, alpha, self._weights(input[1], self.backward_shake))

    def weighed(self, input: list[Tensor], alpha: Tensor, beta: Tensor) -> list[Tensor]:
        """Return the outputs with weights ``alpha``; ``beta`` are the weights of the gradients. Both are (N)."""
        skip, x1, x2 = input
        shape = (-1,) + (1,) * (x1.dim() - 1)
        alpha, beta = alpha.view(shape), beta.view(shape)
        return [skip, with_gradient_of(alpha * x1, beta * x1), with_gradient_of((1 - alpha) * x2, (1 - beta) * x2)]

    def _weights(self, x: Tensor, random: bool) -> Tensor:
        if not random:
            return x.new_full((x.shape[0],), 0.5)
        drawn = torch.rand(x.shape[0] if self.shake_image else 1, dtype=x.dtype, device=x.device)
        return drawn.expand(x.shape[0])

    class Lua(LuaClass):
        computed_fields = tuple(FLAGS)
        default_training = False

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {attribute: obj[name] == "true" for name, attribute in FLAGS.items()}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            tables = {name: ctx.empty_tensors(module, 3) for name in ("output", "gradInput")}
            return {**super().to_lua(module, ctx), **_flags(module), **tables}

        @classmethod
        def replay(cls, module: ShakeShakeTable, after: LuaObject) -> Callable[..., Any] | None:
            """Return a forward function with the weights that Torch7 drew.

            ``constant_tensor`` has the weights of the gradients; the weights of the output follow from the output.
            """
            x = after.get("output")
            if not isinstance(x, LuaTable) or not ((module.training and module.forward_shake) or module.backward_shake):
                return None

            def forward(input: list[Tensor]) -> list[Tensor]:
                beta = noise_of(after, "constant_tensor", input[1])
                shaken = module.training and module.forward_shake
                alpha = _ratio(x[2].torch().to(input[1].device), input[1]) if shaken else torch.full_like(beta, 0.5)
                return module.weighed(input, alpha, beta)

            return forward


def _flags(module: nn.Module) -> dict[str, str]:
    """Return the Lua fields of the flags."""
    return {name: "true" if getattr(module, attribute) else "false" for name, attribute in FLAGS.items()}


def _ratio(output: Tensor, input: Tensor) -> Tensor:
    """Return the factor output / input of each image, at the element with the largest absolute input."""
    largest = input.detach().flatten(1).abs().argmax(1, keepdim=True)
    return (output.flatten(1).gather(1, largest) / input.detach().flatten(1).gather(1, largest)).squeeze(1)


@lua_class("nn.MulConstantSlices")
class MulConstantSlices(nn.Module):
    """Multiplies each sample of the batch by its own constant.

    Args:
        constants: the constants, a buffer of shape :math:`(N)`.

    Shape:
        - Input, output: :math:`(N, *)`.

    Lua:
        ``nn.MulConstantSlices(constant_tensor, inplace)``, shake-shake models/mulconstantslices.lua
    """

    constants: Tensor

    def __init__(self, constants: Tensor) -> None:
        super().__init__()
        self.register_buffer("constants", constants)

    def forward(self, input: Tensor) -> Tensor:
        return input * self.constants[: input.shape[0]].view(-1, *[1] * (input.dim() - 1)).to(input.dtype)

    class Lua(LuaClass):
        tensors = {"constant_tensor": "constants"}
        tensor_args = ("constant_tensor",)
        constants = {"inplace": False}


@lua_class("nn.ShakeShakeBlock")
class ShakeShakeBlock(ShakeShakeTable):
    """Residual block: a skip connection plus two branches with the random weights of :class:`ShakeShakeTable`.

    Args:
        net1, net2: branches. Their last layer, a multiplication by a constant, is replaced by the random weights.
        skip: the skip connection.
        forward_shake, backward_shake, shake_image: as for :class:`ShakeShakeTable`.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: shape of the outputs of the branches.

    Lua:
        ``nn.ShakeShakeBlock(…)``, shake-shake models/shakeshakeblock.lua
    """

    def __init__(self, net1: nn.Sequential, net2: nn.Sequential, skip: nn.Module, **flags: bool) -> None:
        super().__init__(**flags)
        self.net1, self.net2, self.skip = net1, net2, skip

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        branches = []
        for net in (self.net1, self.net2):
            output = input
            for layer in list(net)[:-1]:
                output = layer(output)
            branches.append(output)
        skip, x1, x2 = super().forward([self.skip(input), *branches])
        return skip + x1 + x2

    class Lua(LuaClass):
        computed_fields = tuple(FLAGS)
        members = ("net1", "net2", "skip")
        scratch = ("alpha", "beta")
        checked_by = "formula"
        test = "test_shake_shake_block_in_evaluation_is_the_mean_of_its_branches"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), **ShakeShakeTable.Lua.arguments(obj, ctx)}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), **_flags(module)}
