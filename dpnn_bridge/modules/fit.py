"""Check, without running a model, whether the dtypes and channels of its layers match."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.base.graph import format_path
from dpnn_bridge.modules.nn.container import Concat
from dpnn_bridge.modules.nn.crelu import CReLU
from dpnn_bridge.modules.nn.padding import Padding
from dpnn_bridge.modules.nnx.resampling import SpatialPadding

#: name suffixes of layers whose output has as many channels as their input
_SUFFIXES = """
    Pool1d Pool2d Pool3d Padding Pad2d Pad3d LU Tanh Sigmoid Threshold Dropout Dropout2d Identity NoiseOverInput
    Upsample UpsamplingNearest2d UpsamplingBilinear2d InstanceNorm2d
"""
SAME_CHANNELS = tuple(_SUFFIXES.split())
#: layers with such a suffix that can change the number of channels
OTHER_CHANNELS = (nn.GLU, CReLU, Padding, SpatialPadding)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


def shape_warnings(model: nn.Module) -> list[str]:
    """Return warnings about parameters of several dtypes and batch normalizations with a wrong number of channels."""
    return _dtype_warnings(model) + channel_warnings(model)


def _dtype_warnings(module: nn.Module) -> list[str]:
    """Return a warning with the first parameter of each dtype, if there are several dtypes."""
    first = {p.dtype: name for name, p in reversed([*module.named_parameters()]) if p.is_floating_point()}
    if len(first) < 2:
        return []
    listed = ", ".join(sorted(f"{dtype} ({name})" for dtype, name in first.items()))
    return [
        f"the parameters have several dtypes, {listed}: an operation on two of them raises an error, as in Torch7; "
        "dtype= (--dtype) converts all of them"
    ]


def channel_warnings(model: nn.Module) -> list[str]:
    """Return a warning about the batch normalizations whose input has another number of channels than they expect.

    Some published models contain these: Torch7's CUDA kernels of 2016 did not check the number, and read past the end
    of the tensors.
    """
    found = _mismatches(model)
    if not found:
        return []
    path, layer, channels = found[0]
    more = f" (and {len(found) - 1} more: {', '.join(p for p, *_ in found[1:4])}{', …' * (len(found) > 4)})"
    return [
        f"{path or 'the model'} is a batch normalization of {layer.num_features} channels, but its input has "
        f"{channels}{more if len(found) > 1 else ''}: the model raises an error, like Torch7 on the CPU; Torch7's CUDA "
        "kernels of 2016 did not check this and read past the end of the tensors"
    ]


def _mismatches(model: nn.Module) -> list[tuple[str, Any, int]]:
    """Return path, layer and number of input channels of every batch normalization that expects another number.

    The number of channels is tracked through Sequential and Concat; None means unknown.
    """
    found: list[tuple[str, Any, int]] = []

    def visit(module: Any, channels: int | None, path: tuple[Any, ...]) -> int | None:
        if type(module) is nn.Sequential:
            for i, child in enumerate(module, 1):
                channels = visit(child, channels, (*path, "modules", i))
            return channels
        if isinstance(module, Concat):
            branches = [visit(child, channels, (*path, "modules", i)) for i, child in enumerate(module, 1)]
            return None if module.dimension != 2 or None in branches else sum(branches)  # type: ignore[arg-type]
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if channels not in (None, module.num_features):
                found.append((format_path(list(path)), module, channels))  # type: ignore[arg-type]
            return channels
        if isinstance(module, _CONVOLUTIONS):
            return module.out_channels
        same = type(module).__name__.endswith(SAME_CHANNELS) and not isinstance(module, OTHER_CHANNELS)
        return channels if same else None

    visit(model, None, ())
    return found
