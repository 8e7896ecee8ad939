"""Keep uninitialized memory of Lua layers out of the verdict.

A Lua layer may create a buffer with ``torch.Tensor(sizes)`` and write only a part of it. The other elements are what
the memory contained before, in Torch7's reference too. While a model is verified, new memory contains 0, so that each
verification has the same verdict. If a buffer differs, the model runs again with 1 instead of 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.compare.differences import Difference, Tolerance, compare_tensor
from dpnn_bridge.conversion.convert import convert_object
from dpnn_bridge.conversion.placeholder import bridge_of, bridges_of
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.fixture import floating_buffers


@contextmanager
def new_memory(bridges: Iterable[Any], value: float) -> Iterator[None]:
    """Fill the memory of new tensors in Lua with a number inside the ``with`` block."""
    before = [(bridge, bridge.fill_new_memory(value)) for bridge in bridges]
    try:
        yield
    finally:
        for bridge, earlier in reversed(before):
            with suppress(LuaBridgeError):  # a sandbox that has ended, which may not hide the error of the block
                bridge.fill_new_memory(earlier)


@contextmanager
def _other_memory(model: nn.Module) -> Iterator[None]:
    with new_memory(bridges_of(model.modules()), 1.0):
        yield


@dataclass
class UninitializedBuffers:
    """Removes the elements of Lua layers' buffers that depend on uninitialized memory from comparisons.

    Args:
        experiment: the experiment; its runs have new memory that contains 0.
    """

    experiment: Experiment
    _other: dict[str, Tensor] = field(default_factory=dict)

    def discard(self, outcome: Outcome, notes: list[str]) -> None:
        """Compare the buffers of Lua layers that differ again, without these elements.

        Args:
            outcome: the comparisons of a run, which are changed.
            notes: notes of the report, to which the names of the buffers are added.
        """
        paths = lua_buffers(outcome)
        failed = different_buffers(outcome, paths)
        if not failed:
            return
        if not self._other:
            self._other = dict(floating_buffers(self.experiment.run(while_running=_other_memory).module))
        converted = convert_object(self.experiment.table["after"], self.experiment.options)[0]
        actual, expected = dict(floating_buffers(outcome.module)), dict(floating_buffers(converted))
        for d in failed:
            name = d.name.removeprefix("after.")
            again = _compare_initialized(d, actual[name], expected[name], self._other.get(name))
            if again is not d:
                outcome.whole = [c for c in outcome.whole if c is not d] + ([again] if again is not None else [])
                notes.append(f"Not compared: elements of {paths[d.name]} that are uninitialized memory.")


def lua_buffers(outcome: Outcome) -> dict[str, str]:
    """Return the names of the comparisons of Lua layers' buffers, with the path of each buffer in Lua."""
    paths = {id(node.module): node.path for node in outcome.nodes}
    found = {}
    for prefix, module in outcome.module.named_modules():
        if bridge_of(module) is not None:
            where = paths.get(id(module), prefix)
            for leaf in module._buffers:
                found[buffer_comparison(prefix, leaf)] = f"{where}.{leaf}" if where else leaf
    return found


def buffer_comparison(module: str, leaf: str) -> str:
    """Return the name of the comparison of a module's buffer."""
    return f"after.{module}.{leaf}" if module else f"after.{leaf}"


def different_buffers(outcome: Outcome, names: Collection[str]) -> list[Difference]:
    """Return the failed comparisons of buffers among ``names`` whose shapes agree."""
    return [d for d in outcome.whole if not d.ok and not d.mismatched and d.name in names]


def _compare_initialized(d: Difference, actual: Tensor, expected: Tensor, other: Tensor | None) -> Difference | None:
    """Compare a buffer without the elements that differ in a run with other new memory.

    Args:
        d: the comparison of all elements.
        actual, expected: the buffer, and the reference's.
        other: the buffer after the run with other new memory.

    Returns:
        The comparison of the remaining elements; None if there are none, ``d`` if all remain.
    """
    if other is None or other.shape != actual.shape:
        return d
    same = (actual == other) | (actual.isnan() & other.isnan())
    if same.all():
        return d
    if not same.any():
        return None
    return compare_tensor(d.name, actual.where(same, expected), expected, Tolerance(d.tolerance, d.tolerance))
