"""Layers of MSG-Net (multi-style generative network); ``nn.GramMatrix`` is also in earlier style-transfer packages."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.pairwise import MM
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.GramMatrix")
class GramMatrix(nn.Module):
    """Dot products of all pairs of channels.

    Args:
        normalize: divide by the number of elements of a sample.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: :math:`(N, C, C)` or :math:`(C, C)`.

    Lua:
        ``nn.GramMatrix(normalize)``, MSG-Net modules/GramMatrix.lua and fast-neural-style; ``nn.GramMatrix()``,
        neural-style, which does not normalize
    """

    def __init__(self, normalize: bool = True) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, input: Tensor) -> Tensor:
        features = input.flatten(-2)
        gram = features @ features.transpose(-1, -2)
        return gram / math.prod(input.shape[-3:]) if self.normalize else gram

    class Lua(LuaClass):
        scalars = ("normalize",)
        defaults = {"normalize": False}
        scratch = ("buffer",)
        constants = {"buffer": LuaTensor.empty}
        checked_by = "formula"
        test = "test_gram_matrix"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "normalize" in obj or "buffer" not in obj


@lua_class("nn.Calibrate")
class Calibrate(nn.Module):
    """Returns its input and stores the input's Gram matrix.

    Args:
        calibrator: computes the Gram matrix.

    Attributes:
        gram: Gram matrix of the last input.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input.

    Lua:
        ``nn.Calibrate()``, MSG-Net modules/Calibrate.lua
    """

    gram: Tensor

    def __init__(self, calibrator: nn.Module) -> None:
        super().__init__()
        self.calibrator = calibrator

    def forward(self, input: Tensor) -> Tensor:
        self.gram = self.calibrator(input.detach()).squeeze()
        return input

    class Lua(LuaClass):
        members = ("calibrator",)
        scratch = ("gram",)
        checked_by = "formula"
        test = "test_calibrate_remembers_the_gram_matrix"


@lua_class("nn.Inspiration")
class Inspiration(nn.Module):
    r"""Matches features to a style: :math:`(W G)^T X` with the Gram matrix G of the style.

    Args:
        channels: number C of channels.

    Attributes:
        weight: :math:`W`. It is a buffer, because Torch7's ``parameters()`` does not list the field ``Weight``.
        target: :math:`G`, a buffer; set it to the Gram matrix of a style.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``nn.Inspiration(C)``, MSG-Net modules/Inspiration.lua
    """

    weight: Tensor
    target: Tensor

    def __init__(self, channels: int, *, device: Any = None) -> None:
        super().__init__()
        self.channels = channels
        bound = channels**-0.5
        for name in ("weight", "target"):
            self.register_buffer(name, torch.empty(channels, channels, device=device).uniform_(-bound, bound))

    def forward(self, input: Tensor) -> Tensor:
        return ((self.weight @ self.target).t() @ input.flatten(-2)).view_as(input)

    class Lua(LuaClass):
        scalars = {"C": "channels"}
        tensors = {"Weight": "weight", "target": "target"}
        scratch = ("P", "gradWG", "gradPX")
        checked_by = "formula"
        test = "test_inspiration_mixes_maps_by_weight_and_target"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                fields.update(MM_WG=ctx.to_lua(MM()), MM_PX=ctx.to_lua(MM(transpose_a=True)))
            return fields
