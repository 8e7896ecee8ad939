"""Limit the memory and time of a run, and name the module that exceeds a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from torch import nn

from dpnn_bridge.conversion import fields
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.parity.layers import tree

#: context manager that limits one run of a model, forward or backward
RunLimits = Callable[[nn.Module], AbstractContextManager[object]]

ADVICE = (
    "a size in it is damaged, or was made to exhaust memory. If you trust the file, bounded=False (--unbounded) runs "
    "it anyway"
)


def run_limits(limits: ResourceLimits) -> RunLimits:
    """Return a context manager that limits the resources of one run.

    It raises a :class:`ConversionLimitError` with the path of the layer that exceeds a limit.
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
    """Return path and Lua class of the innermost module in a traceback; empty strings in a backward pass."""
    nodes = {id(node.module): node for node in tree(model)}
    found = ("", "")
    while traceback is not None:
        node = nodes.get(id(traceback.tb_frame.f_locals.get("self")))
        if node is not None:
            record = fields.record_of(node.module)
            found = node.path, record.class_name if record else type(node.module).__name__
        traceback = traceback.tb_next
    return found
