"""Measure and limit the memory and computation of operations whose sizes come from a file.

A file of a few bytes can declare a layer of a billion channels, an upsampling by 1,000, a padding of a million, or an
endlessly repeated layer. :class:`OperationMeter` is a context manager that measures each PyTorch operation before it
runs, also in the backward pass. Two modes use it: :class:`ResourceLimitMode` limits a run of a model to a fixed amount
plus a multiple of the size of the file and the input (:class:`ResourceLimits`), and
:class:`~dpnn_bridge.conversion.budget.BudgetMode` limits the memory of a conversion.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dpnn_bridge.base.graph import values_in
from dpnn_bridge.base.steps import steps_taken
from dpnn_bridge.conversion.result_sizes import RESULTS
from dpnn_bridge.conversion.work import broadcast, elements, indexed, padded, products, work_of
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.objects import LuaStorage, LuaTable

#: maximum bytes of all results in a run: a constant, plus an amount per byte, table and object of the file and input
BYTES, PER_BYTE = 1 << 26, 1 << 10
#: maximum number of steps (element reads, element writes and multiply-adds): a constant, plus an amount as above
STEPS, STEPS_PER_BYTE = 1 << 29, 1 << 17
#: additional steps of every operation that computes: in 10 us, a large operation takes about as many
STEPS_PER_OPERATION = 1 << 15
#: steps of each returned view, and of each call of a module
STEPS_PER_VIEW = 1 << 15
#: maximum number of dimensions of a view's source
_MAX_DIMENSIONS = 64
#: steps of each value in the nested lists with which a module is called; a list that occurs twice counts twice
STEPS_PER_VALUE = 1 << 10

#: steps of the first prediction of an operation for some sizes, about 0.1 ms
STEPS_PER_PREDICTION = 1 << 18

#: operations whose results are about as large as their inputs, or smaller
_NO_LARGER_NAMES = """
    cat stack copy clone _to_copy zeros_like ones_like empty_like full_like rand_like randn_like _unsafe_view
    _reshape_alias _softmax _log_softmax _softmax_backward_data _log_softmax_backward_data native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training native_dropout native_layer_norm gather sort
    topk max min argmax argmin cumsum scatter scatter_add index_add index_copy index_put tril triu
    flip roll nll_loss_forward nll_loss2d_forward _unique2 _local_scalar_dense scalar_tensor
"""
_NO_LARGER = frozenset(_NO_LARGER_NAMES.split())
#: operations of these that also return an index for each element
_INDEXING = frozenset(["sort", "topk", "max", "min", "argmax", "argmin", "_unique2"])
#: pointwise operations that broadcast their inputs and lack the tag ``pointwise``
_BROADCASTING_NAMES = """
    floor_divide mse_loss smooth_l1_loss huber_loss binary_cross_entropy where lerp addcmul masked_select
"""
_BROADCASTING = frozenset(_BROADCASTING_NAMES.split())
#: operations that create a tensor from sizes
_SIZED_NAMES = """
    empty zeros ones rand randn full new_empty new_zeros new_ones new_full empty_strided
