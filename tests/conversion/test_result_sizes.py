"""The sizes of convolutions' and poolings' results are those that PyTorch computes on the meta device."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from dpnn_bridge.conversion.result_sizes import RESULTS


def some(count: int, low: int, high: int) -> list[int]:
    """Return one number for each dimension, or one for all."""
    return [random.randint(low, high) for _ in range(random.choice([1, count]))]


def image(*shape: int) -> Tensor:
    dims = [random.randint(1, 9) for _ in range(random.choice([1, 2, 3]) if len(shape) == 2 else shape[2])]
    return torch.empty(*shape[:2], *dims, dtype=random.choice([torch.float32, torch.float64]), device="meta")


def convolution() -> tuple[Any, ...]:
    groups, transposed = random.choice([1, 2]), random.choice([True, False])
    value = image(2, 2 * groups)
    count = value.dim() - 2
    kernel = [random.randint(1, 4) for _ in range(count)]
    weight = value.new_empty(2 * groups, 3 if transposed else 2, *kernel)
    steps = some(count, 1, 3), some(count, 0, 2), some(count, 1, 2)
    return value, weight, None, *steps, transposed, some(count, 0, 1) if transposed else [0] * count, groups


def convolution_backward() -> tuple[Any, ...]:
    args = convolution()
    mask = [random.choice([True, False]) for _ in range(3)]
    gradient = torch.ops.aten.convolution.default(*args)
    return gradient, *args[:2], [gradient.shape[1]], *args[3:], mask


def pooling(count: int, dilated: bool) -> tuple[Any, ...]:
    value, stride = image(2, 3, count)[random.choice([0, slice(None)])], random.choice([[], some(count, 1, 3)])
    dilation = [some(count, 1, 2)] if dilated else []
    return value, some(count, 1, 4), stride, some(count, 0, 2), *dilation, random.choice([True, False])


MAKERS = {
    "convolution": convolution,
    "convolution_backward": convolution_backward,
    **{f"max_pool{n}d_with_indices": lambda n=n: pooling(n, True) for n in (2, 3)},
    **{f"avg_pool{n}d": lambda n=n: pooling(n, False) for n in (2, 3)},
}


def kinds(results: Any) -> list[Any]:
    listed = results if isinstance(results, (tuple, list)) else [results]
    return [None if t is None else (t.shape, t.dtype) for t in listed]


@pytest.mark.parametrize("name", MAKERS)
def test_sizes_are_those_of_pytorch(name: str) -> None:
    random.seed(1)
    compared = 0
    while compared < 60:
        try:
            args = MAKERS[name]()
            expected = getattr(torch.ops.aten, name).default(*args)
        except (RuntimeError, ValueError):
            continue  # a kernel larger than the image
        assert kinds(RESULTS[name](*args)) == kinds(expected), args
        compared += 1
