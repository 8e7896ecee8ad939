"""Find the number of dimensions of a layer's input: from an example, otherwise from the layers before it."""

from __future__ import annotations

from collections.abc import Iterator

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
    """Return the dimensions of the input of ``module``, a batch, None where nothing shows it."""
    if id(module) not in ctx.dimensions:
        if ctx.shown is None:
            ctx.shown = dict(_shown(ctx))
        return ctx.shown.get(id(module))
    return ctx.dimensions[id(module)]


def _shown(ctx: LuaContext) -> Iterator[tuple[int, int | None]]:
    """Yield ``id`` of every layer in a chain, and the dimensions of its input inferred from the layers before it."""
    for chain in _chains(ctx.root):
        dims: int | None = None
        for layer in chain:
            dims = ctx.dimensions.get(id(layer), dims)
            yield id(layer), dims
            if not isinstance(layer, KEEPING):
                dims = _after(layer, dims)


def _after(layer: nn.Module, dims: int | None) -> int | None:
    """Return the dimensions of the output of a layer."""
    if type(layer) is nn.Linear:  # nn.Linear takes nothing else, unless it is known to get more
        return dims or 2
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return None
    return next((n for n, types in AFTER.items() if isinstance(layer, types)), None)


def _chains(root: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield every chain of layers that run one after the other."""
    inner = {id(child) for m in root.modules() if type(m) is nn.Sequential for child in m}
    for module in root.modules():
        if type(module) is nn.Sequential and id(module) not in inner:
            yield list(_flat(module))


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    for child in module:  # type: ignore[attr-defined]
        yield from _flat(child) if type(child) is nn.Sequential else [child]
