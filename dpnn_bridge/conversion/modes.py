"""Set the training and evaluation mode of all modules of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def restoring_modes(model: nn.Module) -> Iterator[None]:
    """Restore the training and evaluation modes of all modules after the ``with`` block."""
    before = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training  # not train(), in which some modules clear their state


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set all modules to evaluation mode inside the ``with`` block, then restore their modes."""
    with restoring_modes(model):
        model.eval()
        yield
