"""Declare methods for sizes, strides, views and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from dpnn_bridge.lua.arguments import as_number, check_int, check_tensor, counted, describe, dimension
from dpnn_bridge.lua.dispatch import native, sizes_of, torch_function
from dpnn_bridge.lua.ops.copying import copy_into
from dpnn_bridge.lua.tensor import DTYPES, Storage, Tensor, TorchError


def _out_of_range(position: int) -> TorchError:
    return TorchError(f"bad argument #{position} (out of range)")


def long_storage(values: Sequence[int]) -> Storage:
    return Storage("Long", flat=torch.tensor(list(values), dtype=torch.int64))


# ---- properties


@native("size", "__len__")
def size(t: Tensor, dim: Any = None, *_: Any) -> Storage | int:
    if as_number(dim) is not None:
        return t.size[dimension(t, dim)]
    return long_storage(t.size)


@native("stride")
def stride(t: Tensor, dim: Any = None, *_: Any) -> Storage | int:
    if as_number(dim) is not None:
        return t.stride[dimension(t, dim)]
    return long_storage(t.stride)


@native("dim", "nDimension")
def dim(t: Tensor, *_: Any) -> int:
    return t.dim


@native("nElement")
def n_element(t: Tensor, *_: Any) -> int:
    return t.numel


@native("elementSize")
def element_size(t: Tensor, *_: Any) -> int:
    return DTYPES[t.ty].itemsize


@native("storage")
def storage(t: Tensor, *_: Any) -> Storage | None:
    return None if t.storage is None else t.storage.alias()


@native("storageOffset")
def storage_offset(t: Tensor, *_: Any) -> int:
    return t.offset + 1


@native("isContiguous")
def is_contiguous(t: Tensor, *_: Any) -> bool:
    return t.is_contiguous()


@native("isSameSizeAs")
def is_same_size_as(t: Tensor, other: Any, *_: Any) -> bool:
    return t.size == check_tensor(other, 2, t.ty).size


@native("isSetTo")
def is_set_to(t: Tensor, other: Any, *_: Any) -> bool:
    return t.same(check_tensor(other, 2, t.ty))


@native("isSize")
def is_size(t: Tensor, sizes: Any, *_: Any) -> bool:
    if not isinstance(sizes, Storage) or sizes.ty != "Long":
        raise TorchError(f"bad argument #2 (torch.LongStorage expected, got {describe(sizes)})")
    return list(t.size) == sizes.flat.tolist()


# ---- resizing and sharing


def _sizes_and_strides(args: Sequence[Any], first: int, strided: bool) -> tuple[Sequence[int], Sequence[int] | None]:
    """Parse sizes: a LongStorage, and another one of strides; or numbers, alternating with strides if ``strided``."""
    if args and isinstance(args[0], Storage) and args[0].ty == "Long":
        if len(args) < 2 or args[1] is None:
            return args[0].flat.tolist(), None
        if not isinstance(args[1], Storage) or args[1].ty != "Long":
            raise TorchError(f"bad argument #{first + 1} (torch.LongStorage expected)")
        if args[1].size != args[0].size:
            raise TorchError(f"bad argument #{first + 1} (provided stride and size are inconsistent)")
        return args[0].flat.tolist(), args[1].flat.tolist()
    numbers = [check_int(a, first + n) for n, a in enumerate(args)]
    if not strided:
        return numbers, None
    strides = numbers[1::2]
    sizes = numbers[0::2]
    return sizes, strides + [-1] * (len(sizes) - len(strides))


@native("resize")
def resize(t: Tensor, *args: Any) -> Tensor:
    t.resize(*_sizes_and_strides(args, 2, strided=False))
    return t


@native("resizeAs")
def resize_as(t: Tensor, other: Any, *_: Any) -> Tensor:
    t.resize_as(check_tensor(other, 2, t.ty))
    return t


def point_to(t: Tensor, args: Sequence[Any], first: int) -> None:
    """Set the view of ``t`` from constructor arguments: none, a tensor, a storage with a geometry, or sizes.

    Args:
        t: the tensor.
        args: the arguments.
        first: position of the first argument in error messages.
    """
    source = args[0] if args else None
    if not args:
        t.geometry(None, 0, (), ())
    elif isinstance(source, Tensor) and source.ty == t.ty:
        t.set(source)
    elif isinstance(source, Storage) and source.ty == t.ty:
        offset = check_int(args[1], first + 1) - 1 if len(args) > 1 else 0
        if offset < 0:
            raise TorchError("Tensor: invalid storage offset")
        if len(args) > 1:
            sizes, strides = _sizes_and_strides(args[2:], first + 2, strided=True)
        else:
            sizes, strides = (source.size,), (1,)
        t.geometry(source, offset, t.size, t.stride)  # resize keeps the strides if the sizes are equal
        t.resize(sizes, strides)
    elif (isinstance(source, Storage) and source.ty == "Long") or describe(source) == "number":
        sizes, strides = _sizes_and_strides(args, first, strided=False)
        t.geometry(None, 0, (), ())
        t.resize(sizes, strides)
    else:
        raise TorchError(f"bad argument #{first} (expecting number or torch.{t.ty}Tensor or torch.{t.ty}Storage)")


@native("set")
def set_(t: Tensor, *args: Any) -> Tensor:
    point_to(t, args, 2)
    return t


# ---- views


@native("narrow")
def narrow(t: Tensor, dim: Any, first: Any, count: Any, *_: Any) -> Tensor:
    return narrowed(t, check_int(dim, 2) - 1, check_int(first, 3) - 1, check_int(count, 4))


def narrowed(t: Tensor, d: int, first: int, count: int) -> Tensor:
    if not 0 <= d < t.dim:
        raise _out_of_range(2)
    if not 0 <= first < t.size[d]:
        raise _out_of_range(3)
    if count <= 0 or first + count > t.size[d]:
        raise _out_of_range(4)
    sizes = (*t.size[:d], count, *t.size[d + 1 :])
    return Tensor(t.ty, t.storage, t.offset + first * t.stride[d], sizes, t.stride)


def selected(t: Tensor, d: int, index: int) -> Tensor:
    """Return a view without dimension ``d``; ``t`` must have more than one dimension."""
    offset = t.offset + index * t.stride[d]
    return Tensor(t.ty, t.storage, offset, t.size[:d] + t.size[d + 1 :], t.stride[:d] + t.stride[d + 1 :])


@native("select")
def select(t: Tensor, dim: Any, index: Any, *_: Any) -> Tensor | float:
    d, at = check_int(dim, 2) - 1, check_int(index, 3) - 1
    if t.dim == 0:
        raise TorchError("bad argument #1 (empty Tensor)")
    if t.dim == 1:
        if not 0 <= at < t.size[0]:
            raise _out_of_range(2)
        return element(t, t.offset + at * t.stride[0])
    if not 0 <= d < t.dim:
        raise _out_of_range(2)
    if not 0 <= at < t.size[d]:
        raise _out_of_range(3)
    return selected(t, d, at)


def element(t: Tensor, index: int) -> float:
    """Return the element at an index of the storage as a number, also for a HalfTensor."""
    assert t.storage is not None
    return t.storage.flat[index].item()


@native("sub")
def sub(t: Tensor, *args: Any) -> Tensor:
    """Compute ``t:sub(first, last [, first2, last2 ...])``; negative positions count from the end."""
    pairs = max(2, len(args) + len(args) % 2)
    numbers = [check_int(args[n] if n < len(args) else None, n + 2) for n in range(min(pairs, 8))]
    for d in range(len(numbers) // 2):
        if d >= t.dim:
            raise TorchError(f"bad argument #{2 * d + 2} (invalid dimension)")
        first, last = (n - 1 if n > 0 else n + t.size[d] for n in numbers[2 * d : 2 * d + 2])
        if not 0 <= first < t.size[d]:
            raise _out_of_range(2 * d + 2)
        if not 0 <= last < t.size[d]:
            raise _out_of_range(2 * d + 3)
        if last < first:
            raise TorchError(f"bad argument #{2 * d + 3} (end smaller than beginning)")
        t = narrowed(t, d, first, last - first + 1)
    return t


@native("transpose")
def transpose(t: Tensor, dim1: Any, dim2: Any, *_: Any) -> Tensor:
    a, b = check_int(dim1, 2) - 1, check_int(dim2, 3) - 1
    for d, position in ((a, 2), (b, 3)):
        if not 0 <= d < t.dim:
            raise _out_of_range(position)
    return transposed(t, a, b)


def transposed(t: Tensor, a: int, b: int) -> Tensor:
    sizes, strides = list(t.size), list(t.stride)
    sizes[a], sizes[b] = sizes[b], sizes[a]
    strides[a], strides[b] = strides[b], strides[a]
    return Tensor(t.ty, t.storage, t.offset, tuple(sizes), tuple(strides))


@native("t")
def t_(t: Tensor, *_: Any) -> Tensor:
    if t.dim != 2:
        raise TorchError("bad argument #1 (Tensor must have 2 dimensions)")
    return transposed(t, 0, 1)


@native("unfold")
def unfold(t: Tensor, dim: Any, count: Any, step: Any, *_: Any) -> Tensor:
    d, n, step = check_int(dim, 2) - 1, check_int(count, 3), check_int(step, 4)
    if not 0 <= d < t.dim:
        raise _out_of_range(2)
    if not 0 <= n <= t.size[d]:  # with a negative number, Torch7 would return a negative size
        raise _out_of_range(3)
    if step <= 0:
        raise TorchError("bad argument #4 (invalid step)")
    sizes = (*t.size[:d], (t.size[d] - n) // step + 1, *t.size[d + 1 :], n)
    strides = (*t.stride[:d], step * t.stride[d], *t.stride[d + 1 :], t.stride[d])
    return Tensor(t.ty, t.storage, t.offset, sizes, strides)


@native("permute")
def permute(t: Tensor, *dims: Any) -> Tensor:
    # 0 means the dimension at this position
    order = [(check_int(d, n) or n - 1) - 1 for n, d in enumerate(counted(dims), 2)]
    if sorted(order) != list(range(t.dim)) or any(isinstance(d, str) or d % 1 for d in counted(dims)):
        raise TorchError("Invalid permutation")
    if order == list(range(t.dim)):
        return t
    return Tensor(t.ty, t.storage, t.offset, tuple(t.size[d] for d in order), tuple(t.stride[d] for d in order))


def _squeeze(r: Tensor, t: Tensor, dim: int | None) -> float | None:
    """Remove dimensions of size 1; return a number if a single element remains."""
    if dim is not None and not 0 <= dim < t.dim:
        raise TorchError("bad argument #2 (dimension out of range)")
    had_dims = t.dim > 1
    keep = [d for d in range(t.dim) if t.size[d] != 1 or (dim is not None and d != dim)]
    if dim is not None and not had_dims:
        keep = [0]
    single = dim is None and bool(t.dim) and not keep
    keep = keep or ([0] if t.dim else [])
    r.geometry(t.storage, t.offset, tuple(t.size[d] for d in keep), tuple(t.stride[d] for d in keep))
    if single or (dim is None and r.size == (1,)) or (dim is not None and not had_dims and r.size == (1,)):
        return element(r, r.offset)
    return None


torch_function("squeeze", "R T", small=("squeeze",))(lambda r, t: _squeeze(r, t, None))
torch_function("squeeze", "R T i", small=("squeeze",))(_squeeze)


def _with_result(first: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Sequence[Any]]:
    """Split ``[result,] tensor, ...`` into result, tensor and other arguments; an omitted result is a new tensor."""
    if rest and isinstance(rest[0], Tensor):
        return first, rest[0], counted(rest[1:])
    return Tensor(first.ty), first, counted(rest)


def _sizes(rest: Sequence[Any]) -> tuple[int, ...]:
    """Return the sizes: a LongStorage, after which other arguments are ignored, or numbers."""
    return sizes_of(rest[:1] if rest and isinstance(rest[0], Storage) else rest)


@native("expand")
def expand(*args: Any) -> Tensor:
    r, t, rest = _with_result(*args)
    if not rest:
        raise TorchError("torch.expand, expected ([Tensor,] Tensor, number...) or ([Tensor,] Tensor, LongStorage)")
    return expanded(r, t, _sizes(rest))


def _check_storage(r: Tensor, t: Tensor) -> None:
    """Raise an error unless ``r`` can be a view of the memory of ``t``."""
    if t.storage is None or r.ty != t.ty:
        actual = "nil" if t.storage is None else f"torch.{t.ty}Storage"
        raise TorchError(f"bad argument #2 (torch.{r.ty}Storage expected, got {actual})")


def expanded(r: Tensor, t: Tensor, sizes: Sequence[int]) -> Tensor:
    _check_storage(r, t)
    if len(sizes) != t.dim:
        raise TorchError("the number of dimensions provided must equal tensor:dim()")
    strides = list(t.stride)
    for d, n in enumerate(sizes):
        if t.size[d] == 1:
            strides[d] = 0
        elif t.size[d] != n:
            raise TorchError("incorrect size: only supporting singleton expansion (size=1)")
    storage, offset = t.storage, t.offset
    r.geometry(storage, offset, (), ())
    r.resize(sizes, strides)
    return r


@native("expandAs")
def expand_as(first: Tensor, second: Any, template: Any = None, *_: Any) -> Tensor:
    if template is None:
        first, second, template = Tensor(first.ty), first, second
    if not isinstance(second, Tensor) or not isinstance(template, Tensor):
        raise TorchError("expandAs: expected ([Tensor,] Tensor, Tensor)")
    return expanded(first, second, template.size)


@native("view")
def view(*args: Any) -> Tensor:
    r, t, rest = _with_result(*args)
    if not rest or not (
        (isinstance(rest[0], Storage) and rest[0].ty == "Long") or all(describe(a) == "number" for a in rest)
    ):
        raise TorchError("torch.view, expected ([Tensor,] Tensor, number...) or ([Tensor,] Tensor, LongStorage)")
    return viewed(r, t, sizes_of(rest))


def viewed(r: Tensor, t: Tensor, sizes: Sequence[int]) -> Tensor:
    sizes, count = list(sizes), t.numel
    if sizes.count(-1) > 1:
        raise TorchError("Only one of torch.view dimensions can be -1.")
    if -1 in sizes:
        known = math.prod(s for s in sizes if s != -1)
        if known == 0 or count % known:
            raise TorchError("The number of covered elements is not a multiple of all elements.")
        sizes[sizes.index(-1)] = count // known
    if not t.is_contiguous():
        raise TorchError("expecting a contiguous tensor")
    _check_storage(r, t)
    r.geometry(t.storage, t.offset, r.size, r.stride)  # resize keeps the strides if the sizes are equal
    r.resize(sizes)
    if r.numel != count:
        output, input = "x".join(map(str, sizes)), "x".join(map(str, t.size))
        raise TorchError(f"Wrong size for view. Input size: {input}. Output size: {output}")
    return r


@native("viewAs")
def view_as(first: Tensor, second: Any = None, template: Any = None, *_: Any) -> Tensor:
    if template is None:
        first, second, template = Tensor(first.ty), first, second
    if not isinstance(second, Tensor) or not isinstance(template, (Tensor, Storage)):
        raise TorchError("viewAs: expected ([Tensor,] Tensor, Tensor)")
    return viewed(first, second, template.size if isinstance(template, Tensor) else (template.size,))


@native("repeatTensor")
def repeat_tensor(*args: Any) -> Tensor:
    r, t, rest = _with_result(*args)
    times = _sizes(rest)
    if len(times) < max(t.dim, 1):
        raise TorchError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    if min(times, default=1) < 1:
        raise TorchError("bad argument #2 (out of range)")
    r.assign(t.t.repeat(times))
    return r


@torch_function("reshape", "R T L", small=("reshape",))
def reshape(r: Tensor, t: Tensor, sizes: tuple[int, ...]) -> None:
    r.resize(sizes)
    copy_into(r, t)
