"""Print tensors and storages in Torch7's format."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dpnn_bridge.lua.tensor import Storage, Tensor

_LINE = 80
#: decimals after the four that are printed, if the number is halfway between two printed numbers
_HALF = "5" + 19 * "0"


def _rounded_away(value: float, conversion: str) -> float:
    """Return a number that ``%.4f`` or ``%.4e`` prints as th's LuaJIT prints ``value``: halves away from zero."""
    if f"{value:.24{conversion}}".partition(".")[2].startswith(_HALF, 4):
        return math.nextafter(value, math.copysign(math.inf, value))
    return value


class _Format:
    """The format of all numbers of a storage: integers, fixed-point (with or without a scale) or scientific.

    Attributes:
        width: characters per number; None if there are NaNs, which print all columns in one line.
        scale: the numbers are divided by it; 1 without a scale.
    """

    def __init__(self, values: torch.Tensor) -> None:
        values = values.double()
        self.scale = 1.0
        self.width: int | None = 0
        self._pattern = ""
        if not values.numel():
            return
        sizes = values.abs()
        low, high = float(sizes.min()), float(sizes.max())
        are_integers = bool((values == torch.ceil(values)).all())
        if math.isnan(low) or math.isnan(high):
            self.width, self._pattern = None, "%f"
            return
        first, last = _exponent(low), _exponent(high)
        if are_integers:
            if last > 9:
                self.width, self._pattern = 11, "%11.4e"
            else:
                self.width = int(last) + 1
                self._pattern = f"%{self.width}d"
        elif last - first > 4:
            self.width = 12 if abs(last) > 99 or abs(first) > 99 else 11
            self._pattern = f"%{self.width}.4e"
        elif last > 5 or last < 0:
            self.width, self._pattern = 7, "%7.4f"
            self.scale = math.pow(10, last - 1)
        else:
            self.width = 7 if last == 0 else int(last) + 6
            self._pattern = f"%{self.width}.4f"

    def __call__(self, value: float) -> str:
        value /= self.scale
        if ".4" in self._pattern:
            value = _rounded_away(value, self._pattern[-1])
        return self._pattern % value

    @property
    def heading(self) -> str:
        return f"{self.scale:g} *\n" if self.scale != 1 else ""


def _exponent(value: float) -> float:
    if math.isinf(value):
        return math.inf
    return math.floor(math.log10(value)) + 1 if value else 1


def _vector(values: Sequence[float], form: _Format) -> str:
    return form.heading + "".join(f"{form(v)}\n" for v in values)


def _matrix(rows: Sequence[Sequence[float]], form: _Format, indent: str = "") -> str:
    """Return the rows, in blocks of as many columns as fit into a line."""
    columns = len(rows[0])
    per_line = columns if form.width is None else (_LINE - len(indent)) // (form.width + 1)
    text = indent
    for first in range(0, columns, per_line):
        last = min(first + per_line, columns)
        if per_line < columns:
            text += ("\n" if first else "") + f"Columns {first + 1} to {last}\n{indent}"
        lead = indent
        if form.scale != 1:
            text += f"{form.heading} {indent}"
            lead = f"{indent} "
        text += lead.join(" ".join(form(v) for v in row[first:last]) + "\n" for row in rows)
    return text


def print_storage(storage: Storage) -> str:
    form = _Format(storage.flat)
    return f"{_vector(storage.flat.tolist(), form)}[{storage.class_name} of size {storage.size}]\n"


def print_tensor(tensor: Tensor) -> str:
    """Return the text of Torch7's ``print(tensor)``."""
    if not tensor.size:
        return f"[{tensor.class_name} with no dimension]\n"
    values = tensor.t.double()
    if tensor.dim == 1:
        text = _vector(values.tolist(), _Format(values))
    elif tensor.dim == 2:
        text = _matrix(values.tolist(), _Format(values))
    else:
        form = _Format(values)
        slices = []
        for counter in _counters(tensor.size[:-2]):
            rows = values[counter].tolist()
            numbers = ",".join(str(c + 1) for c in counter)
            slices.append(f"({numbers},.,.) = \n{_matrix(rows, form, ' ')}")
        text = "\n".join(slices)
    return f"{text}[{tensor.class_name} of size {'x'.join(map(str, tensor.size))}]\n"


def _counters(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all index tuples; the first index varies fastest."""
    counters: list[tuple[int, ...]] = [()]
    for n in reversed(sizes):
        counters = [(i, *rest) for rest in counters for i in range(n)]
    return counters
