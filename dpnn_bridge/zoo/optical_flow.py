"""Layers of unsupervised optical flow (JJanai/back2future)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.CostVolMulti")
class CostVolMulti(nn.Module):
    """Correlation of the features of a reference frame and of other frames, for every displacement in a window.

    Args:
        window: number of displacements in each direction, odd.
        forward_in_time: the frames follow the reference; if False, displacements have the opposite sign.

    Shape:
        - Input: list of tensors :math:`(N, C, H, W)`, the reference first.
        - Output: :math:`(N, window^2, H, W)`. The displacement of the f-th frame after the reference is multiplied by
          f. The sums of products are divided by C and by the number of other frames. Pixels outside a frame are 0.

    Lua:
        ``nn.CostVolMulti(win, fwd, verbose)``, back2future models/CostVolMulti.lua
    """

    def __init__(self, window: int = 3, forward_in_time: bool = True) -> None:
        super().__init__()
        self.window, self.forward_in_time = window, forward_in_time

    def forward(self, input: list[Tensor]) -> Tensor:
        reference, *frames = input
        N, C, H, W = reference.shape
        n, sign = (self.window - 1) // 2, 1 if self.forward_in_time else -1
        total = reference.new_zeros(N, self.window**2, H, W)
        for f, frame in enumerate(frames, 1):
            far = n * f
            around = F.pad(frame, (far, far, far, far))
            costs = []
            for x in range(-n, n + 1):
                for y in range(-n, n + 1):
                    top, left = far - sign * y * f, far - sign * x * f
                    costs.append((reference * around[:, :, top : top + H, left : left + W]).sum(1))
            total = total + torch.stack(costs, 1)
        return total / (C * len(frames))

    class Lua(LuaClass):
        scalars = {"win": "window", "fwd": "forward_in_time"}
        constants = {"gradInput": empty_table, "verbose": False}
