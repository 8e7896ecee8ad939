"""Find the number of dimensions of a layer's input: from an example, or from the layers before it."""

from __future__ import annotations

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import submodules
from dpnn_bridge.modules.nn.table import SelectTable

_PREFIXES = ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
#: number of dimensions -> layers whose output (the first element of a tuple) for a batch has this number
AFTER: dict[int, tuple[type[nn.Module], ...]] = {
    2: (nn.Flatten,),
    3: (*(getattr(nn, f"{prefix}1d") for prefix in _PREFIXES), nn.RNNBase),
    4: tuple(getattr(nn, f"{prefix}2d") for prefix in (*_PREFIXES, "BatchNorm")),
    5: tuple(getattr(nn, f"{prefix}3d") for prefix in (*_PREFIXES, "BatchNorm")),
}
_NAMES = """
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Tanh Sigmoid Softplus Softsign Hardtanh Hardsigmoid
    Hardswish Threshold LogSigmoid Hardshrink Softshrink Tanhshrink Dropout Identity LayerNorm BatchNorm1d
    LocalResponseNorm
"""
#: layers that accept any number of dimensions and do not change it
SAME_DIMENSIONS: tuple[type[nn.Module], ...] = tuple(getattr(nn, name) for name in _NAMES.split())


def dimensions(module: nn.Module, ctx: LuaContext) -> int | None:
    """Return the number of dimensions of the input batch of ``module``; None if it is unknown or not unique."""
    module = ctx.stands_for.get(id(module), module)
    if id(module) in ctx.dimensions:
        return ctx.dimensions[id(module)]
    if ctx.inferred is None:
        ctx.inferred = _inferred(ctx)
    return ctx.inferred.get(id(module))


def _inferred(ctx: LuaContext) -> dict[int, int | None]:
    """Map ``id`` of every module to the number of dimensions of its input, inferred from the layers before each use.

    The number is None if the uses of a module differ, as in
    :func:`~dpnn_bridge.conversion.dimensions.input_dimensions`.
    """
    inputs: dict[int, set[int | None]] = {}
    outputs: dict[tuple[int, int | None], int | None] = {}

    def output_of(module: nn.Module, dims: int | None) -> int | None:
        """Return the number of dimensions of a module's output; add those of the inputs of its submodules."""
        dims = ctx.dimensions.get(id(module), dims)
        use = (id(module), dims)
        if use not in outputs:
            inputs.setdefault(id(module), set()).add(dims)
            if type(module) is nn.Sequential:
                for layer in submodules(module):
                    dims = output_of(layer, dims)
            else:
                for child in module.children():
                    output_of(child, ctx.assumed)
                dims = dims if isinstance(module, SAME_DIMENSIONS) else _after(module, dims)
            outputs[use] = dims
        return outputs[use]

    output_of(ctx.root, ctx.assumed)
    return {key: (dims.pop() if len(dims) == 1 else None) or ctx.assumed for key, dims in inputs.items()}


def _after(layer: nn.Module, dims: int | None) -> int | None:
    """Return the number of dimensions of a layer's output."""
    if type(layer) is nn.Linear:  # without other information, the input of nn.Linear is a matrix
        return dims or 2
    if isinstance(layer, nn.Embedding):
        return dims and dims + 1
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return None
    if isinstance(layer, SelectTable):  # of an LSTM, GRU or RNN
        return dims if layer.index == 1 else None
    return next((n for n, types in AFTER.items() if isinstance(layer, types)), None)