"""
_SIZED = frozenset(_SIZED_NAMES.split())
#: operations that read a window for each result element -> position of the kernel size in the arguments
_WINDOW = {
    "max_pool2d_with_indices": 1,
    "max_pool3d_with_indices": 1,
    "avg_pool2d": 1,
    "avg_pool3d": 1,
    "fractional_max_pool2d": 1,
    "fractional_max_pool3d": 1,
}


def extent(root: Any) -> tuple[int, int, int]:
    """Return the bytes of all storages in a Lua value or a list of them, the number of values, and of table entries.

    A storage or table that occurs several times counts once. A storage without elements in the file does not count.
    """
    stored = values = entries = 0
    for value in values_in(*(root if isinstance(root, list) else [root])):
        values += 1
        if isinstance(value, LuaTable):
            entries += len(value)
        elif isinstance(value, LuaStorage) and value.given:
            stored += value.size * value.dtype.itemsize
    return stored, values, entries


class ResourceLimits:
    """The resource limits of one run.

    Args:
        sources: Lua values, such as the contents of files and the input. Their sizes determine the limits; a storage
            that occurs twice counts once.
        more: additional bytes.
    """

    def __init__(self, sources: Iterable[Any] = (), more: int = 0) -> None:
        stored, values, _ = extent(list(sources))
        size = stored + values + more
        self.bytes, self.steps = BYTES + PER_BYTE * size, STEPS + STEPS_PER_BYTE * size


class OperationCost(NamedTuple):
    """The cost of an operation.

    Attributes:
        kept: bytes of its results.
        scratch: bytes that it allocates and frees again.
        steps: elements that it reads and writes, plus multiply-adds.
        makes: whether it only creates or copies a tensor.
    """

    kept: int
    scratch: int
    steps: int
    makes: bool = False


class EagerMode(TorchDispatchMode):
    """A mode that does not support compiled models, so PyTorch does not import its compiler, which takes a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class OperationMeter(EagerMode):
    """Measures every operation before it runs and passes its cost to :meth:`take`, inside the ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Any, OperationCost] = {}

    def take(self, cost: OperationCost) -> None:
        """Count the cost of an operation; raise an error to prevent the operation."""
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _KINDS.get(func) or _kind(func)
        sizes = padded(args) if any(t.is_nested for t in _tensors(args)) else args
        if kind is Kind.VIEW:
            if isinstance(args[0], Tensor) and args[0].dim() > _MAX_DIMENSIONS:  # all operations read the sizes
                raise ConversionLimitError(f"it computes a tensor with more than {_MAX_DIMENSIONS} dimensions")
            self.take(OperationCost(0, 0, _views(func, sizes) * STEPS_PER_VIEW))
        else:
            kept, scratch, steps, _ = self._cost(kind, func, sizes, kwargs or {})
            work = work_of(func, _is_known(func, kind))
            if work is not None:
                steps += work(sizes)
            if _is_on_meta(args, kwargs):
                kept = scratch = 0
            makes = kind is Kind.OTHER or func.overloadpacket.__name__ == "clone"
            self.take(OperationCost(kept, scratch, steps + STEPS_PER_OPERATION, makes))
        return func(*args, **kwargs) if kwargs else func(*args)

    def _cost(self, kind: Kind, func: Any, args: Any, kwargs: Any) -> OperationCost:
        tensors = _tensors(args)
        if kind is Kind.POINTWISE:
            created = max(broadcast(tensors), *map(elements, tensors)) if tensors else 1
            return OperationCost(created * _itemsize(tensors), 0, created)
        read = sum(map(elements, tensors))
        if kind is Kind.NO_LARGER:
            size = max(_itemsize(tensors), _dtype_size(kwargs)) + 8 * (func.overloadpacket.__name__ in _INDEXING)
            return OperationCost(read * size, 0, read)
        if kind is Kind.IN_PLACE:
            return OperationCost(0, 0, read)
        formula = _FORMULAS.get(func.overloadpacket.__name__)
        if formula is not None:
            created, multiplications = formula(args)
            return OperationCost(
                created * (_dtype_size(kwargs) or _itemsize(tensors)), 0, read + created + multiplications
            )
        key = func, *map(_key, args), *((k, _key(v)) for k, v in kwargs.items())
        if key not in self._known:
            self.take(OperationCost(0, 0, STEPS_PER_PREDICTION))
            self._known[key] = _predicted(func, args, kwargs)
        return self._known[key]


class ResourceLimitMode(OperationMeter):
    """Limits the resources of all operations, module calls and Python loops over numbers inside the ``with`` block.

    Raises:
        ConversionLimitError: an operation exceeds a limit; raised before the operation runs.
    """

    def __init__(self, limits: ResourceLimits) -> None:
        super().__init__()
        self._bytes, self._steps = limits.bytes, limits.steps
        self._limits = limits

    def __enter__(self) -> ResourceLimitMode:
        self._thread = threading.get_ident()
        self._calls = register_module_forward_pre_hook(self._called)
        self._loops = steps_taken(lambda steps: self.take(OperationCost(0, 0, steps)))
        self._loops.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._calls.remove()
        try:
            self._loops.__exit__(None, None, None)
        finally:
            super().__exit__(*error)

    def _called(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:  # the hook is global to all threads
            return
        self.take(OperationCost(0, 0, STEPS_PER_VIEW))
        nested: list[Any] = list(args)  # lists that contain lists twice at every level have no end
        while nested:
            value = nested.pop()
            if isinstance(value, (list, tuple, dict)):
                self.take(OperationCost(0, 0, len(value) * STEPS_PER_VALUE))
                nested.extend(value.values() if isinstance(value, dict) else value)

    def take(self, cost: OperationCost) -> None:
        self._bytes -= cost.kept
        self._steps -= cost.steps
        if self._bytes < cost.scratch or self._steps < 0:
            raise ConversionLimitError(self._message(self._bytes < cost.scratch))

    def _message(self, large: bool) -> str:
        limit = f"{self._limits.bytes >> 20:,} MiB of results" if large else f"{self._limits.steps:.1g} steps"
        return f"running it takes more than {limit}, the limit for the size of the file and the input"


class Kind(Enum):
    """Types of operations, by the size of their results."""

    VIEW, POINTWISE, NO_LARGER, IN_PLACE, OTHER = range(1, 6)


_KINDS: dict[Any, Kind] = {}


def _kind(func: Any) -> Kind:
    name = func.overloadpacket.__name__
    in_place = name.endswith("_") and func._schema.is_mutable and "resize" not in name
    # the gradient of an input has the input's size, unless an argument specifies the size
    sizes = ("size", "num_weights")
    gradient = name.endswith("_backward") and not any(s in a.name for a in func._schema.arguments for s in sizes)
    if func.is_view:
        kind = Kind.VIEW
    elif in_place:
        kind = Kind.IN_PLACE
    elif torch.Tag.pointwise in func.tags or name in _BROADCASTING:
        kind = Kind.POINTWISE
    elif (
        torch.Tag.reduction in func.tags
        or name in _NO_LARGER
        or (gradient and func.overloadpacket not in flop_registry)
    ):
        kind = Kind.NO_LARGER
    else:
        kind = Kind.OTHER
    return _KINDS.setdefault(func, kind)


@functools.cache
def _is_known(func: Any, kind: Kind) -> bool:
    """Return whether :meth:`OperationMeter._cost` measures all work of an operation, unless :mod:`.work` adds some."""
    name = func.overloadpacket.__name__
    known = kind in (Kind.POINTWISE, Kind.NO_LARGER)
    if kind is Kind.IN_PLACE:  # the tags are those of the operation that returns a new tensor
        base = getattr(torch.ops.aten, name.removesuffix("_"), None)
        found = [_kind(getattr(base, overload)) for overload in base.overloads()] if base is not None else []
        known = Kind.POINTWISE in found or Kind.NO_LARGER in found
    return known or name in _FORMULAS or name in RESULTS or func.overloadpacket in flop_registry


def _views(func: Any, args: Any) -> int:
    """Return the number of views that an operation returns."""
    name = func.overloadpacket.__name__
    if name == "split_with_sizes":
        return len(args[1])
    if name in ("unbind", "split"):
        value, *rest = args
        dim = rest[-1] if len(rest) > (name == "split") else 0
        return -(-value.shape[dim] // (max(1, rest[0]) if name == "split" else 1)) if value.dim() else 1
    return 1


def _tensors(args: Any) -> list[Tensor]:
    found = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += (v for v in value if isinstance(v, Tensor))
    return found


def _is_on_meta(args: Any, kwargs: Any) -> bool:
    """Return whether an operation computes on the meta device, whose tensors take no memory."""
    device = kwargs.get("device") if kwargs else None
    return device.type == "meta" if device is not None else any(t.is_meta for t in _tensors(args)[:1])


def _itemsize(tensors: list[Tensor]) -> int:
    """Return the largest size of an element in bytes; an operation on integers may return 8 bytes for each."""
    return max([t.itemsize if t.is_floating_point() else 8 for t in tensors], default=8)


def _dtype_size(kwargs: Any) -> int:
    """Return the bytes of an element of the ``dtype`` in the keyword arguments of an operation, or 0."""
    dtype = kwargs.get("dtype")
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 0


def _of_sizes(args: Any) -> tuple[int, int]:
    return math.prod(next(a for a in args if isinstance(a, (list, tuple)))), 0


def _of_counts(args: Any) -> tuple[int, int]:
    """Return the number of counts of ``bincount(indices, weights, minlength)``."""
    found = int(args[0].max()) + 1 if args[0].numel() else 0
    return max([found, *args[2:]]), 0


def _of_matrices(a: Tensor, b: Tensor) -> tuple[int, int]:
    return math.prod(a.shape[:-1]) * b.shape[-1], products(a, b)


#: operation -> function of its arguments that returns the numbers of created elements and of multiply-adds
_FORMULAS: dict[str, Callable[[Any], tuple[int, int]]] = {
    **dict.fromkeys(_SIZED, _of_sizes),
    "index": lambda args: (indexed(args), 0),
    "embedding": lambda args: (args[1].numel() * args[0].shape[-1], 0),
    "bincount": _of_counts,
    "repeat_interleave": lambda args: (int(args[0].sum()), 0),
    "grid_sampler_2d": lambda args: (math.prod([*args[0].shape[:2], *args[1].shape[1:3]]), 0),
    "multilabel_margin_loss_forward": lambda args: (args[0].numel(), math.prod([args[0].numel(), *args[0].shape[-1:]])),
    "_trilinear": lambda args: (args[0].shape[0] * args[1].shape[0], args[0].shape[0] * args[1].numel()),
    "mm": lambda args: _of_matrices(*args[:2]),
    "bmm": lambda args: _of_matrices(*args[:2]),
    "addmm": lambda args: _of_matrices(*args[1:3]),
    "baddbmm": lambda args: _of_matrices(*args[1:3]),
}


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.layout
    return tuple(map(_key, value)) if isinstance(value, (list, tuple)) else repr(value)


def _predicted(func: Any, args: Any, kwargs: Any) -> OperationCost:
    """Estimate the cost of an operation from the sizes of its results, usually by running it on the meta device."""
    name, read = func.overloadpacket.__name__, sum(map(elements, _tensors(args)))
    try:
        if name in RESULTS:
            result = RESULTS[name](*args)
        else:
            result = func(*map(_without_memory, args), **_on_meta(func, kwargs))
    except Exception:  # not supported on the meta device: sparse tensors, sizes that depend on values
        return OperationCost(read * 8, 0, read)
    results = _tensors(result if isinstance(result, (list, tuple)) else [result])
    created, kept, scratch = sum(t.numel() for t in results), sum(t.numel() * t.itemsize for t in results), 0
    steps = read + created
    if func.overloadpacket in flop_registry:
        multiplications = flop_registry[func.overloadpacket](*args, **kwargs, out_val=result) // 2
        steps += multiplications
        if "convolution" in name and results:  # it may unfold the input or the output into columns, once per gradient
            backward = name.endswith("backward")
            weight, times = args[2 if backward else 1], sum(args[-1][:2]) if backward else 1
            scratch = multiplications // max(1, weight.shape[0] * times) * weight.itemsize
    elif name in _WINDOW:
        window = args[_WINDOW[name]]
        steps += created * math.prod(window if isinstance(window, (list, tuple)) else (window,))
    elif name.lstrip("_").startswith("adaptive"):  # the windows overlap by one element, or contain it several times
        sizes = args[0].shape[-len(args[1]) :]
        steps += read // max(1, math.prod(sizes)) * math.prod(map(sum, zip(sizes, args[1], strict=True)))
    elif name == "mkldnn_rnn_layer":
        steps += math.prod(args[0].shape[:2]) * sum(w.numel() for w in args[1:5])
    return OperationCost(kept, scratch, steps)


def _without_memory(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return type(value)(map(_without_memory, value)) if type(value) in (list, tuple) else value


def _on_meta(func: Any, kwargs: Any) -> dict[str, Any]:
    found = {k: _without_memory(v) for k, v in kwargs.items() if k not in ("pin_memory", "generator")}
    if any(a.name == "device" for a in func._schema.arguments):
        found["device"] = "meta"
    return found
