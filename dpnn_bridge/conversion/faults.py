"""Declare faults of Torch7 in a class, where Torch7's values are not a reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn


@dataclass(frozen=True)
class Fault:
    """One fault of a Lua class, declared in its mapping.

    Attributes:
        compared: patterns of what it spoils: ``output``, ``gradInput``, ``gradParams`` (all gradients of parameters),
            ``forward`` and ``backward`` (calls that Torch7 refuses).
        reason: description for the report.
        mode: ``"train"`` or ``"eval"`` where it happens in one mode only.
        when: whether a module of the class has it.
        spreads: gradients that pass through the module carry the fault to the layers before it.
    """

    compared: tuple[str, ...]
    reason: str
    mode: str | None = None
    when: Callable[[nn.Module], bool] = lambda module: True
    spreads: bool = True

    def happens(self, module: nn.Module) -> bool:
        """Return whether Torch7 gets it wrong for this module in its present mode."""
        return self.mode in (None, "train" if module.training else "eval") and self.when(module)

    def spoils(self, comparison: str) -> bool:
        """Return whether a comparison of this kind is spoiled."""
        return any(fnmatchcase(comparison, pattern) for pattern in self.compared)
