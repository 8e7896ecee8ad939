"""Layers of handwriting synthesis (jarmstrong2/handwritingnet, 3D-PRNN)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import with_gradient_of

#: components of the mixture
MIXTURE = 20
#: numbers of columns of an output: end of stroke, weights, means of x and y, deviations of x and y, correlations
COLUMNS = [1, *[MIXTURE] * 6]


@lua_class("nn.YHat")
class YHat(nn.Module):
    """Converts raw outputs to parameters of a mixture of Gaussians. The gradient passes unchanged.

    Shape:
        - Input, output: :math:`(N, 121)`.

    Differs from PyTorch:
        As in Torch7, :class:`MixtureCriterion` already computes the gradient with respect to the raw outputs.

    Lua:
        ``nn.YHat()``, handwritingnet yHatMat.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        end, weight, mean_x, mean_y, deviation_x, deviation_y, correlation = input.split(COLUMNS, 1)
        parts = [torch.sigmoid(-end), torch.softmax(weight, 1), mean_x, mean_y]
        parts += [deviation_x.exp(), deviation_y.exp(), torch.tanh(correlation)]
        return with_gradient_of(torch.cat(parts, 1), input)

    class Lua(LuaClass):
        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return _is_handwriting(obj)


@lua_class("nn.Window")
class Window(nn.Module):
    """Attends to a soft window that moves along the characters of a text.

    Shape:
        - Input: ``[x, text, position]``: :math:`(N, 30)`, one-hot characters :math:`(N, U, V)`, and :math:`(N, 10)`;
          further inputs are ignored.
        - Output: ``[characters, position, window]``: :math:`(N, V)`, :math:`(N, 10)`, :math:`(N, 1, U)`.

    Differs from PyTorch:
        As in Torch7, the text gets no gradient, and the gradient of the window is ignored.

    Lua:
        ``nn.Window()``, handwritingnet windowMat.lua
    """

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        height, width, step = input[0].exp().chunk(3, 1)
        text, position = input[1].detach(), input[2] + step
        characters = torch.arange(1, text.shape[1] + 1, dtype=text.dtype, device=text.device)
        bells = torch.exp(-width[..., None] * (position[..., None] - characters) ** 2)
        window = (height[..., None] * bells).sum(1, keepdim=True)
        return [torch.bmm(window, text)[:, 0], position, window.detach()]

    class Lua(LuaClass):
        scratch = ("kappas_t_1", "cu")
        constants = {"output": empty_table, "gradInput": empty_table}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return _is_handwriting(obj) and "mask" not in obj


@lua_class("nn.MixtureCriterion")
class MixtureCriterion(RunBuffers):
    """The negative log likelihood of a pen movement under a mixture of Gaussians, summed over the batch.

    Args:
        size_average: divide by N.

    Shape:
        - Input: parameters of the mixture, output of :class:`YHat`, :math:`(N, 121)`.
        - Target: x, y, and 1 if the stroke ends or else 0, :math:`(N, 3)`.
        - Output: scalar.

    Attributes:
        mask: 1 for samples that count and 0 for others, :math:`(N, 1)`; None for all. Torch7's scripts set the mask for
            every batch.

    Differs from PyTorch:
        As in Torch7, the gradient is the gradient with respect to the input of :class:`YHat`.

    Lua:
        ``nn.MixtureCriterion()``, handwritingnet mixtureCriterionMat.lua
    """

    mask: Tensor | None

    run_buffers = ("mask",)

    def __init__(self, size_average: bool = False) -> None:
        super().__init__()
        self.size_average = size_average
        self.register_buffer("mask", None)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        mask = input.new_ones(len(input), 1) if self.mask is None else self.mask.reshape(-1, 1)
        value, slope = _likelihood(input.detach(), target.detach())
        loss, surrogate = -(value * mask).sum(), (input * slope * mask).sum()
        if self.size_average:
            loss, surrogate = loss / len(input), surrogate / len(input)
        return with_gradient_of(loss, surrogate)

    class Lua(LuaClass):
        scalars = {"sizeAverage": "size_average"}
        defaults: dict[str, Any] = {"sizeAverage": False}
        tensors = ("mask",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return _is_handwriting(obj)


def _is_handwriting(obj: LuaObject) -> bool:
    """Return whether an object has no field of the classes with the same names for mixtures of other sizes."""
    return not {"dimInput", "nGMM", "nWindow", "sizeMeanInput"} & set(obj)


def _likelihood(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log likelihood of every sample (N, 1).

    Also return the gradient of the negative log likelihood with respect to the raw outputs (N, 121).
    """
    tiny = 1e-15
    end, weight, mean_x, mean_y, deviation_x, deviation_y, r = input.split(COLUMNS, 1)
    x, y, ends = target.split(1, 1)
    p, q = 1 / (deviation_x + tiny), 1 / (deviation_y + tiny)
    dx, dy = (x - mean_x) * p, (y - mean_y) * q
    z = dx**2 + dy**2 - 2 * r * dx * dy

    def density(one_minus_r2: Tensor) -> Tensor:
        return p * q * one_minus_r2**-0.5 / (2 * math.pi) * torch.exp(-z / (2 * one_minus_r2)) * weight

    value = density(1 - r**2).sum(1, keepdim=True).log() + torch.where(ends == 1, end.log(), (1 - end).log())
    parts = density(1 - r**2 + tiny)
    responsibility, inverse = parts / (parts.sum(1, keepdim=True) + tiny), 1 / (1 - r**2 + tiny)
    slope = [
        ends - end,
        weight - responsibility,
        -responsibility * inverse * p * (dx - r * dy),
        -responsibility * inverse * q * (dy - r * dx),
    ]
    slope += [
        -responsibility * (inverse * dx * (dx - r * dy) - 1),
        -responsibility * (inverse * dy * (dy - r * dx) - 1),
    ]
    slope.append(-responsibility * (dx * dy + r * (1 - inverse * z)))
    return value, torch.cat(slope, 1)
