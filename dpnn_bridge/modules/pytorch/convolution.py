"""Export convolutions with options that nn lacks: one dimension, groups, other padding modes."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.pytorch.shapes import padded
from dpnn_bridge.objects import LuaObject, LuaTensor

#: suffixes of Lua's field names for the last dimensions
LETTERS = "THW"


@composition(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(module: Any, ctx: LuaContext) -> LuaObject | None:
    """Compose a convolution for which nn has no class; return None if nn has one."""
    supported = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if supported and len(module.kernel_size) > 1:
        return None
    pads = _padding(module)
    padding = [before for before, _ in pads]
    layers = []
    if module.padding_mode != "zeros" or any(before != after for before, after in pads):
        flat = [p for pair in reversed(pads) for p in pair]
        layers, padding = [padded(Parts(module, ctx), module.padding_mode, flat)], [0] * len(pads)
    settings = _settings({"k": module.kernel_size, "d": module.stride, "pad": padding})
    dilated = any(d != 1 for d in module.dilation)
    if dilated:
        settings |= _settings({"dilation": module.dilation})
    name = "Volumetric" if len(module.kernel_size) == 3 else "Spatial"
    return _composed(module, ctx, f"{name}{'Dilated' if dilated else ''}Convolution", settings, layers)


@composition(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def transposed(module: Any, ctx: LuaContext) -> LuaObject | None:
    """Compose a transposed convolution for which nn has no class; return None if nn has one."""
    if any(d != 1 for d in module.dilation):
        refuse(
            module,
            f"dilation={tuple(module.dilation)} in transposed convolutions",
            "use a larger kernel with zeros between the weights",
        )
    if module.groups == 1 and len(module.kernel_size) > 1:
        return None
    numbers = {"k": module.kernel_size, "d": module.stride, "pad": module.padding, "adj": module.output_padding}
    name = "Volumetric" if len(module.kernel_size) == 3 else "Spatial"
    return _composed(module, ctx, f"{name}FullConvolution", _settings(numbers), [])


def _composed(module: Any, ctx: LuaContext, name: str, settings: dict[str, Any], before: list[LuaObject]) -> LuaObject:
    """Compose a convolution.

    Args:
        module: the layer of PyTorch.
        ctx: context of the export.
        name: name of nn's class.
        settings: fields with the kernel size, stride and padding.
        before: layers before the convolution.

    Returns:
        ``before``, then the convolutions of all groups in parallel. A 1-D input becomes images with one row.
    """
    parts, groups = Parts(module, ctx), module.groups
    inputs, outputs = module.in_channels // groups, module.out_channels // groups
    kernel = (1,) * (2 - len(module.kernel_size)) + tuple(module.kernel_size)
    sizes = (inputs, outputs) if "Full" in name else (outputs, inputs)
    channels = 1 if dimensions(module, ctx) == len(module.kernel_size) + 1 else 2  # of one sample, or of a batch

    def group(i: int) -> LuaObject:
        weight = parts.tensors("weight", (*sizes, *kernel), i * math.prod([*sizes, *kernel]))
        bias = parts.tensors("bias", (outputs,), i * outputs)
        empty = {buffer: LuaTensor.empty(parts.tensor_class) for buffer in ("finput", "fgradInput")}
        return parts(name, nInputPlane=inputs, nOutputPlane=outputs, **settings, **empty, **weight, **bias)

    if groups == 1:
        layers = [group(0)]
    else:
        branches = (
            parts("Sequential", parts("Narrow", dimension=channels, index=i * inputs + 1, length=inputs), group(i))
            for i in range(groups)
        )
        layers = [parts("Concat", *branches, dimension=channels)]
    if len(module.kernel_size) > 1:
        return parts.chain(*before, *layers)
    return parts.chain(*before, parts.lifted(*layers))


def _settings(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return Lua's fields for each prefix and dimension; for a 1-D layer, those of images with one row."""
    fields: dict[str, Any] = {}
    for prefix, values in numbers.items():
        values = list(values)
        if len(values) == 1:
            values = [0 if prefix in ("pad", "adj") else 1, *values]
        fields |= {f"{prefix}{letter}": value for letter, value in zip(LETTERS[-len(values) :], values, strict=True)}
    return fields


def _padding(module: Any) -> list[tuple[int, int]]:
    """Return the padding before and after each dimension."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in module.padding]
