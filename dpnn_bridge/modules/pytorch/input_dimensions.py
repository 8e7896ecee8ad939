"""Find the number of dimensions of a layer's input: from an example, otherwise from the layers before it."""

from __future__ import annotations

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext

_KINDS = ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
#: layers whose output has this many dimensions, for batches
AFTER: dict[int, tuple[type[nn.Module], ...]] = {
    2: (nn.Flatten,),
    3: tuple(getattr(nn, f"{kind}1d") for kind in _KINDS),
    4: tuple(getattr(nn, f"{kind}2d") for kind in (*_KINDS, "BatchNorm")),
    5: tuple(getattr(nn, f"{kind}3d") for kind in (*_KINDS, "BatchNorm")),
}
_NAMES = """
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Tanh Sigmoid Softplus Softsign Hardtanh Hardsigmoid
    Hardswish Threshold LogSigmoid Hardshrink Softshrink Tanhshrink Dropout Identity LayerNorm BatchNorm1d
    LocalResponseNorm
"""
#: layers that leave the number of dimensions alone and take any
KEEPING: tuple[type[nn.Module], ...] = tuple(getattr(nn, name) for name in _NAMES.split())


def dimensions(module: nn.Module, ctx: LuaContext) -> int | None:
    """Return the number of dimensions of the input of ``module``, a batch; None if it is unknown or not always one."""
    module = ctx.stands_for.get(id(module), module)
    if id(module) in ctx.dimensions:
        return ctx.dimensions[id(module)]
    if ctx.inferred is None:
        ctx.inferred = _inferred(ctx)
    return ctx.inferred.get(id(module))


def _inferred(ctx: LuaContext) -> dict[int, int | None]:
    """Map ``id`` of every module to the dimensions of its input, as inferred from the layers before each of its uses.

    A module whose uses differ has None, as :func:`~dpnn_bridge.conversion.dimensions.seen` has it.
    """
    inputs: dict[int, set[int | None]] = {}
    outputs: dict[tuple[int, int | None], int | None] = {}

    def output_of(module: nn.Module, dims: int | None) -> int | None:
        """Return the dimensions of the output of a module; note those of the inputs of the modules in it."""
        dims = ctx.dimensions.get(id(module), dims)
        use = (id(module), dims)
        if use not in outputs:
            inputs.setdefault(id(module), set()).add(dims)
            if type(module) is nn.Sequential:
                for layer in module:
                    dims = output_of(layer, dims)
            else:
                for child in module.children():
                    output_of(child, None)
                dims = dims if isinstance(module, KEEPING) else _after(module, dims)
            outputs[use] = dims
        return outputs[use]

    output_of(ctx.root, None)
    return {key: dims.pop() if len(dims) == 1 else None for key, dims in inputs.items()}


def _after(layer: nn.Module, dims: int | None) -> int | None:
    """Return the dimensions of the output of a layer."""
    if type(layer) is nn.Linear:  # nn.Linear takes nothing else, unless it is known to get more
        return dims or 2
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return None
    return next((n for n, types in AFTER.items() if isinstance(layer, types)), None)
