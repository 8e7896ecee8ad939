"""Check, without running a model, whether its layers fit together."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.base.graph import format_path
from dpnn_bridge.modules.nn.container import Concat
from dpnn_bridge.modules.nn.crelu import CReLU
from dpnn_bridge.modules.nn.padding import Padding
from dpnn_bridge.modules.nnx.resampling import SpatialPadding

#: layers with as many channels in their output as in their input, by the end of their names
_NAMES = """
    Pool1d Pool2d Pool3d Padding Pad2d Pad3d LU Tanh Sigmoid Threshold Dropout Dropout2d Identity NoiseOverInput
    Upsample UpsamplingNearest2d UpsamplingBilinear2d InstanceNorm2d
"""
KEEPING = tuple(_NAMES.split())
#: layers with such a name whose output may have other channels
CHANGING = (nn.GLU, CReLU, Padding, SpatialPadding)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


def shape_warnings(model: nn.Module) -> list[str]:
    """Return notes on what does not fit: parameters of several types, batch normalizations of other planes."""
    return _type_notes(model) + plane_notes(model)


def _type_notes(module: nn.Module) -> list[str]:
    """Return a note on parameters of several types, with the first of each."""
    first = {p.dtype: name for name, p in reversed([*module.named_parameters()]) if p.is_floating_point()}
    if len(first) < 2:
        return []
    listed = ", ".join(sorted(f"{dtype} ({name})" for dtype, name in first.items()))
    return [
        f"the parameters have several types, {listed}: where they meet it raises, as in Torch7; dtype= (--dtype) makes "
        "them one"
    ]


def plane_notes(model: nn.Module) -> list[str]:
    """Return a note on the batch normalizations that are made for other planes than reach them; empty without any.

    Published files have such: the CUDA kernels of 2016 did not check, and read beyond the end of the tensors.
    """
    found = _mismatches(model)
    if not found:
        return []
    path, layer, planes = found[0]
    more = f" (and {len(found) - 1} more: {', '.join(p for p, *_ in found[1:4])}{', …' * (len(found) > 4)})"
    return [
        f"{path or 'the model'} is a batch normalization of {layer.num_features} planes, and {planes} reach it"
        f"{more if len(found) > 1 else ''}: only Torch7's CUDA kernels of 2016 ran that, reading past their tensors; "
        "Torch7 on a CPU and this model raise"
    ]


def _mismatches(model: nn.Module) -> list[tuple[str, Any, int]]:
    """Return the path, layer, and the planes that reach it, of every batch normalization that is made for others.

    Planes are followed through containers in which images go one way; None means unknown.
    """
    found: list[tuple[str, Any, int]] = []

    def walk(module: Any, planes: int | None, path: tuple[Any, ...]) -> int | None:
        if type(module) is nn.Sequential:
            for i, child in enumerate(module, 1):
                planes = walk(child, planes, (*path, "modules", i))
            return planes
        if isinstance(module, Concat):
            sides = [walk(child, planes, (*path, "modules", i)) for i, child in enumerate(module, 1)]
            return None if module.dimension != 2 or None in sides else sum(sides)  # type: ignore[arg-type]
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if planes not in (None, module.num_features):
                found.append((format_path(list(path)), module, planes))  # type: ignore[arg-type]
            return planes
        if isinstance(module, _CONVOLUTIONS):
            return module.out_channels
        keeps = type(module).__name__.endswith(KEEPING) and not isinstance(module, CHANGING)
        return planes if keeps else None

    walk(model, None, ())
    return found
