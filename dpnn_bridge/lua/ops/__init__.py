"""What the functions and methods of the ``torch`` package compute, one file per area; importing registers them all."""

from dpnn_bridge.lua.ops import (
    blas,
    comparison,
    construct,
    convolution,
    copying,
    elementwise,
    indexing,
    linalg,
    operators,
    order,
    reduce,
    sampling,
    shape,
    storage,
)

__all__ = [
    "blas",
    "comparison",
    "construct",
    "convolution",
    "copying",
    "elementwise",
    "indexing",
    "linalg",
    "operators",
    "order",
    "reduce",
    "sampling",
    "shape",
    "storage",
]
