"""Reshaping, padding, pooling, normalization and the rest, as compositions of nn's classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.lua_context import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.nn.linear import Bilinear
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM
from dpnn_bridge.objects import LuaObject, LuaTensor


# ---------------------------------------------------------------------- shapes
@composition(nn.Flatten)
def flatten(module: nn.Flatten, ctx: LuaContext) -> LuaObject:
    parts, ends = Parts(module, ctx), (module.start_dim, module.end_dim)
    if ends == (1, -1):
        return parts("Collapse", nInputDim=1)
    if ends == (0, -1):
        return parts.chain(parts("Contiguous"), parts("View", size=size_storage([-1]), numElements=1))
    return refuse(module, f"start_dim={ends[0]}, end_dim={ends[1]}", "Flatten() and Flatten(0) can be written")


@composition(nn.Unflatten)
def unflatten(module: Any, ctx: LuaContext) -> LuaObject:
    sizes = [int(n) for n in module.unflattened_size]
    if module.dim != 1 or min(sizes) < 0:
        refuse(module, f"dim={module.dim}, sizes {tuple(sizes)}", "Unflatten(1, sizes) of matrices can be written")
    fields = {"size": size_storage(sizes), "batchsize": size_storage([0, *sizes]), "nelement": math.prod(sizes)}
    return Parts(module, ctx)("Reshape", **fields, batchMode=True)  # refuses inputs that are no matrices


# ---------------------------------------------------------------------- padding
@composition(nn.ZeroPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d)
def padding_1d(module: Any, ctx: LuaContext) -> LuaObject:
    names = {nn.ReflectionPad1d: "SpatialReflectionPadding", nn.ReplicationPad1d: "SpatialReplicationPadding"}
    parts, (left, right) = Parts(module, ctx), module.padding
    name = names.get(type(module), "SpatialZeroPadding")
    return parts.lifted(parts(name, pad_l=left, pad_r=right, pad_t=0, pad_b=0))


@composition(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
def constant_padding(module: Any, ctx: LuaContext) -> LuaObject:
    parts, sides = Parts(module, ctx), list(module.padding)
    if min(sides) < 0:
        refuse(module, "a negative padding", "cut the input before it")
    layers = []
    for i in range(0, len(sides), 2):  # the last dimension comes first
        dim = 2 + len(sides) // 2 - i // 2
        for pad in (-sides[i], sides[i + 1]):
            if pad:
                settings = {"dim": dim, "pad": pad, "value": module.value, "index": 1}
                layers.append(parts("Padding", **settings, outputSize=size_storage()))
    return parts.chain(*layers) if layers else parts.identity()


# ---------------------------------------------------------------------- pooling
def _row(value: Any) -> int:
    return value[0] if isinstance(value, (tuple, list)) else value


@composition(nn.MaxPool1d)
def max_pool_1d(module: Any, ctx: LuaContext) -> LuaObject:
    if module.return_indices:
        refuse(module, "return_indices=True", "a MaxPool1d that returns values alone can be written")
    kernel, dilation = _row(module.kernel_size), _row(module.dilation)
    window = {"kW": kernel, "dW": _row(module.stride), "padW": _row(module.padding), "dilationW": dilation}
    rows = {"kH": 1, "dH": 1, "padH": 0, "dilationH": 1}
    parts = Parts(module, ctx)
    indices = LuaTensor.empty("torch.LongTensor")
    pool = parts("SpatialDilatedMaxPooling", **window, **rows, ceil_mode=module.ceil_mode, indices=indices)
    return parts.lifted(pool)


def _average(parts: Parts, kernel: list[int], stride: list[int], padding: list[int], **options: bool) -> LuaObject:
    numbers = {"k": kernel, "d": stride, "pad": padding}
    fields = {f"{name}{letter}": v for name, vs in numbers.items() for letter, v in zip("HW", vs, strict=True)}
    return parts("SpatialAveragePooling", **fields, **{"divide": True, **options})


@composition(nn.AvgPool1d)
def average_pool_1d(module: Any, ctx: LuaContext) -> LuaObject:
    parts, options = Parts(module, ctx), {n: getattr(module, n) for n in ("ceil_mode", "count_include_pad")}
    kernel, stride, padding = (
        [low, _row(value)] for low, value in ((1, module.kernel_size), (1, module.stride), (0, module.padding))
    )
    return parts.lifted(_average(parts, kernel, stride, padding, **options))


@composition(nn.AvgPool2d)
def average_pool_2d(module: Any, ctx: LuaContext) -> LuaObject | None:
    """With a divisor of its own: the sum of each window, divided."""
    if module.divisor_override is None:
        return None
    parts = Parts(module, ctx)
    pairs = [list(v) if isinstance(v, tuple) else [v, v] for v in (module.kernel_size, module.stride, module.padding)]
    options = {"ceil_mode": module.ceil_mode, "count_include_pad": True, "divide": False}
    return parts.chain(_average(parts, *pairs, **options), parts.times(1 / module.divisor_override))


@composition(nn.AvgPool3d)
def average_pool_3d(module: Any, ctx: LuaContext) -> LuaObject | None:
    padded = any(p for p in (module.padding if isinstance(module.padding, tuple) else (module.padding,)))
    if padded or module.ceil_mode or module.divisor_override is not None:
        refuse(
            module,
            "padding, ceil_mode or divisor_override in three dimensions",
            "AvgPool3d(kernel, stride) can be written",
        )
    return None


@composition(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
def adaptive_pool_2d(module: Any, ctx: LuaContext) -> LuaObject:
    size = module.output_size if isinstance(module.output_size, (tuple, list)) else (module.output_size,) * 2
    if None in size:
        refuse(module, "a side that is that of the input (None)", "give both sides as numbers")
    parts, maximum = Parts(module, ctx), isinstance(module, nn.AdaptiveMaxPool2d)
    if maximum and module.return_indices:
        refuse(module, "return_indices=True", "a layer that returns values alone can be written")
    return parts(
        f"SpatialAdaptive{'Max' if maximum else 'Average'}Pooling",
        H=size[0],
        W=size[1],
        **({"indices": LuaTensor.empty("torch.LongTensor")} if maximum else {}),
    )


@composition(nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)
def adaptive_pool_1d(module: Any, ctx: LuaContext) -> LuaObject:
    parts, size = Parts(module, ctx), _row(module.output_size)
    maximum = isinstance(module, nn.AdaptiveMaxPool1d)
    buffers = {"indices": LuaTensor.empty("torch.LongTensor")} if maximum else {}
    return parts.lifted(parts(f"SpatialAdaptive{'Max' if maximum else 'Average'}Pooling", H=1, W=size, **buffers))


@composition(nn.AdaptiveAvgPool3d)
def adaptive_average_pool_3d(module: Any, ctx: LuaContext) -> LuaObject:
    if module.output_size not in (1, (1, 1, 1), [1, 1, 1]):
        refuse(module, f"output_size={module.output_size}", "AdaptiveAvgPool3d(1) can be written")
    parts = Parts(module, ctx)
    means = [parts("Mean", dimension=3, sizeAverage=True, squeeze=True) for _ in range(3)]
    return parts.chain(*means, *(parts("Unsqueeze", pos=3) for _ in range(3)))


# ---------------------------------------------------------------------- resampling
@composition(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def upsample(module: Any, ctx: LuaContext) -> LuaObject:
    """Images by a whole factor (nearest), or to a given size (bilinear, with aligned corners)."""
    parts, size, factors = Parts(module, ctx), module.size, module.scale_factor
    factor = factors[0] if isinstance(factors, tuple) and len(set(factors)) == 1 else factors
    if module.mode == "nearest" and size is None and isinstance(factor, float) and factor == int(factor):
        return parts(
            "SpatialUpSamplingNearest",
            scale_factor=int(factor),
            inputSize=size_storage([0] * 4),
            outputSize=size_storage([0] * 4),
        )
    if module.mode == "bilinear" and module.align_corners and size is not None:
        height, width = size if isinstance(size, tuple) else (size, size)
        return parts(
            "SpatialUpSamplingBilinear",
            oheight=height,
            owidth=width,
            inputSize=size_storage([0] * 4),
            outputSize=size_storage([0] * 4),
        )
    option = f"mode={module.mode!r}, size={size}, scale_factor={factors}, align_corners={module.align_corners}"
    instead = (
        "mode='nearest' with a whole scale_factor, or mode='bilinear' with size and align_corners=True, can be written"
    )
    return refuse(module, option, instead)


# ---------------------------------------------------------------------- normalization
def _mean(parts: Parts, size: int) -> list[LuaObject]:
    """The mean of each row of a matrix, in every column."""
    return [parts("Mean", dimension=2, sizeAverage=True, squeeze=True), parts("Replicate", nfeatures=size, dim=2)]


def _divided_by_root_mean_square(parts: Parts, size: int, eps: float) -> LuaObject:
    root = parts.chain(
        parts("Square"),
        parts("Mean", dimension=2, sizeAverage=True, squeeze=True),
        parts.plus(eps),
        parts("Sqrt", eps=0),
        parts("Replicate", nfeatures=size, dim=2),
    )
    return parts.join("CDivTable", parts.identity(), root)


@composition(nn.LayerNorm)
def layer_norm(module: nn.LayerNorm, ctx: LuaContext) -> LuaObject:
    size = _last_size(module)
    parts = Parts(module, ctx)
    centered = parts.join("CSubTable", parts.identity(), parts.chain(*_mean(parts, size)))
    layers = [centered, _divided_by_root_mean_square(parts, size, module.eps), *parts.affine(size)]
    return parts.bottled(parts("Sequential", *layers))


@composition(*(t for t in [getattr(nn, "RMSNorm", None)] if t))
def rms_norm(module: Any, ctx: LuaContext) -> LuaObject:
    size = _last_size(module)
    parts = Parts(module, ctx)
    eps = module.eps if module.eps is not None else torch.finfo(module.weight.dtype).eps
    return parts.bottled(parts("Sequential", _divided_by_root_mean_square(parts, size, eps), *parts.affine(size)))


def _last_size(module: Any) -> int:
    if len(module.normalized_shape) != 1:
        refuse(
            module, f"normalized_shape={tuple(module.normalized_shape)}", "one over the last dimension can be written"
        )
    return module.normalized_shape[0]


@composition(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm(module: Any, ctx: LuaContext) -> LuaObject | None:
    if module.running_mean is None:
        refuse(module, "track_running_stats=False", "one with running statistics can be written")
    if module.momentum is None:
        refuse(module, "a cumulative average (momentum=None)", "give momentum a number")
    return None


@composition(nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm3d)
def group_norm(module: Any, ctx: LuaContext) -> LuaObject:
    return refuse(
        module,
        "statistics of groups of planes",
        "BatchNorm2d, LayerNorm over the last dimension and "
        "InstanceNorm2d (nn.InstanceNormalization of texture_nets) can be written",
    )


@composition(nn.LocalResponseNorm)
def local_response_norm(module: nn.LocalResponseNorm, ctx: LuaContext) -> LuaObject | None:
    if module.size % 2 == 0:
        refuse(module, f"size={module.size}, which is even", "take an odd size")
    return None


# ---------------------------------------------------------------------- the rest
@composition(nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
def plane_dropout(module: Any, ctx: LuaContext) -> LuaObject:
    """nn drops whole planes without scaling the others up, and scales down in evaluation."""
    if isinstance(module, nn.Dropout1d) or module.p == 1:
        refuse(module, f"{type(module).__name__}(p={module.p})", "Dropout and Dropout2d with p < 1 can be written")
    parts = Parts(module, ctx)
    name = "SpatialDropout" if isinstance(module, nn.Dropout2d) else "VolumetricDropout"
    noise = LuaTensor.empty(parts.kind)
    return parts.chain(
        parts(name, p=module.p, stochastic_inference=False, noise=noise), parts.times(1 / (1 - module.p))
    )


@composition(nn.Bilinear)
def bilinear(module: nn.Bilinear, ctx: LuaContext) -> LuaObject:
    twin = Bilinear(module.in1_features, module.in2_features, module.out_features, bias=module.bias is not None)
    twin.weight, twin.bias = module.weight, module.bias
    return ctx.to_lua(twin.train(module.training))


@composition(nn.LSTM)
def lstm(module: nn.LSTM, ctx: LuaContext) -> LuaObject:
    """One layer, one direction: nn.SeqLSTM of the package rnn, whose single bias is the sum of the two."""
    if module.num_layers > 1 or module.bidirectional or not module.bias or getattr(module, "proj_size", 0):
        refuse(
            module,
            "more layers, two directions, no bias or projections in one LSTM",
            "one LSTM with one layer for each, in one direction, can be written",
        )
    twin = SeqLSTM(module.input_size, module.hidden_size, batch_first=module.batch_first)

    def arranged(*names: str) -> torch.Tensor:
        """Gates in the order of rnn: input, forget, output, cell."""
        i, f, g, o = torch.cat([getattr(module, n).detach() for n in names], -1).chunk(4)
        return torch.cat([i, f, o, g])

    twin.weight = nn.Parameter(arranged("weight_ih_l0", "weight_hh_l0").T.contiguous())
    both = [getattr(module, n).detach() for n in ("bias_ih_l0", "bias_hh_l0")]
    i, f, g, o = (both[0] + both[1]).chunk(4)
    twin.bias = nn.Parameter(torch.cat([i, f, o, g]))
    return ctx.to_lua(twin.train(module.training))


#: layers that cannot be written, with the nearest thing that can
NEAREST = {
    nn.GRU: "its reset gate acts after the product, as in cudnn.GRU alone; LSTM can be written",
    nn.RNN: "LSTM can be written",
    nn.GRUCell: "LSTM over whole sequences can be written",
    nn.LSTMCell: "LSTM over whole sequences can be written",
    nn.RNNCell: "LSTM over whole sequences can be written",
    nn.EmbeddingBag: "Embedding can be written, with a mean or sum after it",
    nn.MultiheadAttention: "products of matrices (nn.MM) have to be put together by hand in Lua",
    nn.TransformerEncoderLayer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be written",
    nn.AlphaDropout: "Dropout can be written",
    nn.LPPool1d: "AvgPool1d and MaxPool1d can be written",
    nn.LPPool2d: "AvgPool2d and MaxPool2d can be written",
    nn.AdaptiveMaxPool3d: "MaxPool3d can be written",
    nn.CircularPad1d: "ZeroPad1d, ReflectionPad1d and ReplicationPad1d can be written",
    nn.CircularPad2d: "ZeroPad2d, ReflectionPad2d and ReplicationPad2d can be written",
    nn.ReflectionPad3d: "ReplicationPad3d can be written",
    nn.CosineSimilarity: "nn.CosineDistance has another eps; normalise in Lua",
    nn.PairwiseDistance: "nn.PairwiseDistance has another eps",
    nn.ChannelShuffle: "an index of the planes has to be written in Lua",
    nn.Fold: "ConvTranspose2d with fixed weights can be written",
    nn.Unfold: "Conv2d with fixed weights can be written",
}


def _without_counterpart(module: nn.Module, ctx: LuaContext) -> LuaObject:
    return refuse(module, "this layer", NEAREST[type(module)])


composition(*NEAREST)(_without_counterpart)
