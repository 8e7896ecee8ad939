"""Declare comparisons. A new result is a ByteTensor; a given result may also have the type of the operands.

:mod:`dpnn_bridge.lua.dispatch` describes the signatures (``BR T n``) and the loops in Lua (``small``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.ops.pointwise import check_counts
from dpnn_bridge.lua.tensor import Tensor, cast_number

#: name -> operator in Lua, and an expression without branches for finite numbers: {less} is 1 if x is less, else 0
_NAMES = {
    "lt": ("<", "{less}"),
    "gt": (">", "{more}"),
    "le": ("<=", "1 - {more}"),
    "ge": (">=", "1 - {less}"),
    "eq": ("==", "1 - {differs}"),
    "ne": ("~=", "{differs}"),
}


def _comparison(name: str, f: Callable[..., torch.Tensor]) -> None:
    def lua_loop(other: str) -> tuple[str, ...]:
        less, more = (f"max(0, min(1, ({a} - {b}) * 1e300 * 1e300))" for a, b in ((other, "x"), ("x", other)))
        differs = f"min(1, abs((x - {other}) * 1e300 * 1e300))"
        sign, finite = _NAMES[name]
        loop, of_finite = f"x {sign} {other} and 1 or 0", finite.format(less=less, more=more, differs=differs)
        return "pointwise", loop, of_finite, f"{name}.Tensor_out"

    def compare(r: Tensor, s: Tensor, *other: Any) -> None:
        """Resize the result. A ByteTensor without overlap is written directly, unless the operands are ByteTensors."""
        r.resize(s.size)
        if r.ty == "Byte" and s.ty != "Byte" and not r.overlaps() and r.size:
            f(s.t, *other, out=r.t.view(torch.bool))
        else:
            r.assign(f(s.t, *other).to(torch.uint8))

    def against_number(r: Tensor, s: Tensor, value: float) -> None:
        compare(r, s, cast_number(value, s.ty))

    def against_tensor(r: Tensor, s: Tensor, other: Tensor) -> None:
        r.resize(s.size)  # as in Torch7, also if the next line raises an error
        check_counts("t src", s, other)  # the names in Torch7's message
        compare(r, s, other.t.reshape(s.size or (0,)))

    for result in ("BR", "X"):
        torch_function(name, f"{result} T n", small=lua_loop("v"))(against_number)
        torch_function(name, f"{result} T T", small=lua_loop("y"))(against_tensor)


for _name in _NAMES:
    _comparison(_name, getattr(torch, _name))


@torch_function("equal", "T T", small=("equal",))
def equal(a: Tensor, b: Tensor) -> bool:
    return a.size == b.size and bool((a.t == b.t).all())
