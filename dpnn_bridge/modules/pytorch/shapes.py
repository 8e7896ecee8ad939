"""Reshaping and padding."""

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

#: advice for layers whose mapping depends on the number of dimensions
EXAMPLE = "save(path, model, input=tensor) shows how many dimensions the input has"


@composition(nn.Linear)
def linear(module: nn.Linear, ctx: LuaContext) -> LuaObject | None:
    """Export a linear layer; nn's class accepts only vectors and matrices."""
    dims = dimensions(module, ctx)
    if dims is None or dims < 3:
        return None
    twin = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
    twin._parameters = module._parameters
    return Parts(module, ctx).bottled(ctx.to_lua(twin.train(module.training)))


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
        flat = parts.chain(parts("Contiguous"), parts.view(-1, sample=merged))  # or of the whole input
        return parts.bottled(flat, merged + 1, 2) if merged > 1 else parts.identity()
    known = f"from a negative start_dim to the end; {EXAMPLE}" if end == -1 else "to the end, end_dim=-1"
    return refuse(module, f"start_dim={module.start_dim}, end_dim={module.end_dim} here", f"Flatten(), or one {known}")


@composition(nn.Unflatten)
def unflatten(module: Any, ctx: LuaContext) -> LuaObject:
    parts, dims = Parts(module, ctx), dimensions(module, ctx)
    sizes = [int(n) for n in module.unflattened_size]
    last = module.dim == -1 or (dims is not None and module.dim % dims == dims - 1)
    if min(sizes) < 0:
        refuse(module, f"sizes {tuple(sizes)}", "give all of them as numbers")
    if last and not (dims == 2 and module.dim in (1, -1)):
        return parts.bottled(parts.view(*sizes, sample=1), 2, 1 + len(sizes))
    if module.dim == 1 and dims == 3:
        return parts.chain(parts("Collapse", nInputDim=1), parts.view(*sizes, -1, sample=1))
    if module.dim not in (1, -1) or dims not in (None, 2):
        refuse(module, f"dim={module.dim} here", f"Unflatten(-1, sizes) can be written; {EXAMPLE}")
    fields = {"size": size_storage(sizes), "batchsize": size_storage([0, *sizes]), "nelement": math.prod(sizes)}
    return parts("Reshape", **fields, batchMode=True)  # Torch7 refuses inputs other than matrices


# ---------------------------------------------------------------------- padding
PLANAR = {
    "zeros": "SpatialZeroPadding",
    "reflect": "SpatialReflectionPadding",
    "replicate": "SpatialReplicationPadding",
}
FRONT = ("pleft", "pright", "ptop", "pbottom", "pfront", "pback")


def padded(parts: Parts, mode: str, sides: list[int]) -> LuaObject:
    """Pad the last dimensions of the input of a layer.

    Args:
        parts: of the layer.
        mode: as :class:`torch.nn.Conv2d` names it.
        sides: before and after, the last dimension first.
    """
    if mode == "circular":
        return parts.chain(*(_ring(parts, *pair) for pair in _pairs(parts, sides)))
    if len(sides) == 2:
        return parts.lifted(padded(parts, mode, [*sides, 0, 0]))
    if len(sides) == 6 and mode == "replicate":
        return parts("VolumetricReplicationPadding", **dict(zip(FRONT, sides, strict=True)))
    if len(sides) == 6 and mode == "zeros":
        return constant(parts, 0, sides)
    left, right, top, bottom, *depth = sides
    planes = parts(PLANAR[mode], pad_l=left, pad_r=right, pad_t=top, pad_b=bottom)
    if not depth:
        return planes
    rows = parts.bottled(parts(PLANAR[mode], pad_l=depth[0], pad_r=depth[1], pad_t=0, pad_b=0), 3)
    return parts.chain(parts.bottled(planes, 3), parts.swap(3, 5), rows, parts.swap(3, 5))


def _pairs(parts: Parts, sides: list[int]) -> list[tuple[int, int, int]]:
    """Return each padded dimension, counted from 1, with its padding; an input of unknown dimensions is a batch."""
    last = dimensions(parts.module, parts.ctx) or 2 + len(sides) // 2
    return [(last - i // 2, sides[i], sides[i + 1]) for i in range(0, len(sides), 2)]  # the last dimension comes first


def _ring(parts: Parts, dimension: int, before: int, after: int) -> LuaObject:
    """Put the end of a dimension before its beginning, and the beginning after the end."""
    last = (
        parts.chain(parts("Select", dimension=dimension, index=-i), parts("Unsqueeze", pos=dimension))
        for i in range(before, 0, -1)
    )
    sides = [*last, parts.identity(), *([parts.narrow(dimension, 1, after)] if after else [])]
    return parts.join("JoinTable", *sides, dimension=dimension) if len(sides) > 1 else parts.identity()


def constant(parts: Parts, value: float, sides: list[int]) -> LuaObject:
    """Pad the last dimensions of the input of a layer with a number; negative sides are cut off."""
    layers = []
    for dimension, before, after in _pairs(parts, sides):
        if min(before, after) < 0:
            layers.append(parts.narrow(dimension, 1 + max(-before, 0), -1 - max(-after, 0)))
        for pad in (-max(before, 0), max(after, 0)):
            if pad:
                settings = {"dim": dimension, "pad": pad, "value": value, "index": 1}
                layers.append(parts("Padding", **settings, outputSize=size_storage()))
    return parts.chain(*layers) if layers else parts.identity()


def _mode_of(module: nn.Module) -> str:
    name = type(module).__name__
    return next(
        m
        for m, p in (("reflect", "Ref"), ("replicate", "Rep"), ("circular", "Cir"), ("zeros", "Z"))
        if name.startswith(p)
    )


@composition(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
def constant_padding(module: Any, ctx: LuaContext) -> LuaObject | None:
    if type(module) is nn.ZeroPad2d:
        return None
    return constant(Parts(module, ctx), module.value, list(module.padding))


@composition(
    nn.ReflectionPad1d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d
)
def padding(module: Any, ctx: LuaContext) -> LuaObject:
    return padded(Parts(module, ctx), _mode_of(module), list(module.padding))
