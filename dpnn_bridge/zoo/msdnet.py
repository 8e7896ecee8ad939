"""Multi-scale dense networks (gaohuang/MSDNet)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.MSDNet_Layer_first")
class MSDNetLayerFirst(nn.Sequential):
    """The first layer: runs the modules in sequence and returns all their results.

    Args:
        *modules: one module for each scale.

    Shape:
        - Input: an image, :math:`(N, C, H, W)`.
        - Output: a list with one tensor for each scale.

    Lua:
        ``nn.MSDNet_Layer_first(nChannels, nOutChannels, opt)``, MSDNet models/MSDNet_Layer.lua
    """

    def forward(self, input: Tensor) -> list[Tensor]:  # type: ignore[override]
        results: list[Any] = [input]
        for module in self:
            results.append(module(results[-1]))
        return results[1:]

    class Lua(LuaClass):
        container = True
        constants = {"output": empty_table}


@lua_class("nn.MSDNet_Layer")
class MSDNetLayer(nn.Sequential):
    """A layer on the feature maps of all scales, which may drop the finest scale.

    Args:
        *modules: one module for each scale of the output.
        in_scales: number of scales of the input.
        out_scales: number of scales of the output, ``in_scales`` or one less.

    Shape:
        - Input: list of tensors, finest scale first.
        - Output: list of tensors. The module of a scale gets ``[x, finer, x]`` with the input x of its scale and the
          input of the next finer scale; the module of the finest scale gets ``[x, x]``.

    Lua:
        ``nn.MSDNet_Layer(nChannels, nOutChannels, opt, inScales, outScales)``, MSDNet models/MSDNet_Layer.lua
    """

    def __init__(self, *modules: nn.Module, in_scales: int, out_scales: int) -> None:
        super().__init__(*modules)
        self.in_scales, self.out_scales = in_scales, out_scales

    def forward(self, input: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        dropped = self.in_scales - self.out_scales
        results = []
        for i, module in enumerate(self, dropped):
            results.append(module([input[i], input[i - 1], input[i]] if i else [input[0], input[0]]))
        return results

    class Lua(LuaClass):
        computed_fields = ("discard",)
        container = True
        scalars = {"inScales": "in_scales", "outScales": "out_scales"}
        scratch = ("real_input", "gIn")
        constants = dict.fromkeys(("output", "gradInput", "real_input", "gIn"), empty_table)

        @classmethod
        def to_lua(cls, module: MSDNetLayer, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "discard": module.in_scales - module.out_scales}


@lua_class("nn.JointTrainModule")
class JointTrainModule(nn.Sequential):
    """A sequence of blocks, with a classifier on the coarsest scale of each block.

    Args:
        *modules: the blocks, followed by one classifier for each block.
        blocks: number of blocks.

    Shape:
        - Input: an image, :math:`(N, C, H, W)`.
        - Output: list with the scores of every classifier.

    Lua:
        ``nn.JointTrainModule(nChannels, opt)``, MSDNet models/JointTrainContainer.lua
    """

    def __init__(self, *modules: nn.Module, blocks: int) -> None:
        super().__init__(*modules)
        self.blocks = blocks

    def forward(self, input: Tensor) -> list[Tensor]:  # type: ignore[override]
        features: Any = input
        scores, modules = [], list(self)
        for block, classifier in zip(modules[: self.blocks], modules[self.blocks :], strict=True):
            features = block(features)
            scores.append(classifier(features[-1]))
        return scores

    class Lua(LuaClass):
        container = True
        scalars = {"nBlocks": "blocks"}
        constants = {"output": empty_table, "gradInput": empty_table}
