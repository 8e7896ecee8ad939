"""Pointwise arithmetic and functions, comparisons, operators.

Torch7 matches operands by their number of elements, never by shape, and does not broadcast. The result has the shape
of the first operand. In-place operations visit every logical element once, also if several elements share memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.dispatch import ALL_TYPES, FLOAT_TYPES, torch_function
from dpnn_bridge.lua.ops.integers import c_int, int_pow, shifted, without_sign
from dpnn_bridge.lua.tensor import IN_ORDER, Tensor, TorchError, cast_number, cast_tensor, square_root

INTEGER_TYPES = tuple(ty for ty in ALL_TYPES if ty not in FLOAT_TYPES)


def check_counts(names: str, *tensors: Tensor) -> None:
    if len({t.numel for t in tensors}) > 1:
        shapes = ", ".join(f"{n} {t.shape_text}" for n, t in zip(names.split(), tensors, strict=False))
        counts = ", ".join(str(t.numel) for t in tensors)
        raise TorchError(
            f"inconsistent tensor size, expected {shapes} to have the same number of elements, "
            f"but got {counts} elements"
        )


def pointwise(f: Callable[..., torch.Tensor], result: Tensor, first: Tensor, *others: Tensor) -> None:
    """Compute ``result = f(first, *others)`` element by element."""
    in_place = result is first or result.same(first)
    if not in_place:
        result.resize_as(first)  # before anything is checked, and the result may be one of the others
    check_counts("t src src2", first, *others)
    if _overlaps_input(result, first, *others):
        _visit_in_order(f, result, first, *others)
        return
    if result.overlaps():
        _visit_each(f, result, (result if in_place else first), *others)
        return
    if result.numel > _PIECE and _lie_alike(result, first, *others):
        to, *sources = (t.t.view(-1) for t in (result, first, *others))
        step = _PIECE * torch.get_num_threads()
        for start in range(0, result.numel, step):
            part = slice(start, start + step)
            to[part].copy_(cast_tensor(f(*[x[part] for x in sources]), result.ty))
        return
    shape = first.size or (0,)
    values = f(first.t, *[o.t.reshape(shape) if o.size != first.size else o.t for o in others])
    result.t.copy_(cast_tensor(values, result.ty))


#: elements for each thread that are worked on at once: what is computed of them stays in the processor's cache
_PIECE = 32768


def _lie_alike(result: Tensor, *sources: Tensor) -> bool:
    """Return whether all are contiguous and each source is the result or shares no memory with it."""
    if not all(t.is_contiguous() for t in (result, *sources)):
        return False
    apart = [s for s in sources if s is not result and not s.same(result)]
    return not any(s.storage and result.storage and s.storage.block is result.storage.block for s in apart)


def apart(a: Tensor, b: Tensor) -> bool:
    """Return whether two views of one block have no element in common, such as the gates of a recurrent layer."""
    first, second = sorted(
        (v.offset, v.offset + sum((n - 1) * k for n, k in zip(v.size, v.stride, strict=True))) for v in (a, b)
    )
    if first[1] < second[0]:
        return True
    if a.dim == 2 and a.stride == b.stride and a.stride[1] == 1 and a.stride[0] > 0:  # columns of one matrix
        step = a.stride[0]
        distance = (b.offset - a.offset) % step
        return distance >= a.size[1] and step - distance >= b.size[1]
    return not bool(torch.isin(a.places(), b.places()).any())


def _overlaps_input(result: Tensor, first: Tensor, *others: Tensor) -> bool:
    """Return whether writing the result may overwrite unread elements of a source with another layout."""
    block = result.storage and result.storage.block
    if block is None or result.numel > IN_ORDER:
        return False
    shared = [s for s in (first, *others) if s.storage is not None and s.storage.block is block]
    if not shared or (shared == [first] and first.same(result)):
        return False
    if any(not s.same(result) and not apart(s, result) for s in shared):
        return True
    return any(o in shared for o in others) and result.overlaps()


def _visit_in_order(f: Callable[..., torch.Tensor], result: Tensor, *sources: Tensor) -> None:
    """Apply ``f`` one element after the other, each from what memory contains at that moment."""
    assert result.storage is not None
    flat, places = result.storage.flat, result.places().tolist()
    others = [s.places().tolist() for s in sources]
    flats = [s.storage.flat for s in sources if s.storage is not None]
    for to, *at in zip(places, *others, strict=True):
        flat[to] = cast_tensor(f(*[x[i : i + 1] for x, i in zip(flats, at, strict=True)]), result.ty)[0]


def _visit_each(f: Callable[..., torch.Tensor], result: Tensor, first: Tensor, *others: Tensor) -> None:
    """Apply ``f`` one logical element after the other, in rounds of elements that lie in different places."""
    assert result.storage is not None
    places = result.places()
    order = torch.argsort(places, stable=True)
    grouped = places[order]
    start = torch.cat([torch.tensor([True]), grouped[1:] != grouped[:-1]])
    positions = torch.arange(len(grouped))
    rank = torch.empty_like(places)
    rank[order] = positions - torch.cummax(torch.where(start, positions, 0), 0).values
    flats = [o.t.reshape(-1) for o in others]
    source = None if first.same(result) or first is result else first.t.reshape(-1)
    flat = result.storage.flat
    for turn in range(int(rank.max()) + 1):
        chosen = (rank == turn).nonzero().squeeze(1)
        at = places[chosen]
        x = flat[at] if source is None else source[chosen]
        flat[at] = cast_tensor(f(x, *[o[chosen] for o in flats]), result.ty)


def _scalar(value: float, t: Tensor) -> float:
    return cast_number(value, t.ty)


def _number_op(name: str, f: Callable[[torch.Tensor, Any], torch.Tensor], types: tuple[str, ...] = ALL_TYPES) -> None:
    """Compute ``r = f(s, number)``, with the number converted to the element type first."""

    @torch_function(name, "r s n", types=types)
    def run(r: Tensor, s: Tensor, value: float) -> None:
        number = _scalar(value, s)
        pointwise(lambda x: f(x, number), r, s)


def _tensor_op(name: str, f: Callable[..., torch.Tensor], types: tuple[str, ...] = ALL_TYPES) -> None:
    @torch_function(name, "r s T", types=types)
    def run(r: Tensor, s: Tensor, other: Tensor) -> None:
        pointwise(f, r, s, other)


def _int_divide(x: torch.Tensor, y: Any) -> torch.Tensor:
    if (y == 0) if not isinstance(y, torch.Tensor) else bool((y == 0).any()):
        raise TorchError("division by zero")
    return torch.div(x, y, rounding_mode="trunc")


def divide(x: torch.Tensor, y: Any) -> torch.Tensor:
    return x / y if x.is_floating_point() else _int_divide(x, y)


def _fmod(x: torch.Tensor, y: Any) -> torch.Tensor:
    if not isinstance(y, torch.Tensor):
        y = torch.tensor(y, dtype=x.dtype)
    return torch.fmod(x, y)


def remainder(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Compute the modulo with the sign of the divisor by TH's formulas.

    Floats give NaN for a zero divisor. For integers, C tests the sign of a product, which overflows.
    """
    if not isinstance(y, torch.Tensor):
        y = torch.tensor(y, dtype=x.dtype)
    if not x.is_floating_point():
        rest = torch.fmod(x, y)
        return torch.where(c_int(rest) * c_int(y) < 0, rest + y, rest)
    whole = torch.floor(x / y).double()  # C's floor gives a double, and so the rest is one until it is stored
    return torch.where(y == 0, torch.nan, x.double() - y.double() * whole).to(x.dtype)


