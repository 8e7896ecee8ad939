"""Limit the memory and computation of a run, and find the module that exceeds a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from torch import nn

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


def run_limits(limits: ResourceLimits) -> RunLimits:
    """Return a function that creates context managers, which limit the resources of one run each.

    The context manager raises :class:`ConversionLimitError`, with the path of the layer that exceeds a limit.
    """

    @contextmanager
    def limited(model: nn.Module) -> Iterator[None]:
        mode = ResourceLimitMode(limits)
        try:
            with mode:
                yield
        except ConversionLimitError as error:
            path, class_name = _innermost_module(model, error.__traceback__)
            raise ConversionLimitError(f"{error}: {ADVICE}", path=path, class_name=class_name) from error

    return limited


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
