"""Torch7's random numbers in place of PyTorch's, for fixtures that hold a seed and no noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dpnn_bridge.lua.random import Generator


@contextmanager
def torch7_random(seed: float | None) -> Iterator[None]:
    """While the block runs, random draws follow Torch7's generator after ``torch.manualSeed(seed)``."""
    if seed is None:
        yield
        return
    generator = Generator(int(seed))

    def bernoulli_(t: Tensor, p: float = 0.5, **_: Any) -> Tensor:
        return generator.fill_bernoulli(t, p)

    def normal_(t: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
        return generator.fill_normal(t, mean, std)

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return x * generator.fill_bernoulli(torch.empty_like(x), 1 - p) / (1 - p) if training and p else x

    def randn_like(t: Tensor, **_: Any) -> Tensor:
        return generator.fill_normal(torch.empty_like(t))

    def rand_like(t: Tensor, **_: Any) -> Tensor:
        return generator.fill_uniform(torch.empty_like(t))

    with (
        mock.patch("torch.randn_like", randn_like),
        mock.patch("torch.rand_like", rand_like),
        mock.patch.object(Tensor, "bernoulli_", bernoulli_),
        mock.patch.object(Tensor, "normal_", normal_),
        mock.patch("torch.nn.functional.dropout", dropout),
    ):
        yield
