"""Export normalization layers that nn lacks: over dimensions or groups of a sample, or over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.nn.reshape import product
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.pytorch.shapes import EXAMPLE
from dpnn_bridge.objects import LuaObject, element_dtype


# ---------------------------------------------------------------------- over the last dimensions
def _divided_by_root_mean_square(parts: Parts, size: int, eps: float) -> LuaObject:
    root = parts.chain(
        parts("Square"), parts.mean(2), parts.plus(eps), parts("Sqrt", eps=0), parts("Replicate", nfeatures=size, dim=2)
    )
    return parts.join("CDivTable", parts.identity(), root)


def _on_last_dimensions(parts: Parts, shape: tuple[int, ...], layers: list[LuaObject]) -> LuaObject:
    """Apply layers for matrices to the last dimensions, of sizes ``shape``, of any tensor."""
    if len(shape) == 1 and dimensions(parts.module, parts.ctx) != 1:
        return parts.bottled(parts.chain(*layers))
    return parts.shaped_as_input(parts.view(-1, product(shape)), *layers)


@composition(nn.LayerNorm)
def layer_norm(module: nn.LayerNorm, ctx: LuaContext) -> LuaObject:
    parts, size = Parts(module, ctx), product(module.normalized_shape)
    mean = parts.chain(parts.mean(2), parts("Replicate", nfeatures=size, dim=2))
    centered = parts.join("CSubTable", parts.identity(), mean)
    layers = [centered, _divided_by_root_mean_square(parts, size, module.eps), *parts.affine(size)]
    return _on_last_dimensions(parts, module.normalized_shape, layers)


@composition(*(t for t in [getattr(nn, "RMSNorm", None)] if t))
def rms_norm(module: Any, ctx: LuaContext) -> LuaObject:
    parts, size = Parts(module, ctx), product(module.normalized_shape)
    eps = module.eps if module.eps is not None else float(np.finfo(element_dtype(parts.tensor_class)).eps)
    layers = [_divided_by_root_mean_square(parts, size, eps), *parts.affine(size)]
    return _on_last_dimensions(parts, module.normalized_shape, layers)


# ---------------------------------------------------------------------- over groups of channels
def _normalized(parts: Parts, eps: float) -> list[LuaObject]:
    """Return layers that normalize over the last dimension of :math:`(N, G, W)`."""
    root = parts.spread(parts("Square"), parts.mean(3), parts.plus(eps), parts("Sqrt", eps=0))
    return [
        parts.join("CSubTable", parts.identity(), parts.spread(parts.mean(3))),
        parts.join("CDivTable", parts.identity(), root),
    ]


def _groups(parts: Parts, groups: int, channels: int) -> list[LuaObject]:
    """Return layers that normalize groups of channels of a batch; the output has one spatial dimension."""
    module: Any = parts.module
    layers = [parts("Collapse", nInputDim=1), parts.view(groups, -1, sample=1), *_normalized(parts, module.eps)]
    factors = parts.affine(1, channels, 1)
    return [*layers, parts.view(channels, -1, sample=2), *factors] if factors else layers


@composition(nn.GroupNorm)
def group_norm(module: nn.GroupNorm, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return parts.shaped_as_input(*_groups(parts, module.num_groups, module.num_channels))


@composition(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def instance_norm(module: Any, ctx: LuaContext) -> LuaObject:
    if module.track_running_stats:
        refuse(module, "track_running_stats=True", "track_running_stats=False and BatchNorm2d can be exported")
    parts, spatial_dims = Parts(module, ctx), int(type(module).__name__[-2])
    # without affine=True, PyTorch ignores num_features, so the number of channels comes from the input
    channels = [parts.view(-1, sample=spatial_dims), parts("Unsqueeze", pos=2)]
    layers = [parts.shaped_as_input(*channels, *_normalized(parts, module.eps))]
    if factors := parts.affine(module.num_features):
        swap = (parts.swap(-1 - spatial_dims, -1, from_end=True) for _ in range(2))
        layers += [next(swap), parts.bottled(parts.chain(*factors)), next(swap)]
    return parts.chain(*layers)


# ---------------------------------------------------------------------- over the batch
@composition(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm(module: Any, ctx: LuaContext) -> LuaObject | None:
    parts = Parts(module, ctx)
    if module.running_mean is None:
        layers = [parts.rows(), parts("Unsqueeze", pos=1), *_normalized(parts, module.eps)]
        layers += parts.affine(1, module.num_features, 1)
        return parts.chain(parts.swap(1, 2), parts.shaped_as_input(*layers), parts.swap(1, 2))
    if module.momentum is None:
        refuse(module, "a cumulative average (momentum=None)", "set momentum to a number")
    if isinstance(module, nn.BatchNorm1d) and dimensions(module, ctx) == 3:
        return parts.lifted(ctx.to_lua(_of_class(nn.BatchNorm2d, module)))
    return None


@composition(nn.SyncBatchNorm)
def synchronized(module: nn.SyncBatchNorm, ctx: LuaContext) -> LuaObject:
    """Export a synchronized batch normalization as an ordinary one."""
    types = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    dims = dimensions(module, ctx)
    if dims not in types:
        refuse(
            module,
            "inputs with an unknown number of dimensions",
            f"BatchNorm1d, BatchNorm2d and BatchNorm3d can be exported; {EXAMPLE}",
        )
    equivalent = _of_class(types[dims], module)
    ctx.dimensions[id(equivalent)] = dims
    return ctx.to_lua(equivalent)


def _of_class(cls: Any, module: Any) -> nn.Module:
    """Return a batch normalization of another class with the parameters and statistics of ``module``."""
    equivalent = cls(module.num_features, module.eps, module.momentum, device="meta")
    equivalent.affine, equivalent.track_running_stats = module.affine, module.track_running_stats
    equivalent._parameters, equivalent._buffers = module._parameters, module._buffers
    return equivalent.train(module.training)


@composition(nn.LocalResponseNorm)
def local_response_norm(module: nn.LocalResponseNorm, ctx: LuaContext) -> LuaObject | None:
    if module.size % 2 == 0 or module.size < 3:
        refuse(module, f"size={module.size}", "use an odd size of at least 3")
    if dimensions(module, ctx) == 4:
        return None
    # nn processes three dimensions as one image, so all dimensions except the channels are merged to its height
    parts = Parts(module, ctx)
    settings = {"size": module.size, "alpha": module.alpha, "beta": module.beta, "k": module.k}
    image = parts.chain(parts.rows(), parts("Unsqueeze", pos=3), parts("SpatialCrossMapLRN", **settings))
    return parts.chain(parts.swap(1, 2), parts.shaped_as_input(image), parts.swap(1, 2))
