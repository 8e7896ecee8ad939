"""Declare brackets (``t[i]``, ``t[{...}]``), ``index*`` and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dpnn_bridge.lua.arguments import (
    as_long,
    as_number,
    check_end,
    check_number,
    check_real,
    check_tensor,
    describe,
    dimension,
)
from dpnn_bridge.lua.dispatch import ALL_TYPES, native, torch_function
from dpnn_bridge.lua.ops.copying import copy_into
from dpnn_bridge.lua.ops.elementwise import fill
from dpnn_bridge.lua.ops.pointwise import pointwise
from dpnn_bridge.lua.ops.shape import element, narrowed, selected
from dpnn_bridge.lua.tensor import Storage, Tensor, TorchError, cast_number

# ---- brackets; Lua passes a table index as flat numbers, see `_spec`


def _zero_based(position: float, count: int) -> int:
    """Convert a 1-based or negative position to a 0-based one."""
    index = as_long(position)
    return index - 1 if index > 0 else index + count if index < 0 else -1


def get_number(t: Tensor, index: float) -> Tensor | float:
    """Return ``t[i]``."""
    if not t.size:
        raise TorchError("bad argument #1 (empty tensor)")
    at = _zero_based(index, t.size[0])
    if not 0 <= at < t.size[0]:
        raise TorchError("bad argument #2 (out of range)")
    if len(t.size) == 1:
        return element(t, t.offset + at * t.stride[0])
    return selected(t, 0, at)


def put_number(t: Tensor, index: float, value: Any) -> None:
    """Set ``t[i] = value``."""
    if not t.size:
        raise TorchError("bad argument #1 (empty tensor)")
    at = _zero_based(index, t.size[0])
    if isinstance(value, str):
        check_number(value, 3)
        value = check_real(value, 3, t.ty)
    if len(t.size) == 1 and not isinstance(value, Tensor):
        number = cast_number(check_number(value, 3), t.ty)
        if not 0 <= at < t.size[0]:
            raise TorchError("bad argument #2 (out of range)")
        assert t.storage is not None
        t.storage.flat[t.offset + at * t.stride[0]] = number
    else:
        store(narrowed(t, 0, at, 1), value)


def store(t: Tensor, value: Any) -> None:
    if isinstance(value, Tensor):
        copy_into(t, value)
    elif isinstance(value, str) or describe(value) == "number":
        fill(t, check_number(value, 3))
    else:
        raise TorchError(f"bad argument #3 (torch.*Tensor expected, got {describe(value)})")


def apply_index(t: Tensor, spec: Sequence[Any]) -> tuple[Tensor, int | None]:
    """Apply an index ``t[{...}]``.

    Args:
        t: the tensor.
        spec: per dimension a number, or a pair (first, last): ``(None, None)`` is the complete
            dimension, ``(first, None)`` one position.

    Returns:
        The view, and the index in the storage if the result is a single element, else None.
    """
    if len(spec) > t.dim:
        raise TorchError("bad argument #2 (too many indices provided)")
    d = 0
    for entry in spec:
        count = t.size[d]
        if isinstance(entry, tuple):
            first, last = entry
            begin = 0 if first is None else _zero_based(first, count)
            end = count - 1 if last is None and first is None else begin if last is None else _zero_based(last, count)
            if not 0 <= begin < count:
                raise TorchError("bad argument #2 (start index out of bound)")
            if not 0 <= end < count:
                raise TorchError("bad argument #2 (end index out of bound)")
            if end < begin:
                raise TorchError("bad argument #2 (end index must be greater or equal to start index)")
            t = narrowed(t, d, begin, end - begin + 1)
            d += 1
        else:
            at = _zero_based(entry, count)
            if not 0 <= at < count:
                raise TorchError("bad argument #2 (index out of bound)")
            if t.dim == 1:
                return t, t.offset + at * t.stride[0]
            t = selected(t, d, at)
    return t, None


def _spec(numbers: Sequence[Any]) -> list[Any]:
    """Decode a table index from Lua: 1 and a number, or 2 and first, last. C subtracts 1 before it truncates."""
    numbers = [n if n is None else as_long(n - 1) + 1 for n in numbers]
    spec: list[Any] = []
    position = 0
    while position < len(numbers):
        if numbers[position] == 1:
            spec.append(numbers[position + 1])
            position += 2
        else:
            spec.append((numbers[position + 1], numbers[position + 2]))
            position += 3
    return spec


def get_table(t: Tensor, *numbers: Any) -> Tensor | float:
    view, at = apply_index(t, _spec(numbers))
    if at is not None:
        return element(view, at)
    return view.alias() if view is t else view


def put_table(t: Tensor, value: Any, *numbers: Any) -> None:
    view, at = apply_index(t, _spec(numbers))
    if at is None:
        store(view, value)
    else:
        assert view.storage is not None
        view.storage.flat[at] = check_real(value, 3, t.ty)


def _storage_index(t: Tensor, index: Storage) -> int:
    if not t.size:
        raise TorchError("bad argument #1 (empty tensor)")
    if index.size != t.dim:
        raise TorchError("bad argument #2 (invalid size)")
    result = t.offset
    for i, count, step in zip(index.flat.tolist(), t.size, t.stride, strict=True):
        at = _zero_based(i, count)
        if not 0 <= at < count:
            raise TorchError("bad argument #2 (index out of bound)")
        result += at * step
    return result


def get_object(t: Tensor, index: Any) -> Any:
    """Return ``t[LongStorage]`` or ``t[mask]``; no value for other types of index."""
    if isinstance(index, Storage) and index.ty == "Long":
        return element(t, _storage_index(t, index))
    if isinstance(index, Tensor) and index.ty == "Byte":
        return masked_select(t, index)
    return ()


def put_object(t: Tensor, index: Any, value: Any) -> bool:
    """Set ``t[LongStorage]`` or ``t[mask]``; return whether tensors support this type of index."""
    if isinstance(index, Storage) and index.ty == "Long":
        at = _storage_index(t, index)
        assert t.storage is not None
        t.storage.flat[at] = check_real(value, 3, t.ty)
        return True
    if isinstance(index, Tensor) and index.ty == "Byte":
        if as_number(value) is not None:
            masked_fill(t, index, value)
        elif isinstance(value, Tensor) and value.ty == t.ty:
            masked_copy(t, index, value)
        else:
            raise TorchError(f"number or torch.{t.ty}Tensor expected")
        return True
    return False


# ---- index*


def _vector(index: Any, position: int) -> torch.Tensor:
    """Return the positions in a LongTensor, counted from 0."""
    index = check_tensor(index, position, "Long")
    if index.dim != 1:
        raise TorchError(f"bad argument #{position} (Index is supposed to be a vector)")
    return index.t - 1


def _count_valid(positions: torch.Tensor, limit: int) -> int:
    """Count the positions before the first one that is out of range."""
    wrong = ((positions < 0) | (positions >= limit)).nonzero()
    return int(wrong[0]) if len(wrong) else len(positions)


@native("index", types=ALL_TYPES)
def index_(*args: Any) -> Tensor:
    if len(args) == 3:
        r, first, (t, dim, index) = Tensor(args[0].ty), 1, args
    elif len(args) == 4:
        first, (r, t, dim, index) = 2, args
    else:
        raise TorchError("[Tensor,] Tensor, number, LongTensor expected")
    t = check_tensor(t, first, r.ty)
    d = dimension(t, dim, first + 1)
    positions = _vector(index, first + 2)
    is_shared = r.storage is not None and t.storage is not None and r.storage.block is t.storage.block
    if is_shared or r.overlaps() or _count_valid(positions, t.size[d]) < len(positions):
        _index_in_order(r, t, d, index)
    else:
        r.assign(torch.index_select(t.t, d, positions))
    return r if len(args) == 3 else index  # Torch7 returns the value on top of its stack


def _index_in_order(r: Tensor, t: Tensor, d: int, index: Tensor) -> None:
    """Compute ``r:index(t, d, index)`` in TH's order: resize, then copy the slices up to a position out of range."""
    r.resize((*t.size[:d], index.numel, *t.size[d + 1 :]))
    positions = index.t - 1
    checks_first = d == 0 and r.is_contiguous() and t.is_contiguous()
    if checks_first and _count_valid(positions, t.size[d]) < len(positions):
        raise TorchError("index out of range")
    for to, origin in enumerate(positions.tolist()):
        copy_into(narrowed(r, d, to, 1), narrowed(t, d, origin, 1))


