"""Implement the functions and methods of the ``torch`` package, one file per area. Importing registers them all."""

from dpnn_bridge.lua.ops import (
    blas,
    comparison,
    construct,
    convolution,
    copying,
    elementwise,
    gather,
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
    "gather",
    "indexing",
    "linalg",
    "operators",
    "order",
    "reduce",
    "sampling",
    "shape",
    "storage",
]
