"""What a conversion may take: what the file holds, some times over, and a fixed share. Nothing that only says so.

A few bytes can declare a layer of a billion channels, an LSTM of a billion layers, a view that repeats one element, or
modules that hold each other twice at every level. Whatever a block allocates or repeats is compared with this budget
before it happens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: bytes that tensors may take: always, and for each byte of the file's storages
BYTES, PER_BYTE = 1 << 26, 16
#: tensors that may be made: always, and for each value of the file that holds others
TENSORS, PER_VALUE = 2000, 100
#: modules that a walk through the model may meet, one that several share counted each time; per module of the file
VISITS, PER_MODULE = 20_000, 16
#: values that data may have in an output: always, and for each entry; a table reached in many ways counts as often
MOST_VALUES, PER_ENTRY = 200_000, 4

#: functions that make a tensor from sizes: they take them as they are, in a tuple or as ``size``
_SIZED = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, Tensor.new_empty, Tensor.new_zeros}
_SIZED |= {Tensor.new_ones, torch.eye, torch.empty_strided}
_FULL = {torch.full, Tensor.new_full}
_REPEATED = {Tensor.repeat, Tensor.tile, torch.tile}
_COPIED = {Tensor.clone, Tensor.contiguous, torch.clone}


class Budget:
    """Counts what one conversion takes.

    Args:
        root: what is converted.
        per_repeat: bytes that an element takes, beside its own size, if it is shown again: in text many.
    """

    def __init__(self, root: Any, per_repeat: int = 0) -> None:
        stored, values, self.entries = extent(root)
        self.bytes_left = BYTES + PER_BYTE * stored
        self.tensors_left = TENSORS + PER_VALUE * values
        self._not_shown, self._per_repeat = stored, per_repeat
        self.visits: dict[int, int] = {}
        #: False while code of the user runs
        self.watching = True

    def spend(self, count: int, what: str = "tensors") -> None:
        """Takes ``count`` bytes for one more tensor.

        Raises:
            ConversionLimitError: so many were not there any more.
        """
        self.bytes_left -= count
        self.tensors_left -= 1
        if self.bytes_left < 0 or self.tensors_left < 0:
            raise ConversionLimitError(
                f"its sizes and counts ask for more {what} than the file holds: it is damaged, or made to exhaust "
                "memory"
            )

    def show(self, count: int, size: int) -> None:
        """Takes the memory for a view of ``count`` elements of ``size`` bytes; storages are free to be shown once."""
        self._not_shown -= count * size
        repeated = min(count, max(0, -self._not_shown) // size)
        self.spend(count * size + repeated * self._per_repeat, "memory")

    def visit(self, module: nn.Module) -> None:
        """Counts how many modules a walk through a new module meets, one that is used twice counted twice."""
        count = 1 + sum(self._visits_of(child) for child in module._modules.values() if child is not None)
        self.visits[id(module)] = count
        if count > VISITS + PER_MODULE * len(self.visits):
            raise ConversionLimitError(f"its modules share modules so often that a walk would meet {count:,} of them")

    def _visits_of(self, module: nn.Module) -> int:
        if id(module) not in self.visits:
            self.visit(module)
        return self.visits[id(module)]


class Allocations(TorchFunctionMode):
    """While the block runs, tensors are made only as far as a budget reaches.

    It takes what functions that are called declare by sizes and counts. A run is measured by its operations instead
    (:mod:`~dpnn_bridge.conversion.running`). Here that would count what is made and freed in turn, for a weight
    normalization 19 times its weights where 16 are allowed, and a small model would take a sixth longer to convert.
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = _elements(func, args, kwargs) if self.budget.watching else None
        if count is not None:
            dtype = kwargs.get("dtype") or (args[0].dtype if args and isinstance(args[0], Tensor) else None)
            meta = str(kwargs.get("device")) == "meta"
            size = (dtype if isinstance(dtype, torch.dtype) else torch.get_default_dtype()).itemsize
            self.budget.spend(0 if meta else count * size, "memory")
        return func(*args, **kwargs)


def _elements(func: Any, args: Any, kwargs: Any) -> int | None:
    """How many elements a function will allocate; None for one that is not watched."""
    if func in _SIZED or func in _FULL:
        sizes = list(args[1:] if args and isinstance(args[0], Tensor) else args)
        if sizes and isinstance(sizes[0], (tuple, list)):
            sizes = list(sizes[0])
        elif func in _FULL and sizes:
            sizes = []
        named = kwargs.get("size")
        sizes = sizes or (list(named) if isinstance(named, (tuple, list)) else [])
        if func is torch.eye and len(sizes) == 1:
            sizes = sizes * 2
        return math.prod(max(0, int(n)) for n in sizes if isinstance(n, (int, float)))
    if func is torch.arange:
        numbers = [n for n in args[:3] if isinstance(n, (int, float))]
        first, last, step = (0, *numbers, 1)[:3] if len(numbers) == 1 else (*numbers, 1, 1)[:3]
        return max(0, int((last - first) / (step or 1)))
    if func in _REPEATED and isinstance(args[0], Tensor):
        times = args[1] if len(args) > 1 and isinstance(args[1], (tuple, list)) else args[1:]
        return args[0].numel() * math.prod(max(0, int(n)) for n in times)
    if func in _COPIED and isinstance(args[0], Tensor):
        return args[0].numel()
    return None


def extent(root: Any) -> tuple[int, int, int]:
    """Bytes of all storages below a value or those of a list, the number of values that hold others, and of entries;
    each once."""
    seen: set[int] = set()
    stored, entries, stack = 0, 0, list(root) if isinstance(root, list) else [root]
    while stack:
        value = stack.pop()
        if not isinstance(value, (LuaTable, LuaObject, LuaTensor, LuaStorage, LuaFunction)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, LuaTable):
            entries += len(value.entries)
            stack.extend(value.entries.values())
        elif isinstance(value, LuaObject):
            stack += [value.payload, *value.header]
        elif isinstance(value, LuaTensor):
            stack.append(value.storage)
        elif isinstance(value, LuaStorage):
            stored += value.size * value.dtype.itemsize
    return stored, len(seen), entries
