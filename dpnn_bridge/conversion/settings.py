"""Replace settings of layers that are numpy scalars or lists by Python numbers and tuples during a conversion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn


@contextmanager
def plain_settings(root: nn.Module) -> Iterator[None]:
    """Replace numpy scalars by Python numbers, and lists in stock layers by tuples, inside the ``with`` block.

    ``nn.Linear(np.prod(shape), 5)`` has a numpy scalar as an attribute, and ``nn.MaxPool2d([2, 3])`` a list. Files
    cannot store numpy scalars, and layers that are created from files have tuples.
    """
    changed = []
    for module in root.modules():
        stock = type(module).__module__.startswith("torch.nn.")
        for name, value in vars(module).items():
            if not name.startswith("_") and (plain := _plain(value, stock)) is not value:
                changed.append((vars(module), name, value, plain))
    for attributes, name, _, plain in changed:
        attributes[name] = plain
    try:
        yield
    finally:
        for attributes, name, value, _ in changed:
            attributes[name] = value


def _plain(value: Any, stock: bool) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if stock and (type(value) is list or (type(value) is tuple and any(isinstance(v, np.generic) for v in value))):
        return tuple(_plain(v, stock) for v in value)
    return value
