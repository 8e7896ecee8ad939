"""Dropout, products, embeddings, wrappers, and layers that cannot be exported."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.nn.linear import Bilinear
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.objects import LuaObject, LuaTensor


@composition(nn.Dropout)
def dropout(module: nn.Dropout, ctx: LuaContext) -> None:
    """Refuse a dropout of all elements, which nn divides by zero."""
    _need_some_left(module)


def _need_some_left(module: Any) -> None:
    if module.p == 1:
        refuse(module, "p=1", "p < 1 can be written")


@composition(nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
def plane_dropout(module: Any, ctx: LuaContext) -> LuaObject:
    """Export dropout of planes: nn does not scale up in training, and scales down in evaluation."""
    _need_some_left(module)
    parts = Parts(module, ctx)
    name = "VolumetricDropout" if isinstance(module, nn.Dropout3d) else "SpatialDropout"
    dropped = parts(name, p=module.p, stochastic_inference=False, noise=LuaTensor.empty(parts.kind))
    planes = parts.lifted(dropped) if isinstance(module, nn.Dropout1d) else dropped
    return parts.chain(planes, parts.times(1 / (1 - module.p)))


@composition(nn.Bilinear)
def bilinear(module: nn.Bilinear, ctx: LuaContext) -> LuaObject:
    twin = Bilinear(module.in1_features, module.in2_features, module.out_features, bias=module.bias is not None)
    twin.weight, twin.bias = module.weight, module.bias
    return ctx.to_lua(twin.train(module.training))


@composition(nn.EmbeddingBag)
def embedding_bag(module: nn.EmbeddingBag, ctx: LuaContext) -> LuaObject:
    """Export an EmbeddingBag for matrices of indices, with one bag per row."""
    if module.padding_idx is not None or module.include_last_offset:
        refuse(module, "padding_idx or include_last_offset of bags", "bags as rows of a matrix can be written")
    parts = Parts(module, ctx)
    twin = nn.Embedding(
        module.num_embeddings, module.embedding_dim, max_norm=module.max_norm, norm_type=module.norm_type, device="meta"
    )
    twin._parameters = module._parameters
    bags = {"sum": parts("Sum", dimension=2, sizeAverage=False, squeeze=True), "mean": parts.mean(2)}
    bags["max"] = parts("Max", dimension=2)
    return parts.chain(ctx.to_lua(twin.train(module.training)), bags[module.mode])


# ---------------------------------------------------------------------- wrappers
@composition(nn.Sequential)
def chain(module: nn.Sequential, ctx: LuaContext) -> LuaObject | None:
    """Export a container without members, which has no ``backward`` in Torch7, as an identity."""
    return None if len(module) else Parts(module, ctx).identity()


@composition(nn.DataParallel, nn.parallel.DistributedDataParallel)
def parallel(module: Any, ctx: LuaContext) -> LuaObject:
    """Export the model inside."""
    return ctx.to_lua(module.module)


#: layers that cannot be written, with the nearest thing that can
NEAREST = {
    nn.MultiheadAttention: "products of matrices (nn.MM) have to be put together by hand in Lua",
    nn.TransformerEncoderLayer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be written",
    nn.TransformerDecoderLayer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be written",
    nn.TransformerEncoder: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be written",
    nn.TransformerDecoder: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be written",
    nn.Transformer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be written",
    nn.AlphaDropout: "Dropout can be written",
    nn.FeatureAlphaDropout: "Dropout2d can be written",
    nn.LPPool3d: "LPPool2d can be written, and AvgPool3d",
    nn.FractionalMaxPool2d: "MaxPool2d and AdaptiveMaxPool2d can be written",
    nn.FractionalMaxPool3d: "MaxPool3d and AdaptiveMaxPool3d can be written",
    nn.MaxUnpool1d: "ConvTranspose1d and Upsample can be written",
    nn.MaxUnpool2d: "ConvTranspose2d and Upsample can be written",
    nn.MaxUnpool3d: "ConvTranspose3d and Upsample can be written",
    nn.CosineSimilarity: "nn.CosineDistance has another eps; normalise in Lua",
    nn.PairwiseDistance: "nn.PairwiseDistance has another eps",
    nn.ChannelShuffle: "an index of the planes has to be written in Lua",
    nn.PixelUnshuffle: "Conv2d with a stride can be written",
    nn.Fold: "ConvTranspose2d with fixed weights can be written",
    nn.Unfold: "Conv2d with fixed weights can be written",
    nn.AdaptiveLogSoftmaxWithLoss: "Linear and LogSoftmax can be written",
}


def _without_counterpart(module: nn.Module, ctx: LuaContext) -> LuaObject:
    return refuse(module, "it", NEAREST[type(module)])


composition(*NEAREST)(_without_counterpart)