def _put_slices(
    t: Tensor,
    d: int,
    index: Any,
    source: Any,
    put: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any],
    put_one: Callable[[Tensor, Tensor], Any],
) -> None:
    """Write slices to the positions before the first one that is out of range.

    Args:
        put: called as ``put(tensor, positions, slices)`` for all slices at once.
        put_one: called as ``put_one(slice, source)`` for each slice, if elements share memory or the shapes differ.
    """
    positions = _vector(index, 3)
    source = check_tensor(source, 4, t.ty)
    if source.dim <= d:
        raise TorchError(f"bad argument #4 (Indexing dim {d + 1} is out of bounds of tensor)")
    if source.size[d] != len(positions):
        raise TorchError("bad argument #4 (Number of indices should be equal to source:size(dim))")
    if (t.dim == 1) != (source.dim == 1):
        raise TorchError("bad argument #1 (tensor must have one dimension)")
    valid = _count_valid(positions, t.size[d])
    is_disjoint = not t.overlaps() and not (t.storage and source.storage and t.storage.block is source.storage.block)
    if is_disjoint and source.size == (*t.size[:d], len(positions), *t.size[d + 1 :]):
        put(t.t, positions[:valid], source.t.narrow(d, 0, valid))
    else:
        for k, at in enumerate(positions[:valid].tolist()):
            put_one(narrowed(t, d, at, 1), narrowed(source, d, k, 1))
    if valid < len(positions):
        raise TorchError("index out of range")


