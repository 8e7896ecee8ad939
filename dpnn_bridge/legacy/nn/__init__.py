"""Provide the classes of PyTorch 0.4's ``torch.legacy.nn`` with its constructors. Indices and dimensions start at 0."""

# ruff: noqa: F401, F403
from __future__ import annotations

from dpnn_bridge.legacy.legacy_object import LegacyObject
from dpnn_bridge.legacy.module import Container, Criterion, Module
from dpnn_bridge.legacy.nn import utils
from dpnn_bridge.legacy.nn.activations import *
from dpnn_bridge.legacy.nn.containers import *
from dpnn_bridge.legacy.nn.convolution import *
from dpnn_bridge.legacy.nn.criterions import *
from dpnn_bridge.legacy.nn.linear import *
from dpnn_bridge.legacy.nn.normalization import *
from dpnn_bridge.legacy.nn.pooling import *
from dpnn_bridge.legacy.nn.shapes import *

#: name -> class of a module or criterion
CLASSES: dict[str, type[LegacyObject]] = {
    name: value
    for name, value in globals().items()
    if isinstance(value, type) and issubclass(value, (Module, Criterion))
}

__all__ = sorted(CLASSES)  # pyright: ignore[reportUnsupportedDunderAll]
