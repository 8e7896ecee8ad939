"""Export dropout, bilinear layers, embedding bags and wrappers; list the layers that cannot be exported."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.nn.linear import Bilinear
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse, refuse_all
from dpnn_bridge.objects import LuaObject


@composition(nn.Dropout)
def dropout(module: nn.Dropout, ctx: LuaContext) -> None:
    """Raise an error for p=1, for which nn divides by zero."""
    _check_probability(module)


def _check_probability(module: Any) -> None:
    if module.p == 1:
        refuse(module, "p=1", "p < 1 can be exported")


@composition(nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
def channel_dropout(module: Any, ctx: LuaContext) -> LuaObject:
    """Export dropout of channels; nn scales by 1 - p in evaluation mode, PyTorch by 1 / (1 - p) in training mode."""
    _check_probability(module)
    parts = Parts(module, ctx)
    name = "VolumetricDropout" if isinstance(module, nn.Dropout3d) else "SpatialDropout"
    dropped = parts(name, p=module.p, stochastic_inference=False)
    layer = parts.lifted(dropped) if isinstance(module, nn.Dropout1d) else dropped
    return parts.chain(layer, parts.times(1 / (1 - module.p)))


@composition(nn.Bilinear)
def bilinear(module: nn.Bilinear, ctx: LuaContext) -> LuaObject:
    equivalent = Bilinear(module.in1_features, module.in2_features, module.out_features, bias=module.bias is not None)
    equivalent.weight, equivalent.bias = module.weight, module.bias
    return ctx.to_lua(equivalent.train(module.training))


@composition(nn.Embedding)
def embedding(module: nn.Embedding, ctx: LuaContext) -> None:
    """Raise an error for an example that nn's class does not accept."""
    dims = dimensions(module, ctx)
    if dims not in (None, 1, 2):
        refuse(module, f"indices with {dims} dimensions", "vectors and matrices of indices can be exported")


@composition(nn.EmbeddingBag)
def embedding_bag(module: nn.EmbeddingBag, ctx: LuaContext) -> LuaObject:
    """Export an EmbeddingBag whose input is a matrix of indices with one bag per row.

    ``scale_grad_by_freq`` is refused: PyTorch's kernel for the CPU divides the gradient of an index by the frequency of
    another one.
    """
    if module.padding_idx is not None or module.include_last_offset or module.scale_grad_by_freq:
        refuse(
            module,
            "padding_idx, include_last_offset or scale_grad_by_freq",
            "bags as rows of a matrix, without these, can be exported",
        )
    parts = Parts(module, ctx)
    equivalent = nn.Embedding(
        module.num_embeddings,
        module.embedding_dim,
        max_norm=module.max_norm,
        norm_type=module.norm_type,
        device="meta",
    )
    equivalent._parameters = module._parameters
    bags = {"sum": parts("Sum", dimension=2, sizeAverage=False, squeeze=True), "mean": parts.mean(2)}
    bags["max"] = parts("Max", dimension=2)
    return parts.chain(ctx.to_lua(equivalent.train(module.training)), bags[module.mode])


# ---------------------------------------------------------------------- wrappers
@composition(nn.Sequential)
def chain(module: nn.Sequential, ctx: LuaContext) -> LuaObject | None:
    """Export an empty container as nn.Identity, because an empty nn.Sequential has no backward pass in Torch7."""
    return None if len(module) else Parts(module, ctx).identity()


@composition(nn.DataParallel, nn.parallel.DistributedDataParallel)
def parallel(module: Any, ctx: LuaContext) -> LuaObject:
    """Export the wrapped model."""
    return ctx.to_lua(module.module)


#: layers that cannot be exported, with similar layers that can
NEAREST = {
    nn.MultiheadAttention: "compose it of matrix products (nn.MM) in Lua",
    nn.TransformerEncoderLayer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be exported",
    nn.TransformerDecoderLayer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be exported",
    nn.TransformerEncoder: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be exported",
    nn.TransformerDecoder: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be exported",
    nn.Transformer: "Linear, LayerNorm, GELU(approximate='tanh') and Dropout can be exported",
    nn.AlphaDropout: "Dropout can be exported",
    nn.FeatureAlphaDropout: "Dropout2d can be exported",
    nn.LPPool3d: "LPPool2d and AvgPool3d can be exported",
    nn.MaxUnpool1d: "ConvTranspose1d and Upsample can be exported",
    nn.MaxUnpool2d: "ConvTranspose2d and Upsample can be exported",
    nn.MaxUnpool3d: "ConvTranspose3d and Upsample can be exported",
    nn.CosineSimilarity: "use nn.CosineDistance in Lua, which has another eps",
    nn.PairwiseDistance: "use nn.PairwiseDistance in Lua, which has another eps",
    nn.ChannelShuffle: "select the channels with nn.Index in Lua",
    nn.Fold: "ConvTranspose2d with fixed weights can be exported",
    nn.Unfold: "Conv2d with fixed weights can be exported",
    nn.AdaptiveLogSoftmaxWithLoss: "Linear and LogSoftmax can be exported",
}


refuse_all(NEAREST)