@native("indexCopy", types=ALL_TYPES)
def index_copy(t: Tensor, dim: Any = None, index: Any = None, source: Any = None, *more: Any) -> Any:
    check_end(more)
    d = dimension(t, dim)

    def put(to: torch.Tensor, positions: torch.Tensor, slices: torch.Tensor) -> None:
        for at, values in zip(positions.tolist(), slices.unbind(d), strict=True):
            to.select(d, at).copy_(values)

    _put_slices(t, d, index, source, put, copy_into)
    return source


@native("indexAdd", types=ALL_TYPES)
def index_add(t: Tensor, dim: Any = None, index: Any = None, source: Any = None, *more: Any) -> Any:
    check_end(more)
    d = dimension(t, dim)
    _put_slices(
        t,
        d,
        index,
        source,
        lambda to, positions, slices: to.index_add_(d, positions, slices),
        lambda to, values: pointwise(torch.add, to, to, values),
    )
    return source


@native("indexFill", types=ALL_TYPES)
def index_fill(t: Tensor, dim: Any = None, index: Any = None, value: Any = None, *more: Any) -> Any:
    check_end(more)
    any_dim = t.dim == 1 and isinstance(dim, int | float) and dim < 1  # Torch7 ignores the dimension of a vector then
    d = 0 if any_dim else dimension(t, dim)
    number = check_real(value, 4, t.ty)
    positions = _vector(index, 3)
    valid = _count_valid(positions, t.size[d])
    for at in positions[:valid].tolist():
        fill(narrowed(t, d, at, 1), number)
    if valid < len(positions):
        raise TorchError("index out of range")
    return value


# ---- masks


