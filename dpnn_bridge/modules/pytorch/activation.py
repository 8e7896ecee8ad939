"""Export activations that nn lacks as compositions of nn's activations."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.objects import LuaObject, LuaTensor

#: constants of :class:`torch.nn.SELU`
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _gate(parts: Parts, *branch: LuaObject) -> LuaObject:
    """Return a composition that multiplies the input by the output of ``branch``."""
    return parts.join("CMulTable", parts.identity(), parts.chain(*branch))


def _elu(parts: Parts, alpha: float) -> LuaObject:
    return parts("ELU", alpha=alpha)


def _hard_sigmoid(parts: Parts) -> list[LuaObject]:
    return [parts.plus(3.0), parts("ReLU6"), parts.times(1 / 6)]


@composition(nn.SiLU)
def silu(module: nn.SiLU, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return _gate(parts, parts("Sigmoid"))


@composition(nn.Mish)
def mish(module: nn.Mish, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return _gate(parts, parts("SoftPlus", beta=1, threshold=20), parts("Tanh"))


@composition(nn.Hardsigmoid)
def hard_sigmoid(module: nn.Hardsigmoid, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return parts.chain(*_hard_sigmoid(parts))


@composition(nn.Hardswish)
def hard_swish(module: nn.Hardswish, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return _gate(parts, *_hard_sigmoid(parts))


@composition(nn.SELU)
def selu(module: nn.SELU, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return parts.chain(_elu(parts, SELU_ALPHA), parts.times(SELU_SCALE))


@composition(nn.ELU)
def elu(module: nn.ELU, ctx: LuaContext) -> None:
    """Raise an error for a negative alpha: nn computes the gradient from the sign of the output."""
    _need_positive_alpha(module)


def _need_positive_alpha(module: nn.ELU | nn.CELU) -> None:
    if module.alpha < 0:
        refuse(module, f"alpha={module.alpha}, which is negative", "alpha=0 and more can be exported")


@composition(nn.Softplus)
def softplus(module: nn.Softplus, ctx: LuaContext) -> None:
    """Raise an error for a low threshold: nn's gradient compares the output with it, PyTorch's the input."""
    if module.threshold < 20:
        refuse(module, f"threshold={module.threshold}", "threshold=20 and more can be exported")


@composition(nn.GLU)
def glu(module: nn.GLU, ctx: LuaContext) -> LuaObject | None:
    """Swap a dimension that is counted from the end with the last one, over which nn's class works by default."""
    if module.dim >= -1:
        return None
    parts = Parts(module, ctx)
    return _moved(parts, module.dim, -1, parts("GatedLinearUnit"), from_end=True)


@composition(nn.CELU)
def celu(module: nn.CELU, ctx: LuaContext) -> LuaObject:
    _need_positive_alpha(module)
    parts = Parts(module, ctx)
    return parts.chain(parts.times(1 / module.alpha), _elu(parts, 1.0), parts.times(module.alpha))


@composition(nn.GELU)
def gelu(module: nn.GELU, ctx: LuaContext) -> LuaObject:
    if module.approximate != "tanh":
        refuse(module, "the error function", "GELU(approximate='tanh') can be exported")
    parts = Parts(module, ctx)
    cube = parts.chain(parts("Power", pow=3), parts.times(0.044715))
    inner = parts.join("CAddTable", parts.identity(), cube)
    return _gate(parts, inner, parts.times(math.sqrt(2 / math.pi)), parts("Tanh"), parts.plus(1.0), parts.times(0.5))


@composition(nn.Softmax, nn.LogSoftmax, nn.Softmin)
def softmax(module: Any, ctx: LuaContext) -> LuaObject:
    """Swap the softmax dimension with the dimension that nn's class uses, dimension 1 of matrices and images."""
    name = {nn.Softmax: "SoftMax", nn.LogSoftmax: "LogSoftMax"}.get(type(module), "SoftMin")
    parts, dim, dims = Parts(module, ctx), module.dim, dimensions(module, ctx)
    buffers = {"mininput": LuaTensor.empty(parts.tensor_class)} if name == "SoftMin" else {}
    own = parts(name, **buffers)
    position = dim if dim is None or dims is None else dim % dims
    if dim is None or (position, dims) in ((1, 2), (1, 4), (0, 1), (0, 3)):  # dim=None has the same meaning in Torch7
        return own
    if dim < 0 or dim + 1 == dims:
        return _moved(parts, dim if dim < 0 else -1, -1, parts.bottled(own), from_end=True)
    columns = parts.chain(parts.rows(), parts.swap(1, 2), own, parts.swap(1, 2))
    return _moved(parts, 1, dim + 1, parts.shaped_as_input(columns))


def _moved(parts: Parts, first: int, second: int, module: LuaObject, *, from_end: bool = False) -> LuaObject:
    """Return ``module`` between two swaps of the same dimensions."""
    if first == second:
        return module
    return parts.chain(
        parts.swap(first, second, from_end=from_end), module, parts.swap(first, second, from_end=from_end)
    )


@composition(nn.Softmax2d)
def softmax_2d(module: nn.Softmax2d, ctx: LuaContext) -> LuaObject:
    return Parts(module, ctx)("SpatialSoftMax")
