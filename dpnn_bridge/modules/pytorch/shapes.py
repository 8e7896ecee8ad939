"""Export linear layers for any number of dimensions, and layers for reshaping and padding."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.objects import LuaObject

#: advice for layers whose composition depends on the number of dimensions
EXAMPLE = "or determine the number of dimensions with an example input: save(path, model, input=tensor)"


@composition(nn.Linear)
def linear(module: nn.Linear, ctx: LuaContext) -> LuaObject | None:
    """Export a linear layer; nn's class accepts only vectors and matrices."""
    dims = dimensions(module, ctx)
    if dims is None or dims < 3:
        return None
    equivalent = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
    equivalent._parameters = module._parameters
    return Parts(module, ctx).bottled(ctx.to_lua(equivalent.train(module.training)))


# ---------------------------------------------------------------------- shapes
@composition(nn.Flatten)
def flatten(module: nn.Flatten, ctx: LuaContext) -> LuaObject:
    parts, dims = Parts(module, ctx), dimensions(module, ctx)
    start, end = module.start_dim, module.end_dim
    if dims is not None:
        start, end = start % dims, -1 if end % dims == dims - 1 else end
    if (start, end) == (1, -1):
        return parts("Collapse", nInputDim=1)
    if (start, end) == (0, -1):
        return parts.chain(parts("Contiguous"), parts.view(-1))
    if end == -1 and (start < 0 or dims is not None):
        merged = -start if start < 0 else (dims or 0) - start
        flat = parts.chain(parts("Contiguous"), parts.view(-1, sample=merged))
        return parts.bottled(flat, merged + 1, 2) if merged > 1 else parts.identity()
    advice = f"use Flatten() or a negative start_dim, {EXAMPLE}" if end == -1 else "use Flatten() or end_dim=-1"
    return refuse(module, f"start_dim={module.start_dim}, end_dim={module.end_dim} of Flatten", advice)


@composition(nn.Unflatten)
def unflatten(module: Any, ctx: LuaContext) -> LuaObject:
    parts, dims = Parts(module, ctx), dimensions(module, ctx)
    sizes = [int(n) for n in module.unflattened_size]
    last = module.dim == -1 or (dims is not None and module.dim % dims == dims - 1)
    if min(sizes) < 0:
        refuse(module, f"sizes {tuple(sizes)}", "replace -1 with the size")
    if last and not (dims == 2 and module.dim in (1, -1)):
        return parts.bottled(parts.view(*sizes, sample=1), 2, 1 + len(sizes))
    if module.dim == 1 and dims == 3:
        return parts.chain(parts("Collapse", nInputDim=1), parts.view(*sizes, -1, sample=1))
    if module.dim not in (1, -1) or dims not in (None, 2):
        advice = f"use Unflatten(-1, sizes){'' if dims else f', {EXAMPLE}'}"
        refuse(module, f"dim={module.dim} of Unflatten", advice)
    fields = {"size": size_storage(sizes), "batchsize": size_storage([0, *sizes]), "nelement": math.prod(sizes)}
    return parts("Reshape", **fields, batchMode=True)  # Torch7 raises an error for inputs other than matrices


@composition(nn.PixelShuffle)
def pixel_shuffle(module: nn.PixelShuffle, ctx: LuaContext) -> LuaObject | None:
    """Export a layer for images; nn's class accepts one image or a batch."""
    parts, factor = Parts(module, ctx), module.upscale_factor
    if (dimensions(module, ctx) or 4) <= 4:
        return None
    return parts.bottled(parts("PixelShuffle", upscaleFactor=factor, upscaleFactorSquared=factor**2), 4)


# ---------------------------------------------------------------------- padding
SPATIAL = {
    "zeros": "SpatialZeroPadding",
    "reflect": "SpatialReflectionPadding",
    "replicate": "SpatialReplicationPadding",
}
VOLUMETRIC = ("pleft", "pright", "ptop", "pbottom", "pfront", "pback")


