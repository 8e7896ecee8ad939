"""Layers of STMN, the spatial-temporal memory network for object detection in videos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table, size_storage
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.registry import parameters as parameters_of
from dpnn_bridge.modules.nn.elementwise import MulConstant
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.torch7.gradient import with_gradient_of, zero_gradient
from dpnn_bridge.zoo.densecap import BoxToAffine


@lua_class("nn.AdaLinearScale")
class AdaLinearScale(nn.Module):
    """Clamps to the range from 0 to an upper bound, and divides by the bound.

    The bound is the mean of the positive elements plus ``std_multiplier`` times their standard deviation. It is a
    constant in the gradient. If the standard deviation is NaN, as of fewer than two positive elements, the bound is 1.

    Args:
        std_multiplier: factor of the standard deviation.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.AdaLinearScale(std_multiplier)``, STMN modules/AdaLinearScale.lua
    """

    def __init__(self, std_multiplier: float) -> None:
        super().__init__()
        self.std_multiplier = std_multiplier

    def forward(self, input: Tensor) -> Tensor:
        value = input.detach()
        positive = value > 0
        count = positive.sum()
        mean = value.where(positive, 0).sum() / count
        deviation = (value - mean).square().where(positive, 0).sum() / (count - 1)
        bound = mean + deviation.sqrt() * self.std_multiplier
        bound = bound.where(~bound.isnan(), 1)
        inside = positive & (value < bound)
        scale = 1 / bound
        return with_gradient_of(value.clamp(min=0).minimum(bound) * scale, input.where(inside, 0) * scale)

    class Lua(LuaClass):
        scalars = ("std_multiplier",)
        constants = {"upper_bound": 1}
        checked_by = "formula"
        test = "test_ada_linear_scale_sets_its_bound_from_the_positive_elements"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                net = ctx.to_lua(nn.Sequential(nn.Hardtanh(0, 1), MulConstant(1)))
                clamp, multiplier = net["modules"].as_list()
                fields.update(net=net, clamp=clamp, multiplier=multiplier)
            return fields


@lua_class("nn.MatchTrans")
class MatchTrans(nn.Module):
    """Aligns features of the previous frame with the current frame.

    The output at a position is the mean of the features in a window around it. The weights are the positive cosine
    similarities of the current frame at the position and of the previous frame in the window. If no similarity is
    positive, the output is the feature at the position itself. Only the features get a gradient.

    Args:
        window: size K of the window, odd.

    Shape:
        - Input: ``[current, previous, features]``, :math:`(N, C, H, W)` twice and :math:`(N, D, H, W)`.
        - Output: :math:`(N, D, H, W)`.

    Lua:
        ``nn.MatchTrans(K)``, STMN modules/MatchTrans.lua; runs on CUDA only
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, input: list[Tensor]) -> Tensor:
        current, previous, features = input
        N, D, H, W = features.shape
        weights = self._weights(current.detach(), previous.detach())
        neighbours = self._windows(features)
        output = (neighbours * weights).sum(2).view(N, D, H, W)
        return zero_gradient(output, current, previous)

    def _windows(self, map: Tensor) -> Tensor:
        """Return the neighbours of every position, :math:`(N, C, K^2, H W)`."""
        return F.unfold(map, self.window, padding=self.window // 2).unflatten(1, (map.shape[1], -1))

    def _weights(self, current: Tensor, previous: Tensor) -> Tensor:
        """Return the weights of the neighbours, :math:`(N, 1, K^2, H W)`."""
        now = (current / (torch.linalg.vector_norm(current, dim=1, keepdim=True) + 1e-8)).flatten(2)
        before = self._windows(previous / (torch.linalg.vector_norm(previous, dim=1, keepdim=True) + 1e-8))
        affinity = (before * now.unsqueeze(2)).sum(1, keepdim=True).clamp(min=0)
        mass = affinity.sum(2, keepdim=True)
        centre = torch.arange(affinity.shape[2], device=affinity.device) == affinity.shape[2] // 2
        alone = centre.to(affinity.dtype).view(1, 1, -1, 1)
        return torch.where(mass < 1e-7, alone, affinity / mass)

    class Lua(LuaClass):
        scalars = {"K": "window"}
        constants = {"gradInput": empty_table, "epsilon": 1e-8}
        scratch = ("masked_cpa", "gradCurMap", "gradPrevMap", "gradFeat")
        checked_by = "formula"
        test = "test_match_trans_averages_what_looks_alike"


@lua_class("nn.VidFlip")
class VidFlip(nn.Module):
    """Reverses the order of the frames of each video.

    Args:
        videos: number N of videos.
        frames: number T of frames of each video.

    Shape:
        - Input, output: :math:`(N T, D, H, W)`.

    Lua:
        ``nn.VidFlip(N, T)``, STMN modules/VidFlip.lua
    """

    def __init__(self, videos: int, frames: int) -> None:
        super().__init__()
        self.videos, self.frames = videos, frames

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(0, (self.videos, self.frames)).flip(1).flatten(0, 1)

    class Lua(LuaClass):
        scalars = {"N": "videos", "T": "frames"}
        scratch = ("flip_idx",)
        checked_by = "formula"
        test = "test_vid_flip_and_fixed_index"


@lua_class("nn.STMM")
class STMM(nn.Module):
    """Spatial-temporal memory: a convolutional recurrence over the frames of videos.

    Args:
        net: maps ``[features, features of the previous frame, memory]`` to ``[memory, update gate, reset gate]``.
        videos: number N of videos; set ``videos`` and ``frames`` to the numbers in the input before each call.
        frames: number T of frames of each video.
        in_channels: number D of channels of the features.
        memory_channels: number M of channels of the memory.

    Shape:
        - Input: features :math:`(N T, D, H, W)`, or ``[features, memory]`` with the initial memory
          :math:`(N, M, H, W)`, which is zeros by default.
        - Output: :math:`(N T, M, H, W)`.

    Differs from PyTorch:
        As in Torch7, the features get no gradient as features of the previous frame.

    Lua:
        ``nn.STMM(N, T, D, M, MULT)``, STMN modules/STMM.lua
    """

    fx_leaf = True

    def __init__(self, net: nn.Module, videos: int, frames: int, in_channels: int, memory_channels: int) -> None:
        super().__init__()
        self.net = net
        self.videos, self.frames = videos, frames
        self.in_channels, self.memory_channels = in_channels, memory_channels

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        flat = input if isinstance(input, Tensor) else input[0]
        features = flat.unflatten(0, (self.videos, self.frames))
        memory = features.new_zeros(self.videos, self.memory_channels, *flat.shape[2:])
        if not isinstance(input, Tensor):
            memory = input[1]
        outputs = []
        for t in range(self.frames):
            memory = self.net([features[:, t], features[:, max(t - 1, 0)].detach(), memory])[0]
            outputs.append(memory)
        return torch.stack(outputs, 1).flatten(0, 1)

    class Lua(LuaClass):
        """The field ``weight``, a flat tensor in Torch7, is exported as a list of the parameters of ``net``.

        Torch7 accepts both.
        """

        computed_fields = ("weight", "gradWeight")
        members = ("net",)
        scalars = {"N": "videos", "T": "frames", "D": "in_channels", "M": "memory_channels"}
        constants = {
            **{"t": 2, "elemwise_mask": True, "cell_constructed_flag": True, "mult_after_w": 1},
            "concat": lambda tensor_class: fresh(
                "nn.JoinTable", tensor_class, dimension=1, size=size_storage(), gradInput=LuaTable()
            ),
        }
        scratch = (
            *("mem_input", "mem_output", "z_output", "r_output", "mem_gradInput", "feat_gradInput"),
            *("z_gradOutput", "r_gradOutput"),
        )
        checked_by = "formula"
        test = "test_memory_runs_over_the_frames_of_each_video"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            parameters = list(parameters_of(module))
            fields["weight"] = LuaTable.from_list([ctx.tensor(*p) for p in parameters])
            if ctx.gradients:
                fields["gradWeight"] = LuaTable.from_list([ctx.gradient(*p) for p in parameters])
            return fields


@lua_class("nn.FixedIndex")
class FixedIndex(nn.Module):
    """Selects fixed positions along one dimension.

    Args:
        index: the positions, counted from 1, a buffer.
        dimension: the dimension, counted from 1.

    Shape:
        - Input: :math:`(*)`.
        - Output: shape of the input; the size of the dimension is the length of ``index``.

    Lua:
        ``nn.FixedIndex(dimension, index)``, STMN modules/FixedIndex.lua
    """

    index: Tensor

    def __init__(self, index: Tensor, dimension: int) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.dimension = dimension

    def forward(self, input: Tensor) -> Tensor:
        return input.index_select(self.dimension - 1, self.index.long() - 1)  # the index is float after a cast in Lua

    class Lua(LuaClass):
        scalars = ("dimension",)
        tensors = ("index",)
        tensor_args = ("index",)
        checked_by = "formula"
        test = "test_vid_flip_and_fixed_index"


@lua_class("nn.BilinearRoiPooling")
class ImageRoiPooling(nn.Module):
    """Samples the features of boxes in a grid of fixed size. The gradient of the boxes is zero.

    Args:
        net: converts boxes to grids and samples the features of one image there.
        box_to_affine: the module in ``net`` that depends on the size of the image.
        height, width: size of the output.
        spatial_scale: size of the feature map relative to the image.

    Shape:
        - Input: ``[features, rois]``, :math:`(B, C, H, W)` and :math:`(N, 5)` with rows ``image, x1, y1, x2, y2``; the
          index of the image is counted from 1.
        - Output: :math:`(N, C, height, width)`.

    Lua:
        ``nn.BilinearRoiPooling(height, width, spatial_scale)``, STMN modules/BilinearRoiPooling.lua
    """

    fx_leaf = True

    def __init__(self, net: nn.Module, box_to_affine: nn.Module, height: int, width: int, spatial_scale: float) -> None:
        super().__init__()
        self.net, self.box_to_affine = net, box_to_affine
        self.height, self.width, self.spatial_scale = height, width, spatial_scale

    def forward(self, input: list[Tensor]) -> Tensor:
        features, rois = input
        assert isinstance(self.box_to_affine, BoxToAffine)
        self.box_to_affine.height = features.shape[2] / self.spatial_scale
        self.box_to_affine.width = features.shape[3] / self.spatial_scale
        image, corners = rois.detach()[:, 0], rois.detach()[:, 1:]
        size = corners[:, 2:] - corners[:, :2] + 1
        boxes = torch.cat([corners[:, :2] + size / 2, size], 1)
        output = features.new_zeros(len(rois), features.shape[1], self.height, self.width)
        for i in range(len(features)):  # the net takes one image at a time
            rows = (image == i + 1).nonzero().flatten()
            if len(rows):
                output = output.index_copy(0, rows, self.net([features[i], boxes[rows]]))
        return zero_gradient(output, rois)

    class Lua(LuaClass):
        members = ("net", "box_to_affine")
        scalars = ("height", "width", "spatial_scale")
        constants = {"gradInput": empty_table}
        scratch = ("gradFeats", "gradRois")
        checked_by = "formula"
        test = "test_rois_name_their_image"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "spatial_scale" in obj

        @classmethod
        def to_lua(cls, module: ImageRoiPooling, ctx: LuaContext) -> dict[str, Any]:
            assert isinstance(module.net, nn.Sequential)
            branch = module.net[0][1]  # type: ignore[index]
            return {**super().to_lua(module, ctx), "box_branch": ctx.to_lua(branch)}