def cast_back(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.to(like.dtype) if like.is_floating_point() else values.to(torch.int64).to(like.dtype)


def _shift_left(x: torch.Tensor, y: Any) -> torch.Tensor:
    return x * 2.0**y if x.is_floating_point() else shifted(torch.bitwise_left_shift, x, y)


def _shift_right(x: torch.Tensor, y: Any) -> torch.Tensor:
    return x / 2.0**y if x.is_floating_point() else shifted(without_sign, x, y)


def _bitwise(name: str, f: Callable[..., torch.Tensor]) -> None:
    def run(x: torch.Tensor, y: Any) -> torch.Tensor:
        return f(x, torch.as_tensor(y, dtype=x.dtype))

    def refuse(r: Tensor, s: Tensor, other: Any) -> None:
        raise TorchError(f"{name} is only supported for integer type tensors")

    _number_op(name, run, INTEGER_TYPES)
    _tensor_op("c" + name, run, INTEGER_TYPES)
    torch_function(name, "r s n", types=FLOAT_TYPES)(refuse)
    torch_function("c" + name, "r s T", types=FLOAT_TYPES)(refuse)


@torch_function("add", "r s n")
def add_number(r: Tensor, s: Tensor, value: float) -> None:
    number = _scalar(value, s)
    pointwise(lambda x: x + number, r, s)


@torch_function("add", "r s n=1 T")
def add_tensor(r: Tensor, s: Tensor, value: float, other: Tensor) -> None:
    number = _scalar(value, s)
    if number == 0 and r is s and r.is_contiguous() and other.is_contiguous() and r.numel == other.numel:
        return  # BLAS does not look at the other then
    if number == 1:
        pointwise(torch.add, r, s, other)
    else:
        pointwise(lambda x, y: x + number * y, r, s, other)


@torch_function("csub", "r s n")
def csub_number(r: Tensor, s: Tensor, value: float) -> None:
    number = _scalar(value, s)
    pointwise(lambda x: x - number, r, s)


@torch_function("csub", "r s n=1 T")
def csub_tensor(r: Tensor, s: Tensor, value: float, other: Tensor) -> None:
    number = _scalar(value, s)
    pointwise(lambda x, y: x - number * y, r, s, other)


_number_op("mul", lambda x, v: x * v)
_number_op("div", divide)
_number_op("lshift", _shift_left)
_number_op("rshift", _shift_right)
_tensor_op("clshift", _shift_left)
_tensor_op("crshift", _shift_right)
for _name in ("fmod", "mod"):
    _number_op(_name, _fmod)
    _tensor_op("c" + _name, _fmod)
_number_op("remainder", remainder)
_tensor_op("cremainder", remainder)
_bitwise("bitand", torch.bitwise_and)
_bitwise("bitor", torch.bitwise_or)
_bitwise("bitxor", torch.bitwise_xor)
_tensor_op("cmul", torch.mul)
_tensor_op("cdiv", divide)
_tensor_op("cpow", lambda x, y: torch.pow(x.double(), y.double()), FLOAT_TYPES)
_tensor_op("cpow", int_pow, INTEGER_TYPES)


@torch_function("clamp", "r s n n")
def clamp(r: Tensor, s: Tensor, low: float, high: float) -> None:
    low, high = _scalar(low, s), _scalar(high, s)
    pointwise(lambda x: torch.where(x < low, low, torch.where(x > high, high, x)), r, s)


def _copied(r: Tensor, s: Tensor) -> Tensor:
    """Copy ``s`` to ``r`` before further sources are read, as in Torch7: ``r`` may be one of them."""
    if r is not s:
        pointwise(lambda x: x, r, s)
    return r


@torch_function("addcmul", "r s n=1 T T")
def addcmul(r: Tensor, s: Tensor, value: float, a: Tensor, b: Tensor) -> None:
    number = _scalar(value, s)
    pointwise(lambda x, y, z: x + number * y * z, r, _copied(r, s), a, b)


@torch_function("addcdiv", "r s n=1 T T")
def addcdiv(r: Tensor, s: Tensor, value: float, a: Tensor, b: Tensor) -> None:
    number = _scalar(value, s)
    pointwise(lambda x, y, z: x + divide(number * c_int(y), z), r, _copied(r, s), a, b)


def _extremum(name: str, keep_first: Callable[[torch.Tensor, Any], torch.Tensor]) -> None:
    @torch_function(name, "R s T")
    def with_tensor(r: Tensor, s: Tensor, other: Tensor) -> None:
        pointwise(lambda x, y: torch.where(keep_first(x, y), x, y), r, s, other)

    @torch_function(name, "R s n")
    def with_number(r: Tensor, s: Tensor, value: float) -> None:
        number = _scalar(value, s)
        pointwise(lambda x: torch.where(keep_first(x, number), x, number), r, s)


_extremum("cmax", lambda x, y: x > y)
_extremum("cmin", lambda x, y: x < y)


@torch_function("zero", "X", types=(*ALL_TYPES, "Half"))
def zero(r: Tensor) -> None:
    fill(r, 0)


@torch_function("fill", "X n", types=(*ALL_TYPES, "Half"))
def fill(r: Tensor, value: float) -> None:
    number = _scalar(value, r)
    if r.numel:
        if r.overlaps():
            r.write(torch.full(r.size, number, dtype=r.t.dtype))
        else:
            r.t.fill_(number)


# ---- functions of one argument; on numbers they compute in double


def _round(x: torch.Tensor) -> torch.Tensor:
    """Round halves away from zero, as in C."""
    whole = torch.trunc(x)
    return torch.where((x - whole).abs() >= 0.5, whole + torch.sign(x), whole)


_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "log": torch.log,
    "log1p": torch.log1p,
    "exp": torch.exp,
    "cos": torch.cos,
    "acos": torch.acos,
    "cosh": torch.cosh,
    "sin": torch.sin,
    "asin": torch.asin,
    "sinh": torch.sinh,
    "tan": torch.tan,
    "atan": torch.atan,
    "tanh": torch.tanh,
    "sqrt": square_root,
    "round": _round,
    "ceil": torch.ceil,
    "floor": torch.floor,
    "trunc": torch.trunc,
    "abs": torch.abs,
    "frac": lambda x: x - torch.trunc(x),
    "rsqrt": lambda x: 1 / square_root(x),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
}