def padded(parts: Parts, mode: str, pads: list[int]) -> LuaObject:
    """Pad the last dimensions of the input of a layer.

    Args:
        parts: creates the objects of the layer.
        mode: padding mode, named as in :class:`torch.nn.Conv2d`.
        pads: padding before and after each dimension, last dimension first.
    """
    if mode == "circular":
        # if the number of dimensions is unknown, the input is a batch; nn raises an error for one sample
        dims = dimensions(parts.module, parts.ctx) or 2 + len(pads) // 2
        return parts.chain(*(_circular(parts, *pair) for pair in _pairs(dims, pads)))
    if len(pads) == 2:
        return parts.lifted(padded(parts, mode, [*pads, 0, 0]))
    if len(pads) == 6 and mode == "replicate":
        return parts("VolumetricReplicationPadding", **dict(zip(VOLUMETRIC, pads, strict=True)))
    if len(pads) == 6 and mode == "zeros":
        return constant(parts, 0, pads)
    left, right, top, bottom, *depth = pads
    images = parts(SPATIAL[mode], pad_l=left, pad_r=right, pad_t=top, pad_b=bottom)
    if not depth:
        return images
    rows = parts.bottled(parts(SPATIAL[mode], pad_l=depth[0], pad_r=depth[1], pad_t=0, pad_b=0), 3)
    return parts.of_batch(5, parts.bottled(images, 3), parts.swap(3, 5), rows, parts.swap(3, 5))


def _pairs(last: int, pads: list[int]) -> list[tuple[int, int, int]]:
    """Return each padded dimension, of ``last`` dimensions, with its padding before and after; last dimension first."""
    return [(last - i // 2, pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]


def _circular(parts: Parts, dimension: int, before: int, after: int) -> LuaObject:
    """Pad one dimension with elements of the opposite end; negative padding removes elements first."""
    last = (
        parts.chain(parts("Select", dimension=dimension, index=-i), parts("Unsqueeze", pos=dimension))
        for i in range(before, 0, -1)
    )
    branches = [*last, parts.identity(), *([parts.narrow(dimension, 1, after)] if after > 0 else [])]
    padded = parts.join("JoinTable", *branches, dimension=dimension) if len(branches) > 1 else parts.identity()
    return padded if min(before, after) >= 0 else parts.chain(_cropped(parts, dimension, before, after), padded)


def _cropped(parts: Parts, dimension: int, before: int, after: int) -> LuaObject:
    """Remove the elements of one dimension that negative padding removes."""
    return parts.narrow(dimension, 1 + max(-before, 0), -1 - max(-after, 0))


def constant(parts: Parts, value: float, pads: list[int]) -> LuaObject:
    """Pad the last dimensions of the input of a layer with a constant; negative padding removes elements.

    Args:
        parts: creates the objects of the layer.
        value: the constant.
        pads: padding before and after each dimension, last dimension first.
    """
    layers, dims, inner = list[LuaObject](), dimensions(parts.module, parts.ctx), 1 + len(pads) // 2
    for dimension, before, after in _pairs(dims or inner, pads):
        for pad in (-max(before, 0), max(after, 0)):
            if pad:
                settings = {"dim": dimension, "pad": pad, "value": value, "index": 1}
                layers.append(parts("Padding", **settings))
        if min(before, after) < 0:  # after the padding, as Torch7 has no tensor without elements
            layers.append(_cropped(parts, dimension, before, after))
    if not layers:
        return parts.identity()
    if dims is not None:
        return parts.chain(*layers)
    if min(pads) < 0:  # nn.Bottle needs the elements of its module's output in order
        layers.append(parts("Contiguous"))
    return parts.bottled(parts.chain(*layers), inner)


def _mode_of(module: nn.Module) -> str:
    """Return the padding mode of a padding layer, from the name of its class."""
    modes = {"Ref": "reflect", "Rep": "replicate", "Cir": "circular"}
    return modes[type(module).__name__[:3]]


@composition(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
def constant_padding(module: Any, ctx: LuaContext) -> LuaObject | None:
    parts = Parts(module, ctx)
    if type(module) is nn.ZeroPad2d and dimensions(module, ctx) in (None, 3, 4):
        return _zeros(parts, *module.padding)
    return constant(parts, module.value, list(module.padding))


def _zeros(parts: Parts, left: int, right: int, top: int, bottom: int) -> LuaObject | None:
    """Pad before removing elements if one dimension needs both; one layer of Torch7 would remove elements first.

    Torch7 has no tensor without elements, which remains if all elements are removed.
    """
    if left * right >= 0 and top * bottom >= 0:
        return None
    fields = ("pad_l", "pad_r", "pad_t", "pad_b")
    steps = ([select(pad, 0) for pad in (left, right, top, bottom)] for select in (max, min))
    return parts.chain(*(parts("SpatialZeroPadding", **dict(zip(fields, pads, strict=True))) for pads in steps))


@composition(
    nn.ReflectionPad1d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d
)
def padding(module: Any, ctx: LuaContext) -> LuaObject:
    return padded(Parts(module, ctx), _mode_of(module), list(module.padding))