def _selected_by(t: Tensor, mask: Tensor) -> tuple[torch.Tensor, bool]:
    """Return a mask as booleans, up to its first value other than 0 and 1, and whether there is such a value."""
    if mask.numel != t.numel:
        raise TorchError(
            f"inconsistent tensor size, expected src {t.shape_text} and mask {mask.shape_text} to have the same "
            f"number of elements, but got {t.numel} and {mask.numel} elements respectively"
        )
    values = mask.t.reshape(-1)
    wrong = (values > 1).nonzero()
    return values[: int(wrong[0])].bool() if len(wrong) else values.bool(), len(wrong) > 0


def _check_values(wrong: bool) -> None:
    if wrong:
        raise TorchError("Mask tensor can take 0 and 1 values only")


@native("maskedSelect", types=ALL_TYPES)
def masked_select(*args: Any) -> Tensor:
    if len(args) not in (2, 3):
        raise TorchError("[Tensor,] Tensor, ByteTensor expected")
    r, t, mask = args if len(args) == 3 else (Tensor(args[0].ty), *args)
    t_ = check_tensor(t, len(args) - 1, r.ty)
    mask = check_tensor(mask, len(args), "Byte")
    r.resize((int(mask.t.sum()),))  # before the source is checked, as in TH
    chosen, wrong = _selected_by(t_, mask)
    if r.storage is not None and t_.storage is not None:
        flat = r.storage.flat[r.offset :]  # TH writes adjacent elements and ignores the strides of the result
        if r.storage.block is t_.storage.block:
            for to, at in enumerate(t_.storage_indices()[: len(chosen)][chosen].tolist()):
                flat[to] = r.storage.flat[at]
        else:
            values = t_.t.reshape(-1)[: len(chosen)][chosen]
            flat[: len(values)] = values[: len(flat)]
    _check_values(wrong)
    return r if len(args) == 2 else mask


@native("maskedFill", types=ALL_TYPES)
def masked_fill(t: Tensor, mask: Any = None, value: Any = None, *more: Any) -> Any:
    check_end(more)
    mask, number = check_tensor(mask, 2, "Byte"), check_real(value, 3, t.ty)
    chosen, wrong = _selected_by(t, mask)
    if wrong or t.overlaps():
        assert t.storage is not None
        t.storage.flat[t.storage_indices()[: len(chosen)][chosen]] = number
    else:
        t.t.masked_fill_(chosen.reshape(t.t.shape), number)
    _check_values(wrong)
    return value


@native("maskedCopy", types=ALL_TYPES)
def masked_copy(t: Tensor, mask: Any = None, source: Any = None, *more: Any) -> Tensor:
    check_end(more)
    chosen, wrong = _selected_by(t, check_tensor(mask, 2, "Byte"))
    source = check_tensor(source, 3, t.ty)
    values = source.t.contiguous().reshape(-1)
    if t.storage is not None:
        flat, targets = t.storage.flat, t.storage_indices()[: len(chosen)][chosen]
        if t.overlaps() or (source.storage is not None and t.storage.pointer == source.storage.pointer):
            for to, origin in zip(targets.tolist(), range(len(values)), strict=False):
                flat[to] = values[origin]  # may have been written by an earlier iteration
        else:
            flat[targets[: len(values)]] = values[: len(targets)]
        if len(targets) > len(values):
            raise TorchError("Number of elements of src < number of ones in mask")
    _check_values(wrong)
    return t


@torch_function("nonzero", "IR T", small=("nonzero",))
def nonzero(r: Tensor, t: Tensor) -> None:
    r.assign(t.t.nonzero() + 1)


def _declare_test(name: str, of: Callable[[torch.Tensor], torch.Tensor], step: str) -> None:
    @torch_function(
        name, "T", types=("Byte",), small=("reduce_all", "0", step, "total == 0" if name == "all" else "false")
    )
    def run(t: Tensor) -> bool:
        if not t.numel:
            raise TorchError("bad argument #1 (empty Tensor)")
        return bool(of(t.t.bool()))


_declare_test("all", torch.all, "if x == 0 then return false end")
_declare_test("any", torch.any, "if x ~= 0 then return true end")