def _unary(name: str, f: Callable[[torch.Tensor], torch.Tensor], types: tuple[str, ...], numbers: bool) -> None:
    @torch_function(name, "r s", types=types)
    def on_tensor(r: Tensor, s: Tensor) -> None:
        pointwise(f, r, s)

    if numbers:

        @torch_function(name, "n", types=types)
        def on_number(value: float) -> float:
            return float(f(torch.tensor(float(value), dtype=torch.float64)))


for _name, _f in _UNARY.items():
    _unary(_name, _f, FLOAT_TYPES, numbers=True)
_unary("abs", torch.abs, ("Int", "Long"), numbers=True)
_unary("neg", torch.neg, FLOAT_TYPES, numbers=False)
_unary("cinv", lambda x: 1 / x, FLOAT_TYPES, numbers=False)
_unary("sign", lambda x: torch.nan_to_num(torch.sign(x)), ALL_TYPES, numbers=False)


@torch_function("lerp", "r s T n", types=FLOAT_TYPES)
def lerp(r: Tensor, s: Tensor, end: Tensor, weight: float) -> None:
    check_counts("t src", s, end)
    pointwise(lambda x, y: x + weight * (y - x), r, s, end)


@torch_function("lerp", "n n n", types=FLOAT_TYPES)
def lerp_numbers(a: float, b: float, weight: float) -> float:
    return a + weight * (b - a)


@torch_function("atan2", "r s T", types=FLOAT_TYPES)
def atan2(r: Tensor, s: Tensor, other: Tensor) -> None:
    pointwise(torch.atan2, r, s, other)


@torch_function("atan2", "n n", types=FLOAT_TYPES)
def atan2_numbers(y: float, x: float) -> float:
    return math.atan2(y, x)


_ROOTS = {0.5: "sqrt", -0.5: "rsqrt"}


@torch_function("pow", "r s n", types=FLOAT_TYPES)
def pow_number(r: Tensor, s: Tensor, exponent: float) -> None:
    if exponent in _ROOTS:
        return pointwise(_UNARY[_ROOTS[exponent]], r, s)
    pointwise(lambda x: torch.pow(x, exponent), r, s)


@torch_function("pow", "r n s", types=FLOAT_TYPES)
def pow_of_number(r: Tensor, base: float, s: Tensor) -> None:
    pointwise(lambda x: torch.pow(base, x), r, s)


@torch_function("pow", "n n", types=FLOAT_TYPES)
def pow_numbers(base: float, exponent: float) -> float:
    return float(torch.pow(torch.tensor(float(base), dtype=torch.float64), exponent))
