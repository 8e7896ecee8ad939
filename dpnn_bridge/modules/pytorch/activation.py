"""Activations that nn lacks, as compositions of those it has."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dpnn_bridge.conversion.lua_context import LuaContext
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.modules.pytorch.parts import Parts, refuse
from dpnn_bridge.objects import LuaObject

#: constants of :class:`torch.nn.SELU`
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _gate(parts: Parts, *branch: LuaObject) -> LuaObject:
    """The input times what ``branch`` makes of it."""
    return parts.join("CMulTable", parts.identity(), parts.chain(*branch))


def _elu(parts: Parts, alpha: float) -> LuaObject:
    return parts("ELU", alpha=alpha, inplace=False)


def _hard_sigmoid(parts: Parts) -> list[LuaObject]:
    return [parts.plus(3.0), parts("ReLU6", inplace=False), parts.times(1 / 6)]


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


@composition(nn.CELU)
def celu(module: nn.CELU, ctx: LuaContext) -> LuaObject:
    parts = Parts(module, ctx)
    return parts.chain(parts.times(1 / module.alpha), _elu(parts, 1.0), parts.times(module.alpha))


@composition(nn.GELU)
def gelu(module: nn.GELU, ctx: LuaContext) -> LuaObject:
    if module.approximate != "tanh":
        refuse(module, "the error function", "GELU(approximate='tanh') can be written")
    parts = Parts(module, ctx)
    cube = parts.chain(parts("Power", pow=3), parts.times(0.044715))
    inner = parts.join("CAddTable", parts.identity(), cube)
    return _gate(parts, inner, parts.times(math.sqrt(2 / math.pi)), parts("Tanh"), parts.plus(1.0), parts.times(0.5))


@composition(nn.Softmax, nn.LogSoftmax, nn.Softmin)
def softmax(module: Any, ctx: LuaContext) -> LuaObject | None:
    """Over the last dimension of any input; over dimension 1 nn's own, which takes it for the planes."""
    if type(module) is nn.Softmin and module.dim in (-1, -3):
        refuse(module, f"dim={module.dim} here", "Softmin(1) can be written, or Softmax(-1) of the negated input")
    name = {nn.Softmax: "SoftMax", nn.LogSoftmax: "LogSoftMax"}.get(type(module), "SoftMin")
    if module.dim in (1, None):
        return None
    parts = Parts(module, ctx)
    if module.dim == -3:
        return parts(name)
    if module.dim != -1:
        instead = "dim=1 (planes or classes), dim=-3 (planes) and dim=-1 can be written"
        refuse(module, f"dim={module.dim}, without knowing how many dimensions the input has", instead)
    return parts.bottled(parts(name))


@composition(nn.Softmax2d)
def softmax_2d(module: nn.Softmax2d, ctx: LuaContext) -> LuaObject:
    return Parts(module, ctx)("SpatialSoftMax")
