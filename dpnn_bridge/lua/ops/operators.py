"""Declare the operators of tensors: ``a + b``, ``-a``, ``a * b`` …"""

from __future__ import annotations

from typing import Any

from dpnn_bridge.lua.arguments import check_number, check_real
from dpnn_bridge.lua.dispatch import ALL_TYPES, native
from dpnn_bridge.lua.ops.blas import dot, matrix_product
from dpnn_bridge.lua.ops.elementwise import divide, remainder
from dpnn_bridge.lua.ops.pointwise import pointwise
from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_number


@native("__add__", types=ALL_TYPES)
def op_add(a: Any, b: Any) -> Tensor:
    return _plus(a, b, 1)


@native("__sub__", types=ALL_TYPES)
def op_sub(a: Any, b: Any) -> Tensor:
    return _plus(a, b, -1)


def _same_type(a: Any, b: Any) -> None:
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ty != b.ty:
        raise TorchError(f"expecting two torch.{a.ty}Tensors or one torch.{a.ty}Tensor and one number")


def _plus(a: Any, b: Any, sign: int) -> Tensor:
    _same_type(a, b)
    if isinstance(a, Tensor):
        result = Tensor.fresh(a.t.clone())
        if isinstance(b, Tensor):
            pointwise(lambda x, y: x + sign * y, result, result, b)
        else:
            number = check_real(b, 2, a.ty)
            pointwise(lambda x: x + sign * number, result, result)
        return result
    return Tensor.fresh(check_real(a, 1, b.ty) + sign * b.t)


@native("__unm__", types=ALL_TYPES)
def op_unm(a: Tensor, *_: Any) -> Tensor:
    return Tensor.fresh(a.t * -1)


@native("__div__", types=ALL_TYPES)
def op_div(a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor):
        raise TorchError("bad argument #1 (torch.*Tensor expected, got number)")
    return Tensor.fresh(divide(a.t, cast_number(check_number(b, 2), a.ty)))


@native("__mod__", types=ALL_TYPES)
def op_mod(a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor):
        raise TorchError("bad argument #1 (torch.*Tensor expected, got number)")
    return Tensor.fresh(remainder(a.t, cast_number(check_number(b, 2), a.ty)))


@native("__mul__", types=ALL_TYPES)
def op_mul(a: Any, b: Any) -> Tensor | float:
    _same_type(a, b)
    if not isinstance(a, Tensor):
        return Tensor.fresh(b.t * check_real(a, 1, b.ty))
    if not isinstance(b, Tensor):
        return Tensor.fresh(a.t * check_real(b, 2, a.ty))
    if a.dim == 1 and b.dim == 1:
        return dot(a, b)
    if a.dim == 2 and b.dim in (1, 2):
        return Tensor.fresh(matrix_product(a, b))
    raise TorchError(f"multiplication between {a.dim}D and {b.dim}D tensors not yet supported")
