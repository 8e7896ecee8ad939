"""Define the report of a port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dpnn_bridge.base.json_text import finite
from dpnn_bridge.base.notebook import table

if TYPE_CHECKING:
    from dpnn_bridge.porting.sides import Step


@dataclass(frozen=True)
class Match:
    """The origin of a parameter of the target.

    Attributes:
        parameter: name in the module.
        source: Lua paths of the layers with the values, separated by commas; empty for neutral values.
        form: description of a rearrangement, such as ``"gates in the order (1, 2, 4, 3)"``; empty without one.
    """

    parameter: str
    source: str
    form: str = ""


@dataclass(frozen=True)
class Deviation:
    """An operation of the module that deviates from the source.

    Attributes:
        layer: name of the layer in the module; empty if the module itself calls the operation.
        line: ``file:line`` of the user's code that calls the operation; empty if only PyTorch's own modules call it.
        source: Lua path of the layer of the source with the same input; empty if there is none.
        reason: description of both operations, and a fix.
    """

    layer: str
    line: str
    source: str
    reason: str

    def __str__(self) -> str:
        where = " at ".join(p for p in (self.layer or "the module", self.line) if p)
        return f"{where}: {self.reason}" + (f" (source: {self.source})" if self.source else "")


@dataclass
class PortReport:
    """The result of :func:`dpnn_bridge.port`.

    Attributes:
        equal: whether the results of all operations with weights, and the output, are equal on two inputs, and no
            parameter is in ``unset``.
        difference: largest difference of compared values, relative to the largest element.
        first: the first deviation, or None.
        matches: one :class:`Match` for each parameter that was set.
        notes: differences that matter in training only, moved biases, layouts.
        unused: Lua paths of layers that the source's output depends on and whose weights are in no parameter.
        unset: parameters of the module without values from the source, except parameters in ``allow_unset``.
        later: the deviations that remain if the earlier ones are fixed; empty unless ``later=True``.
        sides: the operations of the source and of the module, for :func:`~dpnn_bridge.porting.port_page`.
    """

    equal: bool
    difference: float
    first: Deviation | None
    matches: list[Match] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    later: list[Deviation] = field(default_factory=list)
    sides: tuple[list[Step], list[Step]] = field(default=([], []), repr=False)
    _fill: Callable[[], None] | None = field(default=None, repr=False)

    def apply(self) -> None:
        """Write the weights that were found into the module, even if the networks are not equal."""
        if self._fill is not None:
            self._fill()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON; infinite numbers are strings such as ``"inf"``."""
        found = {
            "equal": self.equal,
            "difference": self.difference,
            **{name: getattr(self, name) for name in ("notes", "unused", "unset")},
            "first": asdict(self.first) if self.first else None,
            "later": [asdict(deviation) for deviation in self.later],
            "matches": [asdict(m) for m in self.matches],
        }
        return finite(found)

    def _repr_html_(self) -> str:
        """Return the verdict and the table of the parameters, for notebooks."""
        head, *lines = str(self).splitlines()
        rows = [(m.parameter, m.source, m.form) for m in self.matches]
        return table(head, ("parameter", "source", "form"), rows, lines)

    def __str__(self) -> str:
        if self.equal:
            head = f"equal: largest relative difference {self.difference:.1e}, {len(self.matches)} parameters"
        else:
            head = f"not equal: {self.first}"
        later = [f"  if that is fixed, {deviation}" for deviation in self.later]
        return "\n".join([head, *later, *(f"  {note}" for note in self.notes)])
