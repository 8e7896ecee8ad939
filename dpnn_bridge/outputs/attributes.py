"""Compare the settings of two modules of the same class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from dpnn_bridge.conversion.stale import is_plain
from dpnn_bridge.conversion.ties import ATTRIBUTES
from dpnn_bridge.modules.nn.nngraph import GModule

#: attributes that are not compared: other code compares them, or they are the position in a sequence
NOT_COMPARED = {"training", "lua_record", *ATTRIBUTES, "remembering", "step", "keeps_std"}
#: attributes that :func:`~dpnn_bridge.modules.nn.batch_normalization.accept_single_samples` sets
SINGLE = {"batch_dims", "is_single"}


def changed_attributes(wanted: nn.Module, fresh: nn.Module) -> Iterator[str]:
    """Yield the names of a module's attributes with numbers, strings or dtypes whose values a new module lacks."""
    if isinstance(wanted, GModule):
        return  # its settings are in the source code of its class
    for name, value in vars(wanted).items():
        is_setting = not name.startswith("_") and name not in NOT_COMPARED | SINGLE and is_plain(value)
        if is_setting and not _same(value, vars(fresh).get(name)):
            yield name


def _same(a: Any, b: Any) -> bool:
    """Return whether two settings are equal; 3 and (3, 3) are the same size, and NaN equals NaN."""
    if isinstance(a, tuple) != isinstance(b, tuple):
        a, b = (v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for v in (a, b))
    return a == b or (a != a and b != b)
