"""Geometry of densecap's boxes. The centre of the first pixel is 1; a box that covers one pixel has width 1."""

from __future__ import annotations

import torch
from torch import Tensor

from dpnn_bridge.torch7.quicksort import positions, sort_positions


def corners(boxes: Tensor) -> Tensor:
    """Convert boxes (xc, yc, w, h) to the centres (x1, y1, x2, y2) of their corner pixels, :math:`(*, 4)`."""
    centre, size = boxes.split(2, -1)
    half = (size - 1) / 2
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: Tensor, height: float, width: float) -> tuple[Tensor, Tensor]:
    """Clip boxes (xc, yc, w, h) to an image.

    Widths and heights shrink by 1, even for boxes inside the image: densecap does not add the pixel again that
    :func:`corners` subtracts.

    Args:
        boxes: :math:`(N, 4)`.
        height, width: size of the image.

    Returns:
        The clipped boxes, :math:`(N, 4)`, and a mask of the boxes that are not empty, :math:`(N)`.
    """
    ends = boxes.new_tensor([width, height])
    upper_left, lower_right = corners(boxes).split(2, 1)
    upper_left = torch.minimum(upper_left.clamp(min=1), ends - 1)
    lower_right = torch.minimum(lower_right.clamp(min=2), ends)
    clipped = torch.cat([(upper_left + lower_right) / 2, lower_right - upper_left], 1)
    return clipped, (lower_right > upper_left).all(1)


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, overlap: float, max_boxes: int | None = None) -> Tensor:
    """Return the indices of the boxes that remain after non-maximum suppression.

    Boxes with equal scores are in the reverse of the order in which Torch7 sorts them.

    Args:
        boxes: (x1, y1, x2, y2), :math:`(N, 4)`.
        scores: :math:`(N)`; compared in single precision.
        overlap: largest intersection over union that two remaining boxes may have.
        max_boxes: maximum number of remaining boxes; None for all.

    Returns:
        Indices from 0, :math:`(K)`, highest score first.
    """
    order = positions(scores.float().cpu(), sort_positions).flip(0).to(boxes.device)
    ends = boxes[order].T.contiguous()
    area = (ends[2] - ends[0] + 1) * (ends[3] - ends[1] + 1)
    picked = []
    while len(order) and (max_boxes is None or len(picked) < max_boxes):
        picked.append(order[:1])
        low, high = torch.maximum(ends[:2, 1:], ends[:2, :1]), torch.minimum(ends[2:, 1:], ends[2:, :1])
        width, height = (high - low + 1).clamp(min=0)
        shared = width * height
        left = 1 + (shared / (area[1:] + area[0] - shared) <= overlap).nonzero()[:, 0]
        order, ends, area = order[left], ends[:, left], area[left]
    return torch.cat(picked) if picked else order
