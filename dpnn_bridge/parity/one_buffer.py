"""Find the results that change because Torch7 has one buffer for all uses of a module that occurs several times.

A later use overwrites the result of an earlier use. This matters only where the earlier result is read again, as in a
table of results, not in an ``nn.Sequential``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare import nested
from dpnn_bridge.parity.influence import Summary, Unused, summary


class OneBuffer:
    """A forward pass as in Torch7, where each of some modules has one buffer for its results.

    Args:
        unused: the model before its run.
        repeated: the modules that occur several times.

    Attributes:
        output: the output of this forward pass, after :meth:`affected`.
        used: the ``id`` of each of these modules that ran several times, after :meth:`affected`.
    """

    output: Any = None
    used: frozenset[int] = frozenset()

    def __init__(self, unused: Unused, repeated: Iterable[nn.Module]) -> None:
        chosen = {id(m) for m in repeated}
        self._unused = unused
        self._repeated = [i for i, number in enumerate(unused.ids) if number in chosen]

    def affected(self, forward: Callable[[nn.Module], Any]) -> set[int] | None:
        """Return the ``id`` of each module whose input or output changes; None if that cannot be found.

        Args:
            forward: function that runs the model on the input of the reference.
        """
        plain, shared = self._unused.copy(), self._unused.copy()
        try:
            with torch.no_grad():
                _, expected, uses = _summaries(plain, forward)
                self.used = frozenset(self._unused.ids[i] for i in self._repeated if uses[i] > 1)
                modules = list(shared.modules())
                with _shared_buffers([modules[i] for i in self._repeated]):
                    self.output, actual, _ = _summaries(shared, forward)
        except Exception:  # a layer does not accept the other values, as in Torch7
            return None
        return {number for i, number in enumerate(self._unused.ids) if expected.get(i) != actual.get(i)}


@contextmanager
def _shared_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Write all results of each module into one tensor, unless a result is a view of an input."""
    buffers: dict[tuple[nn.Module, int], Tensor] = {}

    def after_forward(module: nn.Module, args: Any, output: Any) -> Any:
        inputs = {storage_id(t) for t in nested.tensors(args)}
        position = count()

        def in_buffer(result: Tensor) -> Tensor:
            if storage_id(result) in inputs:
                return result
            key = module, next(position)
            if key not in buffers or buffers[key].dtype != result.dtype:
                buffers[key] = result.clone()
            return buffers[key].resize_(result.shape).copy_(result)

        return nested.map_tensors(in_buffer, output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(after_forward).remove)
        yield


def _summaries(
    model: nn.Module, forward: Callable[[nn.Module], Any]
) -> tuple[Any, dict[int, list[Summary]], Counter[int]]:
    """Run a model; return its output, summaries of each module's last input and output, and the numbers of calls."""
    found: dict[int, list[Summary]] = {}
    calls: Counter[int] = Counter()

    def record(i: int) -> Callable[..., None]:
        def after_forward(module: nn.Module, args: Any, output: Any) -> None:
            calls[i] += 1
            found[i] = [summary(t) for t in nested.tensors((args, output))]

        return after_forward

    with ExitStack() as stack:
        for i, module in enumerate(model.modules()):
            stack.callback(module.register_forward_hook(record(i)).remove)
        output = forward(model)
    return output, found, calls
