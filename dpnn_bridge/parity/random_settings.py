"""Compare the settings of layers whose random numbers are those of a reference: these contain Torch7's settings."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dpnn_bridge.base.display import described
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.noise import paired
from dpnn_bridge.objects import LuaObject

#: attributes that a run changes: rnn counts steps, and its Sequencer sets their number
_CHANGED = frozenset(("rho", "step"))


def compare_settings(module: nn.Module, converted: nn.Module, after: LuaObject) -> list[Difference]:
    """Compare the settings of each layer that uses random numbers of a reference instead of its own.

    For example, the mask of a dropout contains ``1 / (1 - p)``: the result does not depend on the ``p`` of the layer.

    Args:
        module: the module.
        converted: the conversion of ``after``.
        after: the Lua object after Torch7's run, which contains the random numbers.

    Returns:
        A failed comparison for each setting that differs.
    """
    expected = {id(obj): m for m, obj in paired(converted, after)}
    names = {id(m): name for name, m in module.named_modules()}
    found: list[Difference] = []
    for layer, obj in paired(module, after):
        other, mapping = expected.get(id(obj)), registry.mapping_of(layer)
        if other is None or not callable(mapping.replay(layer, obj)):
            continue
        path = ".".join(filter(None, ("after", names.get(id(layer), ""))))
        if not isinstance(layer, type(other)):
            found.append(_difference(path, type(layer).__name__, type(other).__name__))
            continue
        for attribute in sorted({*mapping.scalars.values(), *mapping.handled(layer)} - _CHANGED):
            value, reference = (getattr(m, attribute, None) for m in (layer, other))
            if isinstance(value, (bool, int, float, str)) and not _is_same(value, reference):
                found.append(_difference(f"{path}.{attribute}", value, reference))
    return found


def _is_same(value: Any, reference: Any) -> bool:
    if type(value) is type(reference) is float:  # such as 0.1 and 1 - 0.9
        return math.isclose(value, reference, rel_tol=1e-12)
    return value == reference


def _difference(name: str, value: Any, reference: Any) -> Difference:
    return Difference(name, float("inf"), 0.0, f"expected {described(reference)}, found {described(value)}")
