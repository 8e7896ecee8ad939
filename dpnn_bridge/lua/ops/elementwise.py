"""Declare element-wise arithmetic and functions, each with a PyTorch function and an expression for LuaJIT's loops.

``small`` contains expressions of x, y, z (elements) and v, w (numbers), see prelude/ffi/loops.lua. The second
expression, without branches, is used if all elements and numbers are finite. The third and fourth are names of PyTorch
functions that compute the same bits as the first expression, the fourth only if all elements and numbers are finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from dpnn_bridge.lua.arguments import INTEGER_TYPES
from dpnn_bridge.lua.dispatch import ALL_TYPES, FLOAT_TYPES, torch_function
from dpnn_bridge.lua.ops.integers import c_int, int_pow, left_shifted, quotient, right_shifted
from dpnn_bridge.lua.ops.pointwise import check_counts, pointwise
from dpnn_bridge.lua.tensor import TYPE_OF_DTYPE, Tensor, TorchError, cast_number, square_root


def _scalar(value: float, t: Tensor) -> float:
    return cast_number(value, t.ty)


def _power(base: float, exponent: float) -> float:
    """Compute C's pow, which returns infinity on overflow."""
    with np.errstate(all="ignore"):
        return float(np.float64(base) ** np.float64(exponent))


def _with_number(
    name: str,
    f: Callable[..., torch.Tensor],
    *small: str,
    types: tuple[str, ...] = ALL_TYPES,
    family: str = "pointwise",
) -> None:
    """Declare ``r = f(s, number)``; the number is converted to the element type first."""

    @torch_function(name, "r s n", types=types, small=(family, *small) if small else ())
    def run(r: Tensor, s: Tensor, value: float) -> None:
        pointwise(f, r, s, numbers=(_scalar(value, s),))


def _with_tensor(
    name: str,
    f: Callable[..., torch.Tensor],
    *small: str,
    types: tuple[str, ...] = ALL_TYPES,
    family: str = "pointwise",
) -> None:
    """Declare ``r = f(s, tensor)``."""

    @torch_function(name, "r s T", types=types, small=(family, *small) if small else ())
    def run(r: Tensor, s: Tensor, other: Tensor) -> None:
        pointwise(f, r, s, other)


def _check_divisor(x: torch.Tensor, y: Any) -> None:
    """Raise an error if integers are divided by 0, where C stops the program."""
    if x.numel() and ((y == 0) if not isinstance(y, torch.Tensor) else bool((y == 0).any())):
        raise TorchError("division by zero")


def _int_divide(x: torch.Tensor, y: Any) -> torch.Tensor:
    _check_divisor(x, y)
    return quotient(x, y)


def divide(x: torch.Tensor, y: Any) -> torch.Tensor:
    return x / y if x.is_floating_point() else _int_divide(x, y)


def _fmod(x: torch.Tensor, y: Any) -> torch.Tensor:
    if not x.is_floating_point():
        _check_divisor(x, y)
    if not isinstance(y, torch.Tensor):
        y = torch.tensor(y, dtype=x.dtype)
    return torch.fmod(x, y)


