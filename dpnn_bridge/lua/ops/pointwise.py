"""Apply a function to the elements of tensors in the order of TH's loops.

Torch7 requires operands with equally many elements, of any shape, and does not broadcast. The result has the shape of
the first operand. In-place operations visit every element of a view once, also if elements share memory.
"""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType

import torch

from dpnn_bridge.lua.tensor import IN_ORDER, Tensor, TorchError, cast_tensor


def check_counts(names: str, *tensors: Tensor) -> None:
    if len({t.numel for t in tensors}) > 1:
        shapes = ", ".join(f"{n} {t.shape_text}" for n, t in zip(names.split(), tensors, strict=False))
        counts = ", ".join(str(t.numel) for t in tensors)
        raise TorchError(
            f"inconsistent tensor size, expected {shapes} to have the same number of elements, "
            f"but got {counts} elements"
        )


def pointwise(
    f: Callable[..., torch.Tensor], result: Tensor, first: Tensor, *others: Tensor, numbers: tuple = ()
) -> None:
    """Compute ``result = f(first, *others, *numbers)`` element-wise."""
    in_place = result is first or result.same(first)
    if not in_place:
        result.resize_as(first)  # before any check, as in Torch7; the result may be one of ``others``
    check_counts("t src src2", first, *others)
    if _overlaps_input(result, first, *others):
        _visit_in_order(f, numbers, result, first, *others)
        return
    if result.overlaps():
        _visit_each(f, numbers, result, (result if in_place else first), *others)
        return
    if _is_disjoint_from_sources(result, first, *others):
        if supports_out(f) and all(o.size == first.size for o in others):
            f(*[t.t for t in (first, *others)], *numbers, out=result.t)
            return
        if result.numel > _CHUNK and all(t.is_contiguous() for t in (result, first, *others)):
            to, *sources = (t.t.view(-1) for t in (result, first, *others))
            step = _CHUNK * torch.get_num_threads()
            for start in range(0, result.numel, step):
                part = slice(start, start + step)
                to[part].copy_(cast_tensor(f(*[x[part] for x in sources], *numbers), result.ty))
            return
    shape = first.size or (0,)
    values = f(first.t, *[o.t.reshape(shape) if o.size != first.size else o.t for o in others], *numbers)
    result.t.copy_(cast_tensor(values, result.ty))


def supports_out(f: Callable[..., torch.Tensor]) -> bool:
    """Return whether ``f`` is a builtin function of torch, or a partial of one; these have an ``out`` argument."""
    return isinstance(getattr(f, "func", f), BuiltinFunctionType)


#: elements per thread that are computed at once, few enough that intermediate results stay in the CPU cache
_CHUNK = 32768


def _is_disjoint_from_sources(result: Tensor, *sources: Tensor) -> bool:
    """Return whether each source is the result itself or in another block of memory."""
    others = [s for s in sources if s is not result and not s.same(result)]
    return not any(s.storage and result.storage and s.storage.block is result.storage.block for s in others)


def is_disjoint(a: Tensor, b: Tensor) -> bool:
    """Return whether two views of one block have no common element, such as the gates of a recurrent layer."""
    first, second = sorted(
        (v.offset, v.offset + sum((n - 1) * k for n, k in zip(v.size, v.stride, strict=True))) for v in (a, b)
    )
    if first[1] < second[0]:
        return True
    if a.dim == 2 and a.stride == b.stride and a.stride[1] == 1 and a.stride[0] > 0:  # columns of one matrix
        step = a.stride[0]
        distance = (b.offset - a.offset) % step
        return distance >= a.size[1] and step - distance >= b.size[1]
    return not bool(torch.isin(a.storage_indices(), b.storage_indices()).any())


def _overlaps_input(result: Tensor, first: Tensor, *others: Tensor) -> bool:
    """Return whether writing the result may overwrite unread elements of a source."""
    block = result.storage and result.storage.block
    if block is None or result.numel > IN_ORDER:
        return False
    shared = [s for s in (first, *others) if s.storage is not None and s.storage.block is block]
    if not shared or (shared == [first] and first.same(result)):
        return False
    if any(not s.same(result) and not is_disjoint(s, result) for s in shared):
        return True
    return any(o in shared for o in others) and result.overlaps()


def _visit_in_order(f: Callable[..., torch.Tensor], numbers: tuple, result: Tensor, *sources: Tensor) -> None:
    """Apply ``f`` element by element, each time to the current content of memory."""
    assert result.storage is not None
    flat, targets = result.storage.flat, result.storage_indices().tolist()
    others = [s.storage_indices().tolist() for s in sources]
    flats = [s.storage.flat for s in sources if s.storage is not None]
    for to, *at in zip(targets, *others, strict=True):
        flat[to] = cast_tensor(f(*[x[i : i + 1] for x, i in zip(flats, at, strict=True)], *numbers), result.ty)[0]


def _visit_each(f: Callable[..., torch.Tensor], numbers: tuple, result: Tensor, first: Tensor, *others: Tensor) -> None:
    """Apply ``f`` to a result whose elements share memory, in rounds of elements at different storage indices."""
    assert result.storage is not None
    indices = result.storage_indices()
    order = torch.argsort(indices, stable=True)
    grouped = indices[order]
    start = torch.cat([torch.tensor([True]), grouped[1:] != grouped[:-1]])
    positions = torch.arange(len(grouped))
    rank = torch.empty_like(indices)  # number of earlier elements at the same storage index
    rank[order] = positions - torch.cummax(torch.where(start, positions, 0), 0).values
    flats = [o.t.reshape(-1) for o in others]
    source = None if first.same(result) or first is result else first.t.reshape(-1)
    flat = result.storage.flat
    for n in range(int(rank.max()) + 1):
        chosen = (rank == n).nonzero().squeeze(1)
        at = indices[chosen]
        x = flat[at] if source is None else source[chosen]
        flat[at] = cast_tensor(f(x, *[o[chosen] for o in flats], *numbers), result.ty)
