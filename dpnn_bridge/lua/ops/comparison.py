"""Comparisons. A new result is a ByteTensor; a given result may also have the type of the operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dpnn_bridge.lua.dispatch import torch_function
from dpnn_bridge.lua.ops.elementwise import check_counts
from dpnn_bridge.lua.tensor import Tensor, cast_number


def _comparison(name: str, f: Callable[[torch.Tensor, Any], torch.Tensor]) -> None:
    def against_number(r: Tensor, s: Tensor, value: float) -> None:
        number = cast_number(value, s.ty)
        r.resize(s.size)
        r.assign(f(s.t, number).to(torch.uint8))

    def against_tensor(r: Tensor, s: Tensor, other: Tensor) -> None:
        check_counts("t src", s, other)
        r.resize(s.size)
        r.assign(f(s.t, other.t.reshape(s.size or (0,))).to(torch.uint8))

    for signature in ("BR T n", "X T n"):
        torch_function(name, signature)(against_number)
    for signature in ("BR T T", "X T T"):
        torch_function(name, signature)(against_tensor)


for _name in ("lt", "gt", "le", "ge", "eq", "ne"):
    _comparison(_name, getattr(torch, _name))


@torch_function("equal", "T T")
def equal(a: Tensor, b: Tensor) -> bool:
    return a.size == b.size and bool((a.t == b.t).all())
