"""Limit the memory and computation of a run, and find the module that exceeds a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

from torch import nn

from dpnn_bridge.compare.limited import limited_comparisons
from dpnn_bridge.conversion import fields
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.parity.layers import tree

#: function of a model that returns a context manager, which limits one forward or backward pass
RunLimits = Callable[[nn.Module], AbstractContextManager[object]]

ADVICE = (
    "a size in the file is damaged, or was made to exhaust memory. If you trust the file, unbounded=True "
    "(--unbounded) runs it anyway"
)


class BoundedRuns:
    """A function that creates context managers, which limit the resources of one run each.

    The context manager raises :class:`ConversionLimitError`, with the path of the layer that exceeds a limit.
    """

    def __init__(self, limits: ResourceLimits) -> None:
        self.limits = limits

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[None]:
        mode = ResourceLimitMode(self.limits)
        try:
            with mode:
                yield
        except ConversionLimitError as error:
            path, class_name = _innermost_module(model, error.__traceback__)
            raise ConversionLimitError(f"{error}: {ADVICE}", path=path, class_name=class_name) from error


def run_limits(limits: ResourceLimits) -> RunLimits:
    """Return a function that limits the resources of runs, see :class:`BoundedRuns`."""
    return BoundedRuns(limits)


def comparing(running: RunLimits, *references: Any) -> AbstractContextManager[object]:
    """Return a context manager that limits comparisons, if runs are limited; see ``compare/limited.py``.

    Args:
        running: limits of the runs.
        *references: Lua values with the expected results, which Lua or Torch7 may have computed after the run.
    """
    if not isinstance(running, BoundedRuns):
        return nullcontext()
    more = ResourceLimits(references)
    limit, steps = max(running.limits.bytes, more.bytes), max(running.limits.steps, more.steps)
    return limited_comparisons(limit, steps, ADVICE)


def _innermost_module(model: nn.Module, traceback: TracebackType | None) -> tuple[str, str]:
    """Return the path and Lua class of the innermost module in a traceback; empty strings for a backward pass."""
    nodes = {id(node.module): node for node in tree(model)}
    found = ("", "")
    while traceback is not None:
        node = nodes.get(id(traceback.tb_frame.f_locals.get("self")))
        if node is not None:
            record = fields.record_of(node.module)
            found = node.path, record.class_name if record else type(node.module).__name__
        traceback = traceback.tb_next
    return found
