"""Perspective transformer nets (ptnbhwd): grids of points in a volume and sampling at them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class


@lua_class("nn.PerspectiveGridGenerator")
class PerspectiveGridGenerator(nn.Module):
    """Maps the points of a viewing frustum by 4 x 4 matrices.

    Args:
        depth, height, width: size of the grid.
        base_grid: the points as rows ``z, y, x, 1``, :math:`(D, H, W, 4)`, a buffer. Torch7 computes them from the
            focal length, which it does not store.

    Shape:
        - Input: :math:`(B, 4, 4)` or :math:`(4, 4)`.
        - Output: :math:`(B, D, H, W, 4)` or :math:`(D, H, W, 4)`.

    Lua:
        ``nn.PerspectiveGridGenerator(depth, height, width, focal_length)``, ptnbhwd PerspectiveGridGenerator.lua
    """

    base_grid: Tensor

    def __init__(self, depth: int, height: int, width: int, base_grid: Tensor) -> None:
        super().__init__()
        self.depth, self.height, self.width = depth, height, width
        self.register_buffer("base_grid", base_grid)

    def forward(self, input: Tensor) -> Tensor:
        points = self.base_grid.flatten(0, 2) @ input.transpose(-1, -2)
        return points.unflatten(-2, (self.depth, self.height, self.width))

    class Lua(LuaClass):
        scalars = ("depth", "height", "width")
        tensors = {"baseGrid": "base_grid"}
        tensor_args = ("baseGrid",)
        scratch = ("batchGrid",)
        checked_by = "formula"
        test = "test_perspective_grid_maps_every_point"

        @classmethod
        def to_lua(cls, module: PerspectiveGridGenerator, ctx: LuaContext) -> dict[str, Any]:
            batch = ctx.constant(module.base_grid.unsqueeze(0), module)
            return {**super().to_lua(module, ctx), "batchGrid": batch}


@lua_class("nn.BilinearSamplerPerspective")
class BilinearSamplerPerspective(nn.Module):
    """Samples volumes at the points of a grid by trilinear interpolation; points outside give 0.

    Args:
        focal_length: kept for the export; the output does not depend on it.

    Shape:
        - Input: ``[volumes, grid]``, :math:`(B, D, H, W, C)` and :math:`(B, D', H', W', 4)`, or both without B. A
          point is ``z, y, x`` and a fourth number, which is ignored; -1 and 1 are the centres of the outermost cells.
        - Output: :math:`(B, D', H', W', C)`, or without B.

    Differs from PyTorch:
        ``grid_sample(align_corners=True)`` with channels last and z first.

    Lua:
        ``nn.BilinearSamplerPerspective(focal_length)``, ptnbhwd BilinearSamplerPerspective.lua
    """

    def __init__(self, focal_length: float | None = None) -> None:
        super().__init__()
        self.focal_length = focal_length

    def forward(self, input: list[Tensor]) -> Tensor:
        volumes, grid = input
        single = volumes.dim() == 4
        if single:
            volumes, grid = volumes.unsqueeze(0), grid.unsqueeze(0)
        points = grid[..., :3].flip(-1)
        output = F.grid_sample(volumes.movedim(-1, 1), points, align_corners=True).movedim(1, -1)
        return output.squeeze(0) if single else output

    class Lua(LuaClass):
        scalars = ("focal_length",)
        defaults = {"focal_length": None}
        constants = {"gradInput": empty_table}
        checked_by = "formula"
        test = "test_perspective_sampler_is_trilinear_with_zeros_outside"
