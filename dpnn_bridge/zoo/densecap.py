"""Box layers of densecap. A box is (x of the centre, y of the centre, width, height).

A transform (tx, ty, tw, th) has the shift of the centre, relative to the size, and the logarithms of the scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.pairwise import PairClass
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient, scale_gradient
from dpnn_bridge.zoo.densecap_boxes import corners
from dpnn_bridge.zoo.stn import BilinearSamplerBHWD


@lua_class("nn.ApplyBoxTransform")
class ApplyBoxTransform(nn.Module):
    """Shifts and scales boxes.

    Shape:
        - Input: ``[boxes, transforms]``, both :math:`(*, 4)`.
        - Output: :math:`(*, 4)`.

    Lua:
        ``nn.ApplyBoxTransform()``, densecap modules/ApplyBoxTransform.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        (centre, size), (shift, scale) = (x.unflatten(-1, (2, 2)).unbind(-2) for x in input)
        return torch.cat([shift * size + centre, scale.exp() * size], -1)

    class Lua(PairClass):
        scratch = ("buffer", "output_view")
        constants = {"buffer": LuaTensor.empty}


@lua_class("nn.InvertBoxTransform")
class InvertBoxTransform(nn.Module):
    """Computes the transforms that map anchor boxes to target boxes.

    Shape:
        - Input: ``[anchors, targets]``, both :math:`(N, 4)`.
        - Output: :math:`(N, 4)`.

    Lua:
        ``nn.InvertBoxTransform()``, densecap modules/InvertBoxTransform.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        (centre, size), (target_centre, target_size) = (x.unflatten(-1, (2, 2)).unbind(-2) for x in input)
        return torch.cat([(target_centre - centre) / size, (target_size / size).log()], -1)

    class Lua(PairClass):
        pass


@lua_class("nn.MakeAnchors")
class MakeAnchors(nn.Module):
    """Creates k anchor boxes at every position of a feature map. They depend only on the size of the input.

    Args:
        anchors: widths and heights of the anchors, :math:`(2, k)`, a buffer.
        x0, y0: centre of the receptive field of the first position.
        sx, sy: distances of the centres of neighbouring positions.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, 4 k, H, W)`.

    Lua:
        ``nn.MakeAnchors(x0, y0, sx, sy, anchors)``, densecap modules/MakeAnchors.lua
    """

    anchors: Tensor

    def __init__(self, anchors: Tensor, x0: float, y0: float, sx: float, sy: float) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors)
        self.x0, self.y0, self.sx, self.sy = x0, y0, sx, sy

    def boxes(self, input: Tensor) -> Tensor:
        """Return the anchors, :math:`(k, 4, H, W)`."""
        k, (H, W) = self.anchors.shape[1], input.shape[2:]
        x = torch.arange(W, dtype=input.dtype, device=input.device) * self.sx + self.x0
        y = torch.arange(H, dtype=input.dtype, device=input.device) * self.sy + self.y0
        columns = [x.view(1, 1, W), y.view(1, H, 1), *self.anchors.to(input.dtype).view(2, k, 1, 1)]
        return torch.stack([c.expand(k, H, W) for c in columns], 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.boxes(input).flatten(0, 1).expand(input.shape[0], -1, -1, -1)

    class Lua(LuaClass):
        scalars = ("x0", "y0", "sx", "sy")
        tensors = ("anchors",)
        tensor_args = ("anchors",)


@lua_class("nn.MakeBoxes")
class MakeBoxes(MakeAnchors):
    """Applies transforms to the anchors at every position of a feature map.

    Args:
        anchors, x0, y0, sx, sy: as for :class:`MakeAnchors`.

    Shape:
        - Input: :math:`(N, 4 k, H, W)`.
        - Output: :math:`(N, k H W, 4)`.

    Lua:
        ``nn.MakeBoxes(x0, y0, sx, sy, anchors)``, densecap modules/MakeBoxes.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        xa, ya, wa, ha = self.boxes(input).unbind(1)
        tx, ty, tw, th = input.unflatten(1, (-1, 4)).unbind(2)
        boxes = torch.stack([tx * wa + xa, ty * ha + ya, tw.exp() * wa, th.exp() * ha], -1)
        return boxes.flatten(1, 3)

    class Lua(MakeAnchors.Lua):
        scratch = ("input_perm", "boxes", "raw_anchors", "wa_expand", "ha_expand", "dtx", "dty", "dtw", "dth")
        constants = dict.fromkeys(("boxes", "raw_anchors", "dtx", "dty", "dtw", "dth"), LuaTensor.empty)


@lua_class("nn.ReshapeBoxFeatures")
class ReshapeBoxFeatures(nn.Module):
    """Converts a feature map with k boxes at each position to one row of features for each box.

    Args:
        k: number of boxes at each position.

    Shape:
        - Input: :math:`(N, k D, H, W)`.
        - Output: :math:`(N, k H W, D)`.

    Lua:
        ``nn.ReshapeBoxFeatures(k)``, densecap modules/ReshapeBoxFeatures.lua
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(1, (self.k, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)

    class Lua(LuaClass):
        scalars = ("k",)
        scratch = ("input_perm", "gradInput_perm")
        constants = dict.fromkeys(scratch, LuaTensor.empty)


@lua_class("nn.PosSlicer")
class PosSlicer(nn.Module):
    """Returns the first P rows of the features for P rows of ground truth.

    Shape:
        - Input: ``[features, truth]``, :math:`(N, *)` and :math:`(P, *)`, or an empty tensor as truth.
        - Output: :math:`(P, *)`; all N rows if the truth is empty.

    Raises:
        ValueError: P is larger than N.

    Lua:
        ``nn.PosSlicer()``, densecap modules/PosSlicer.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        features, truth = input
        if truth.numel() == 0:
            return features
        if len(truth) > len(features):
            raise ValueError(f"PosSlicer: {len(truth)} ground truth rows, but {len(features)} rows of features")
        return features[: len(truth)]

    class Lua(LuaClass):
        scratch = ("grad_features", "grad_gt_features")
        constants = dict.fromkeys(scratch, LuaTensor.empty)


@lua_class("nn.RegularizeLayer")
class RegularizeLayer(nn.Module):
    """Returns its input; the backward pass adds the gradient of half the squared norm, times ``weight``.

    Args:
        weight: factor of the added gradient.
        grad_scale: factor of the incoming gradient.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input.

    Lua:
        ``nn.RegularizeLayer(weight, gradMul)``, densecap modules/RegularizeLayer.lua
    """

    def __init__(self, weight: float, grad_scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.grad_scale = weight, grad_scale

    def forward(self, input: Tensor) -> Tensor:
        return scale_gradient(add_gradient(input, input.detach() * self.weight), self.grad_scale)

    class Lua(LuaClass):
        scalars = {"w": "weight", "gradMul": "grad_scale"}
        scratch = ("loss",)


@lua_class("nn.BoxIoU")
class BoxIoU(nn.Module):
    """Intersection over union of all pairs of boxes. The corners of a box are the centres of its outermost pixels.

    Shape:
        - Input: ``[first, second]``, :math:`(N, B_1, 4)` and :math:`(N, B_2, 4)`.
        - Output: :math:`(N, B_1, B_2)`.

    Lua:
        ``nn.BoxIoU()``, densecap modules/BoxIoU.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        first, second = input[0].unsqueeze(2), input[1].unsqueeze(1)
        (low1, high1), (low2, high2) = (corners(boxes).split(2, -1) for boxes in (first, second))
        overlap = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(-1)
        return overlap / (first[..., 2:].prod(-1) - overlap + second[..., 2:].prod(-1))

    class Lua(LuaClass):
        scratch = ("area1", "area2", "overlap")
        constants = dict.fromkeys(scratch, LuaTensor.empty)


@lua_class("nn.BoxToAffine")
class BoxToAffine(nn.Module):
    """Computes affine matrices that map a sampling grid onto boxes.

    Args:
        height, width: size of the image in the units of the boxes; may be set before each call.

    Shape:
        - Input: :math:`(N, 4)`.
        - Output: :math:`(N, 2, 3)`.

    Lua:
        ``nn.BoxToAffine():setSize(H, W)``, densecap modules/BoxToAffine.lua
    """

    def __init__(self, height: float | None = None, width: float | None = None) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, input: Tensor) -> Tensor:
        if self.height is None or self.width is None:
            raise ValueError("BoxToAffine: set height and width to the size of the image first")
        x, y, w, h = input.unbind(1)
        zero = torch.zeros_like(x)
        rows = [h / self.height, zero, (2 * y - 1 - self.height) / (self.height - 1)]
        rows += [zero, w / self.width, (2 * x - 1 - self.width) / (self.width - 1)]
        return torch.stack(rows, 1).unflatten(1, (2, 3))

    class Lua(LuaClass):
        scalars = {"H": "height", "W": "width"}
        defaults = {"H": None, "W": None}


@lua_class("nn.BatchBilinearSamplerBHWD")
class BatchBilinearSamplerBHWD(BilinearSamplerBHWD):
    """Samples one image at the points of several grids.

    Shape:
        - Input: ``[image, grids]``, :math:`(H, W, C)` and :math:`(N, H', W', 2)`.
        - Output: :math:`(N, H', W', C)`.

    Lua:
        ``nn.BatchBilinearSamplerBHWD()``, densecap modules/BatchBilinearSamplerBHWD.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        image, grids = input
        return super().forward([image.expand(grids.shape[0], *image.shape), grids])

    class Lua(LuaClass):
        scratch = ("inputImageView", "gradInputImageView")
        constants = {**dict.fromkeys(scratch, LuaTensor.empty), "gradInput": empty_table}


@lua_class("nn.BilinearRoiPooling")
class BilinearRoiPooling(nn.Module):
    """Samples the features of boxes in a grid of fixed size.

    Args:
        net: converts the boxes to grids and samples the features there.
        box_to_affine: the module in ``net`` that depends on the size of the image.
        image_height, image_width: size of the image that the boxes refer to; may be set before each call.

    Shape:
        - Input: ``[features, boxes]``, :math:`(C, H, W)` and :math:`(N, 4)`.
        - Output: :math:`(N, C, H', W')`.

    Lua:
        ``nn.BilinearRoiPooling(height, width)``, densecap modules/BilinearRoiPooling.lua
    """

    def __init__(
        self,
        net: nn.Module,
        box_to_affine: nn.Module,
        image_height: float | None = None,
        image_width: float | None = None,
    ) -> None:
        super().__init__()
        self.net, self.box_to_affine = net, box_to_affine
        self.image_height, self.image_width = image_height, image_width

    def forward(self, input: list[Tensor]) -> Tensor:
        assert isinstance(self.box_to_affine, BoxToAffine)
        if self.image_height is None or self.image_width is None:
            raise ValueError("BilinearRoiPooling: set image_height and image_width to the size of the image first")
        self.box_to_affine.height, self.box_to_affine.width = self.image_height, self.image_width
        return self.net(input)

    class Lua(LuaClass):
        members = ("net", "box_to_affine")
        scalars = ("image_height", "image_width")
        defaults = {"image_height": None, "image_width": None}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "box_to_affine" in obj and "spatial_scale" not in obj
