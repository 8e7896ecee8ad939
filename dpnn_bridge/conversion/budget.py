"""Limit the memory of a conversion to a fixed amount plus a multiple of the size of the file's content.

A file of a few bytes can declare a layer of a billion channels, an LSTM of a billion layers, a view that repeats one
element, or modules that contain each other twice at every level. Before a class mapping allocates memory or repeats
elements, the size is compared with the remaining budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from dpnn_bridge.conversion.limits import OperationCost, OperationMeter, extent
from dpnn_bridge.errors import ConversionLimitError

#: maximum bytes of tensors: a fixed amount, plus an amount per byte of the file's storages
BYTES, PER_BYTE = 1 << 26, 32
#: maximum number of tensors: a fixed number, plus a number per table or object of the file
TENSORS, PER_VALUE = 2000, 100
#: maximum visits of modules in one traversal: a fixed number, plus a number per module; shared modules count each time
VISITS, PER_MODULE = 20_000, 16
#: maximum values of data in an output: a fixed number, plus a number per entry; shared tables count each time
MAX_VALUES, PER_ENTRY = 200_000, 4


class Budget:
    """Counts the bytes, tensors and module visits of one conversion.

    Args:
        root: the value to convert.
        per_repeat: additional bytes of each repeated element, such as the length of its text in JSON.
    """

    def __init__(self, root: Any, per_repeat: int = 0) -> None:
        stored, values, self.entries = extent(root)
        self.bytes_left = BYTES + PER_BYTE * stored
        self.tensors_left = TENSORS + PER_VALUE * values
        self._not_shown, self._per_repeat = stored, per_repeat  # bytes of elements that were not shown yet
        self.visits: dict[int, int] = {}
        #: False while the user's code runs, see :meth:`watched`
        self.watching = True

    @contextmanager
    def watched(self, watching: bool) -> Iterator[None]:
        """Set inside the ``with`` block whether operations count."""
        before, self.watching = self.watching, watching
        try:
            yield
        finally:
            self.watching = before

    def spend(self, count: int, what: str = "tensors", *, tensors: int = 1) -> None:
        """Subtract ``count`` bytes and ``tensors`` tensors from the budget.

        Args:
            count: number of bytes.
            what: name of the resource, for the error message.
            tensors: number of tensors.

        Raises:
            ConversionLimitError: the budget is exhausted.
        """
        self.bytes_left -= count
        self.tensors_left -= tensors
        if self.bytes_left < 0 or self.tensors_left < 0:
            raise ConversionLimitError(
                f"its sizes and counts require more {what} than the file contains: the file is damaged, or made to "
                "exhaust memory"
            )

    def show(self, count: int, size: int) -> None:
        """Subtract the memory to show ``count`` elements of ``size`` bytes each.

        Elements beyond those that the file stores are repeated, and cost ``per_repeat`` bytes more.
        """
        self._not_shown -= count * size
        repeated = min(count, max(0, -self._not_shown) // size)
        self.spend(count * size + repeated * self._per_repeat, "memory")

    def visit(self, module: nn.Module) -> None:
        """Count the modules that a traversal of a new module visits; a module that is used twice counts twice.

        Raises:
            ConversionLimitError: there are too many visits.
        """
        count = 1 + sum(self._visits_of(child) for child in module._modules.values() if child is not None)
        self.visits[id(module)] = count
        if count > VISITS + PER_MODULE * len(self.visits):
            raise ConversionLimitError(
                f"its modules contain shared modules so often that a traversal would visit {count:,} modules"
            )

    def _visits_of(self, module: nn.Module) -> int:
        if id(module) not in self.visits:
            self.visit(module)
        return self.visits[id(module)]


class BudgetMode(OperationMeter):
    """Subtracts the memory of each operation from a budget while the ``with`` block runs.

    Memory that is freed again counts too: a weight normalization allocates 19 times the bytes of its weights.
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def take(self, cost: OperationCost) -> None:
        if self.budget.watching:
            self.budget.spend(cost.kept + cost.scratch, "memory", tensors=int(cost.makes))
