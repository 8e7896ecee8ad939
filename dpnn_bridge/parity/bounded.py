"""Limit runs of a model to the resources that its files allow. An error names the module that needs more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from torch import nn

from dpnn_bridge.conversion import fields
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.parity.layers import tree

#: a context for a run of a model, forward or backward
Bounds = Callable[[nn.Module], AbstractContextManager[object]]

ADVICE = (
    "a size in it is damaged, or was made to exhaust memory. If you trust the file, bounded=False "
    "(--unbounded) runs it "
    "anyway"
)


def bounds(allowance: ResourceLimits) -> Bounds:
    """Return a context that limits the resources of each run.

    The context that it makes raises a :class:`ConversionLimitError` with the path of the layer.
    """

    @contextmanager
    def running(model: nn.Module) -> Iterator[None]:
        mode = ResourceLimitMode(allowance)
        try:
            with mode:
                yield
        except ConversionLimitError as error:
            path, class_name = _place(model, error.__traceback__)
            raise ConversionLimitError(f"{error}: {ADVICE}", path=path, class_name=class_name) from error

    return running


def _place(model: nn.Module, traceback: TracebackType | None) -> tuple[str, str]:
    """Return path and Lua class of the innermost module in an error's traceback; None in backward."""
    nodes = {id(node.module): node for node in tree(model)}
    found = ("", "")
    while traceback is not None:
        node = nodes.get(id(traceback.tb_frame.f_locals.get("self")))
        if node is not None:
            record = fields.record_of(node.module)
            found = node.path, record.class_name if record else type(node.module).__name__
        traceback = traceback.tb_next
    return found
