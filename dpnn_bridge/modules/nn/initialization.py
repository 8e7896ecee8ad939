"""Draw the initial parameters of layers that are created in PyTorch."""

from __future__ import annotations

import math

from torch import Tensor, nn


def init_uniform(fan_in: int, *parameters: Tensor | None) -> None:
    """Draw parameters from Torch7's usual distribution: uniform between plus and minus ``1 / sqrt(fan_in)``."""
    bound = 1 / math.sqrt(fan_in)
    for parameter in parameters:
        if parameter is not None:
            nn.init.uniform_(parameter, -bound, bound)
