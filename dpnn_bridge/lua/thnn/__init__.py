"""Implement the kernels behind nn's Lua files with PyTorch. Importing registers them all."""

from dpnn_bridge.lua.thnn import activation, convolution, criterion, normalization, pooling, resampling, sparse
from dpnn_bridge.lua.thnn.registry import KERNELS

__all__ = [
    "KERNELS",
    "activation",
    "convolution",
    "criterion",
    "normalization",
    "pooling",
    "resampling",
    "sparse",
]
