"""cuda-convnet's max pooling in cunn, which Torch7 implements only for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.SpatialMaxPoolingCUDA")
class SpatialMaxPoolingCUDA(nn.Module):
    """Max pooling of square images whose last dimension is the batch dimension.

    Args:
        kernel_size, stride: as in :class:`torch.nn.MaxPool2d`, pairs of equal numbers.

    Shape:
        - Input: :math:`(C, H, H, N)`.
        - Output: :math:`(C, H_{out}, H_{out}, N)`.

    Differs from PyTorch:
        The order of the dimensions, and the gradient: every element that equals the maximum of its window gets it.

    Lua:
        ``nn.SpatialMaxPoolingCUDA(kW, kH, dW, dH)``, nn SpatialMaxPoolingCUDA.lua until April 2015

    Raises:
        ValueError: window, stride or images are not square, or the images are smaller than the window.
    """

    def __init__(self, kernel_size: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        for name, (height, width) in {"kernel_size": kernel_size, "stride": stride}.items():
            if height != width:
                raise ValueError(f"SpatialMaxPoolingCUDA: expected a square {name}, found {height} x {width}")
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        if input.dim() != 4 or input.shape[1] != input.shape[2] or input.shape[1] < size:
            raise ValueError(
                f"SpatialMaxPoolingCUDA: expected square images (C, H, H, N) of at least {size} x {size} pixels, "
                f"found {tuple(input.shape)}"
            )
        windows = input.unfold(1, size, stride).unfold(2, size, stride)
        output = windows.amax((-2, -1))
        if not (torch.is_grad_enabled() and input.requires_grad):
            return output
        largest = (windows == output[..., None, None]).detach()
        return with_gradient_of(output, windows.where(largest, 0).sum((-2, -1)))

    class Lua(LuaClass):
        scalars = {("kH", "kW"): "kernel_size", ("dH", "dW"): "stride"}
        constants = {"indices": LuaTensor.empty}
        checked_by = "formula"
        test = "test_cuda_convnets_max_pooling"
