"""Random layers with Torch7's random numbers for a seed."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from dpnn_bridge.torch7.draws import torch7_random
from dpnn_bridge.torch7.random import Generator


def test_dropout_is_torch7s_to_the_last_bit() -> None:
    x = torch.arange(1000.0) / 7
    noise = Generator(77).fill_bernoulli(torch.empty_like(x), 0.7) / 0.7  # nn.Dropout divides the noise
    with torch7_random(77):
        assert torch.equal(F.dropout(x, 0.3), x * noise)
        assert F.dropout(x, 0.3, training=False) is x
