"""Declare faults of Torch7, and other versions of its source, in a class mapping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Fault:
    """One fault of a Lua class, declared in its mapping.

    Attributes:
        compared: patterns of the affected comparisons: ``output``, ``gradInput``, ``gradParams`` (all gradients of
            parameters), ``forward`` and ``backward`` (calls that fail in Torch7).
        reason: description for the report.
        mode: ``"train"`` or ``"eval"`` if the fault occurs only in that mode.
        when: function that returns whether a module of the class has the fault.
        spreads: whether the fault also affects layers whose input is a result of the module.
        repeated: whether the fault occurs only if a layer with ``LuaClass.repeats`` contains the module.
        elements: function of a module and its output that returns a mask of the affected elements, such as
            uninitialized memory. The other elements of the output are compared without them, and no other layer is
            affected. None: the fault affects the complete results.
        result: function of a module and its output that returns Torch7's output, if the fault affects it and is known
            exactly. Then the output of a model is accepted only if it agrees.
        listed: whether the lists of containers contain the affected gradient; ``nn.Container`` omits tables.
    """

    compared: tuple[str, ...]
    reason: str
    mode: str | None = None
    when: Callable[[nn.Module], bool] = lambda module: True
    spreads: bool = True
    repeated: bool = False
    elements: Callable[[nn.Module, Tensor], Tensor] | None = None
    result: Callable[[nn.Module, Any], Any] | None = None
    listed: bool = True

    def applies_to(self, module: nn.Module) -> bool:
        """Return whether a module has the fault in its current mode."""
        return self.mode in (None, "train" if module.training else "eval") and self.when(module)

    def affects(self, comparison: str) -> bool:
        """Return whether the fault affects a comparison, such as ``gradInput``."""
        return any(fnmatchcase(comparison, pattern) for pattern in self.compared)


@dataclass(frozen=True)
class OtherVersion:
    """Another version of Torch7's packages, with which a class computes other results.

    A comparison that fails is a known difference if it agrees with the results of the other version.

    Attributes:
        reason: description for the report.
        forward: the forward pass of the other version, as a function of the module and its input.
    """

    reason: str
    forward: Callable[..., Any]