def remainder(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Compute the remainder with the sign of the divisor by TH's formulas.

    For floats, a zero divisor gives NaN. For integers, TH tests the sign of a product, which may overflow.
    """
    if not isinstance(y, torch.Tensor):
        y = torch.tensor(y, dtype=x.dtype)
    if not x.is_floating_point():
        rest = _fmod(x, y)
        return torch.where(c_int(rest) * c_int(y) < 0, rest + y, rest)
    quotient = torch.floor(x / y).double()  # C's floor returns a double, so the result is a double until it is stored
    return torch.where(y == 0, torch.nan, x.double() - y.double() * quotient).to(x.dtype)


def _power_of_two(x: torch.Tensor, y: Any) -> Any:
    """Return 2 to the power ``y``, a tensor or a number, in the type of ``x``."""
    return 2.0**y if isinstance(y, torch.Tensor) else cast_number(_power(2.0, y), TYPE_OF_DTYPE[x.dtype])


def _shift_left(x: torch.Tensor, y: Any) -> torch.Tensor:
    return x * _power_of_two(x, y) if x.is_floating_point() else left_shifted(x, y)


def _shift_right(x: torch.Tensor, y: Any) -> torch.Tensor:
    return x / _power_of_two(x, y) if x.is_floating_point() else right_shifted(x, y)


def _bitwise(name: str, f: Callable[..., torch.Tensor], lua_name: str) -> None:
    def unsupported(r: Tensor, s: Tensor, other: Any) -> None:
        raise TorchError(f"{name} is only supported for integer type tensors")

    _with_number(name, f, f"{lua_name}(x, v)", "", f"{f.__name__}.Tensor_out", types=INTEGER_TYPES)
    _with_tensor("c" + name, f, f"{lua_name}(x, y)", "", f"{f.__name__}.Tensor_out", types=INTEGER_TYPES)
    torch_function(name, "r s n", types=FLOAT_TYPES)(unsupported)
    torch_function("c" + name, "r s T", types=FLOAT_TYPES)(unsupported)


def _plus_multiple(r: Tensor, s: Tensor, number: float, other: Tensor) -> None:
    """Write ``s + number * other``: rounded once if all tensors are contiguous, as in TH's vector code, else twice."""
    if number == 0 and r is s and r.is_contiguous() and other.is_contiguous() and r.numel == other.numel:
        return  # BLAS does not read ``other`` then
    if number == 1 or all(t.is_contiguous() for t in (r, s, other)):
        pointwise(partial(torch.add, alpha=number), r, s, other)
    else:
        pointwise(lambda x, y: x + number * y, r, s, other)


@torch_function("add", "r s n=1 T", small=("scaled", "x + R(v * y)", "", "add"))
def add_tensor(r: Tensor, s: Tensor, value: float, other: Tensor) -> None:
    _plus_multiple(r, s, _scalar(value, s), other)


@torch_function("csub", "r s n=1 T", small=("scaled", "x - R(v * y)", "", "sub"))
def csub_tensor(r: Tensor, s: Tensor, value: float, other: Tensor) -> None:
    _plus_multiple(r, s, _scalar(-value, s), other)


_with_number("add", torch.add, "x + v", "", "add")
_with_number("csub", torch.sub, "x - v", "", "sub")
_with_number("mul", torch.mul, "x * v", "", "mul.out")
_with_tensor("cmul", torch.mul, "x * y", "", "mul.out")
_with_number("div", torch.div, "x / v", "", "div.out", types=FLOAT_TYPES)
_with_tensor("cdiv", torch.div, "x / y", "", "div.out", types=FLOAT_TYPES)
_with_number("div", _int_divide, "v", "x / v", types=INTEGER_TYPES, family="divided")
_with_tensor("cdiv", _int_divide, "y", "x / y", types=INTEGER_TYPES, family="divided")
for _types, _left, _right, _count in (
    (FLOAT_TYPES, "x * R(2 ^ {})", "x / R(2 ^ {})", "y"),
    # LuaJIT does not compile shifts by 64-bit integers
    (INTEGER_TYPES, "lshift(U(x), {})", "rshift(U(x), {})", "tobit(y)"),
):
    _with_number("lshift", _shift_left, _left.format("v"), types=_types)
    _with_number("rshift", _shift_right, _right.format("v"), types=_types)
    _with_tensor("clshift", _shift_left, _left.format(_count), types=_types)
    _with_tensor("crshift", _shift_right, _right.format(_count), types=_types)
#: types, family, expressions of fmod and remainder. C's % takes the sign of the dividend, Lua's that of the divisor.
_MODULO = (
    (FLOAT_TYPES, (), "fmod(x, {0})", "{0} == 0 and 0 / 0 or x - {0} * floor(R(x / {0}))"),
    (("Byte", "Char", "Short"), ("divided",), "x - {0} * tonumber(cast(int, x / {0}))", "x % {0}"),
    (("Int",), ("divided",), "x % {0}", "tobit((x % {0}) * {0}) < 0 and x % {0} + {0} or x % {0}"),
    (("Long",), ("divided",), "x % {0}", "(x % {0}) * {0} < 0 and x % {0} + {0} or x % {0}"),
)
for _types, _family, _fmod_of, _remainder_of in _MODULO:
    for _name, _f, _expression in (
        ("fmod", _fmod, _fmod_of),
        ("mod", _fmod, _fmod_of),
        ("remainder", remainder, _remainder_of),
    ):
        for _declare, _prefix, _divisor in ((_with_number, "", "v"), (_with_tensor, "c", "y")):
            _small = (*((_divisor,) if _family else ()), _expression.format(_divisor))
            _declare(_prefix + _name, _f, *_small, types=_types, family=_family[0] if _family else "pointwise")
_bitwise("bitand", torch.bitwise_and, "band")
_bitwise("bitor", torch.bitwise_or, "bor")
_bitwise("bitxor", torch.bitwise_xor, "bxor")
_with_tensor("cpow", lambda x, y: torch.pow(x.double(), y.double()), "C.pow(x, y)", types=FLOAT_TYPES)
_with_tensor("cpow", int_pow, "max(min(C.pow(x, y), 0x80000000), -0x80000000)", types=("Byte", "Char", "Short", "Int"))
_with_tensor("cpow", int_pow, "C.pow(x, y)", types=("Long",))


def _clamped(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.where(x < low, low, torch.where(x > high, high, x))


@torch_function(
    "clamp",
    "r s n n",
    small=(
        *("pointwise", "x < v and v or (x > w and w or x)", "v <= w and max(v, min(w, x)) or x < v and v or w"),
        "clamp_min.Tensor_out clamp_max.Tensor_out",
    ),
)
def clamp(r: Tensor, s: Tensor, low: float, high: float) -> None:
    low, high = _scalar(low, s), _scalar(high, s)
    pointwise(torch.clamp if low <= high else _clamped, r, s, numbers=(low, high))


def _copied(r: Tensor, s: Tensor) -> Tensor:
    """Copy ``s`` to ``r``, as Torch7 does before it reads other sources, which may be ``r``."""
    if r is not s:
        pointwise(lambda x: x, r, s)
    return r


def _addcmul(r: Tensor, s: Tensor, value: float, a: Tensor, b: Tensor) -> None:
    number = _scalar(value, s)
    if s.ty in FLOAT_TYPES:
        pointwise(partial(torch.addcmul, value=number), r, _copied(r, s), a, b)
    else:
        pointwise(lambda x, y, z: x + number * y * z, r, _copied(r, s), a, b)


def _addcdiv(r: Tensor, s: Tensor, value: float, a: Tensor, b: Tensor) -> None:
    number = _scalar(value, s)
    if s.ty in FLOAT_TYPES:
        pointwise(lambda x, y, z: x + number * y / z, r, _copied(r, s), a, b)
        return
    pointwise(lambda x, y, z: x + divide(number * c_int(y), z), r, _copied(r, s), a, b)


#: types, expressions of addcmul and addcdiv. C computes in 32 bits, or in 64 for Long, and truncates quotients.
_ADDED = (
    (FLOAT_TYPES, "x + R(R(v * y) * z)", "x + R(R(v * y) / z)"),
    (("Byte", "Char", "Short"), "tobit(x + v * y * z)", "x + tonumber(cast('int32_t', tobit(v * y) / z))"),
    (("Int",), "x + v * y * z", "x + cast('int32_t', tonumber(tobit(v * y)) / tonumber(z))"),
    (("Long",), "x + v * y * z", "x + v * y / z"),
)
for _types, _product, _quotient in _ADDED:
    for _name, _code, _family, _small in (
        ("addcmul", _addcmul, "pointwise", (_product,)),
        ("addcdiv", _addcdiv, "pointwise" if _types == FLOAT_TYPES else "divided", (_quotient,)),
    ):
        _divisor = ("z",) if _family == "divided" else ()
        torch_function(_name, "r s n=1 T T", types=_types, small=(_family, *_divisor, *_small))(_code)


def _extremum(name: str, f: Callable[..., torch.Tensor], lua_name: str, sign: str) -> None:
    """Declare the larger or smaller of two operands; if one is NaN, the second operand."""

    def run(x: torch.Tensor, y: Any) -> torch.Tensor:
        return torch.where(x > y if sign == ">" else x < y, x, y)

    def choose(r: Tensor, s: Tensor, *others: Tensor, numbers: tuple = ()) -> None:
        is_integer = s.ty not in FLOAT_TYPES and not numbers
        pointwise(f if is_integer else run, r, s, *others, numbers=numbers)

    vector = "maximum.out" if sign == ">" else "minimum.out"

    @torch_function(name, "R s T", small=("pointwise", f"x {sign} y and x or y", f"{lua_name}(x, y)", "", vector))
    def with_tensor(r: Tensor, s: Tensor, other: Tensor) -> None:
        choose(r, s, other)

    @torch_function(name, "R s n", small=("pointwise", f"x {sign} v and x or v", f"{lua_name}(x, v)", "", vector))
    def with_number(r: Tensor, s: Tensor, value: float) -> None:
        choose(r, s, numbers=(_scalar(value, s),))


_extremum("cmax", torch.maximum, "max", ">")
_extremum("cmin", torch.minimum, "min", "<")


@torch_function("zero", "X", types=(*ALL_TYPES, "Half"))
def zero(r: Tensor) -> None:
    fill(r, 0)


@torch_function("fill", "X n", types=("Half",))
@torch_function("fill", "X n", small=("pointwise", "v", "", "fill"))
def fill(r: Tensor, value: float) -> None:
    number = _scalar(value, r)
    if r.numel:
        if r.overlaps():
            r.write(torch.full(r.size, number, dtype=r.t.dtype))
        else:
            r.t.fill_(number)


# ---- functions of one argument, a tensor or a number


def _round(x: torch.Tensor) -> torch.Tensor:
    """Round halves away from zero, as in C."""
    truncated = torch.trunc(x)
    return torch.where((x - truncated).abs() >= 0.5, truncated + torch.sign(x), truncated)


#: name -> function, expression of LuaJIT's loops
_UNARY: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "sqrt": (square_root, "sqrt(x)"),
    "round": (_round, "round(x)"),
    "abs": (torch.abs, "abs(x)"),
    "frac": (lambda x: x - torch.trunc(x), "x - trunc(x)"),
    "rsqrt": (lambda x: 1 / square_root(x), "1 / R(sqrt(x))"),
    "sigmoid": (lambda x: 1 / (1 + torch.exp(-x)), "1 / R(1 + exp(-x))"),
}
_C_NAMES = ("log", "log1p", "exp", "cos", "acos", "cosh", "sin", "asin", "sinh", "tan", "atan", "tanh")
for _name in (*_C_NAMES, "ceil", "floor", "trunc"):
    _UNARY[_name] = (getattr(torch, _name), f"{_name}(x)")


def _of_numbers(name: str, signature: str, f: Callable[..., float], types: tuple[str, ...] = FLOAT_TYPES) -> None:
    """Declare ``torch.name`` of numbers: arguments and result have the default type, and C computes in double."""
    for ty in types:

        @torch_function(name, signature, types=(ty,))
        def run(*values: float, ty: str = ty) -> float:
            return cast_number(f(*(float(cast_number(x, ty)) for x in values)), ty)


def _unary(
    name: str, f: Callable[..., torch.Tensor], *small: str, types: tuple[str, ...] = FLOAT_TYPES, numbers: bool = False
) -> None:
    @torch_function(name, "r s", types=types, small=("pointwise", *small) if small else ())
    def on_tensor(r: Tensor, s: Tensor) -> None:
        pointwise(f, r, s)

    if numbers:
        _of_numbers(name, "n", partial(_of_number, getattr(math, name, None) if name in _C_NAMES else None, f), types)


def _of_number(of_c: Callable[[float], float] | None, f: Callable[..., torch.Tensor], x: float) -> float:
    """Compute a function of a number with ``math``, or with PyTorch if ``math`` raises or lacks the function."""
    try:
        if of_c is not None:
            return of_c(x)
    except (ValueError, OverflowError):
        pass
    return float(f(torch.tensor(x, dtype=torch.float64)))


_EXACT = ("abs", "ceil", "floor", "trunc", "frac")  # PyTorch's functions return the same bits
for _name, (_f, _small) in _UNARY.items():
    _unary(_name, _f, _small, "", f"{_name}.out" if _name in _EXACT else "", numbers=True)
_unary("abs", torch.abs, "x < 0 and -x or x", types=("Int", "Long"), numbers=True)
_unary("neg", torch.neg, "-x", "", "neg.out")
_unary("cinv", torch.reciprocal, "1 / x", "", "reciprocal.out")
_SIGN = ("x > 0 and 1 or (x < 0 and -1 or 0)", "max(-1, min(1, x * 1e300 * 1e300)) + 0")  # -0 + 0 is 0
_unary("sign", lambda x: torch.nan_to_num(torch.sign(x)), *_SIGN, "", "sign.out")
_unary("sign", torch.sign, *_SIGN, types=INTEGER_TYPES)


@torch_function("lerp", "r s T n", types=FLOAT_TYPES, small=("pointwise", "x + R(v * R(y - x))"))
def lerp(r: Tensor, s: Tensor, end: Tensor, weight: float) -> None:
    check_counts("t src", s, end)
    pointwise(lambda x, y: x + weight * (y - x), r, s, end)


_of_numbers("lerp", "n n n", lambda a, b, weight: a + weight * (b - a))
_with_tensor("atan2", torch.atan2, "atan2(x, y)", types=FLOAT_TYPES)
_of_numbers("atan2", "n n", math.atan2)

_ROOTS = {0.5: "sqrt", -0.5: "rsqrt"}


@torch_function("pow", "r s n", types=FLOAT_TYPES, small=("power",))
def pow_number(r: Tensor, s: Tensor, exponent: float) -> None:
    exponent = _scalar(exponent, s)
    if exponent in _ROOTS:
        return pointwise(_UNARY[_ROOTS[exponent]][0], r, s)
    pointwise(torch.pow, r, s, numbers=(exponent,))


@torch_function("pow", "r n s", types=FLOAT_TYPES, small=("pointwise", "C.pow(v, x)"))
def pow_of_number(r: Tensor, base: float, s: Tensor) -> None:
    base = _scalar(base, s)
    pointwise(lambda x: torch.pow(base, x.double()), r, s)


_of_numbers("pow", "n n", _power)
