"""Implement Torch7's storages and tensors on PyTorch memory.

A :class:`Storage` is a resizable region of memory that any number of tensors share. A :class:`Tensor` is a mutable view
of a storage. ``resize``, ``set`` and similar methods change the object in place, which PyTorch's tensors do not
support. Therefore the geometry is stored here, and :attr:`Tensor.t` returns the current PyTorch view. Python and Lua
share memory in both directions.

Torch7 has no scalars and no zero-sized dimensions: a tensor without elements has no dimension.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from contextvars import ContextVar

import numpy as np
import torch

from dpnn_bridge.base.contiguous import contiguous_strides, is_contiguous, last_offset
from dpnn_bridge.errors import LuaBridgeError

DTYPES = {
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "Float": torch.float32,
    "Double": torch.float64,
}
#: dtypes of the tensors that Python may pass to Lua
PASSED_DTYPES = (*DTYPES.values(), torch.bfloat16, torch.bool)
TYPE_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
NUMPY_DTYPES = {name: torch.empty(0, dtype=dtype).numpy().dtype for name, dtype in DTYPES.items()}
FLOATING = ("Half", "Float", "Double")
_BITS = {"Byte": 8, "Char": 8, "Short": 16, "Int": 32, "Long": 64}

#: number of elements up to which sums, and results that overlap their sources, are computed element by element as in
#: Torch7; equal to ``loops.FEW`` of prelude/ffi
IN_ORDER = 4096

#: number of changes that Python made to views and blocks cached in Lua; Lua reads it in memory
changes = (ctypes.c_double * 1)()


#: number with which new memory is filled; None: it is uninitialized, as in Torch7
NEW_MEMORY: ContextVar[float | None] = ContextVar("NEW_MEMORY", default=None)


def _new_memory(flat: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Fill the elements from ``start`` on with :data:`NEW_MEMORY`, without an operation of PyTorch."""
    value = NEW_MEMORY.get()
    if value is not None:
        flat.numpy()[start:] = value
    return flat


class TorchError(Exception):
    """An error as in Torch7; it becomes a Lua error with the same text."""


def check_passed(t: torch.Tensor) -> None:
    """Raise an error unless Python may pass a tensor to Lua."""
    if t.layout is not torch.strided or t.dtype not in PASSED_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in PASSED_DTYPES)
        raise LuaBridgeError(f"Lua has no tensors of {t.dtype} ({t.layout}): pass a dense tensor of {names}")


def shape_text(sizes: Sequence[int]) -> str:
    """Format sizes as in Torch7's error messages, ``[2 x 3]``."""
    return f"[{' x '.join(map(str, sizes))}]"


def cast_number(value: float, ty: str) -> float:
    """Convert a Lua number to the element type ``ty`` as C does on x86.

    For floating types the number is rounded, and becomes infinity beyond the range. For integer types it is truncated
    towards zero, becomes the lowest ``int`` (for Long, ``long``) outside the range of that C type, and is then wrapped.
    """
    bits = _BITS.get(ty)
    if bits is None:
        if ty == "Double":
            return value
        single = ctypes.c_float(value).value
        return single if ty == "Float" else torch.tensor(single).half().item()
    limit = 1 << (63 if bits == 64 else 31)
    if isinstance(value, float):
        value = math.trunc(value) if math.isfinite(value) else limit
    if not -limit <= value < limit:
        value = -limit
    value &= (1 << bits) - 1
    return value if ty == "Byte" or value < 1 << (bits - 1) else value - (1 << bits)


def cast_tensor(t: torch.Tensor, ty: str) -> torch.Tensor:
    """Convert ``t`` to the element type ``ty`` by C's rules; return ``t`` itself if it already has the type."""
    dtype = DTYPES[ty]
    if t.dtype == dtype:
        return t
    if dtype.is_floating_point or not t.dtype.is_floating_point:
        return t.to(dtype)
    wide = t.to(torch.int64)
    if ty != "Long":
        limit = 1 << 31
        wide = torch.where((wide < -limit) | (wide >= limit), -limit, wide)
    return wide.to(dtype)


def square_root(x: torch.Tensor) -> torch.Tensor:
    """Compute a correctly rounded square root like C's sqrt; torch.sqrt is not correctly rounded on some processors."""
    with np.errstate(invalid="ignore"):
        return torch.as_tensor(np.sqrt(x.numpy()))


class _Block:
    """A block of memory, which all :class:`Storage` objects of one Torch7 storage share.

    Attributes:
        flat: 1-D tensor of all elements.
        address: the address that Lua uses; None: Lua asks Python before each access.
        pinned: whether other code may use the address, so that the memory must not move.
    """

    __slots__ = ("__weakref__", "address", "flat", "pinned")

    def __init__(self, flat: torch.Tensor) -> None:
        self.flat = flat
        self.address: int | None = None
        self.pinned = False


class Storage:
    """A 1-D block of elements, ``torch.*Storage`` in Lua.

    ``tensor:storage()`` returns a new object each time, so that Lua's garbage collection does not affect the objects
    that Python uses. Objects of the same block have the same :attr:`pointer`.

    Attributes:
        ty: element type, such as ``"Float"``.
        flat: 1-D PyTorch tensor of all elements.
    """

    __slots__ = ("_block", "ty")

    def __init__(self, ty: str, size: int = 0, flat: torch.Tensor | None = None) -> None:
        self.ty = ty
        self._block = _Block(_new_memory(torch.empty(size, dtype=DTYPES[ty])) if flat is None else flat)

    @property
    def flat(self) -> torch.Tensor:
        return self._block.flat

    @property
    def class_name(self) -> str:
        return f"torch.{self.ty}Storage"

    @property
    def size(self) -> int:
        return self._block.flat.numel()

    @property
    def pointer(self) -> int:
        return id(self._block)

    def alias(self) -> Storage:
        """Return a new storage object on the same block."""
        other = Storage.__new__(Storage)
        other.ty, other._block = self.ty, self._block
        return other

    @property
    def block(self) -> _Block:
        """The block of memory, which other storage objects may share."""
        return self._block

    def tell(self) -> int:
        """Return the address of the first element to Lua; later moves of the memory increment :data:`changes`."""
        self._block.address = address = self.flat.data_ptr()
        return address

    def resize(self, size: int) -> None:
        """Change the number of elements; all tensors and storages on the block share the resized memory."""
        old = self.flat
        if size == self.size:
            return
        if self._block.address is not None:
            changes[0] += 1
        memory = old.untyped_storage()
        is_complete = old.storage_offset() == 0 and memory.nbytes() == self.size * old.itemsize
        if is_complete and memory.resizable():
            memory.resize_(size * old.itemsize)
            resized = torch.empty(0, dtype=old.dtype, device=old.device).set_(memory, 0, (size,), (1,))
            self._block.flat = _new_memory(resized, old.numel())
            return
        common = min(size, self.size)
        fresh = _new_memory(old.new_empty(size), common)  # memory with another owner cannot be resized
        fresh[:common] = old[:common]
        self._block.flat = fresh


class Tensor:
    """A strided view of a :class:`Storage`, ``torch.*Tensor`` in Lua.

    Attributes:
        ty: element type, such as ``"Float"``.
        storage: the storage; None for a tensor that never had one.
        offset: 0-based index of the first element in the storage.
        size: sizes; ``()`` for a tensor without elements.
        stride: strides in elements.
        is_cached: whether Lua caches the geometry.
    """

    __slots__ = ("_base", "_view", "is_cached", "offset", "size", "storage", "stride", "ty")

    def __init__(
        self,
        ty: str,
        storage: Storage | None = None,
        offset: int = 0,
        size: tuple[int, ...] = (),
        stride: tuple[int, ...] = (),
    ) -> None:
        self.ty, self.storage, self.offset, self.size, self.stride = ty, storage, offset, size, stride
        self._base: torch.Tensor | None = None
        self._view: torch.Tensor | None = None
        self.is_cached = False

    @classmethod
    def wrap(cls, t: torch.Tensor) -> Tensor:
        """Return a tensor on the memory of ``t``, detached; a scalar becomes a tensor of shape ``(1,)``.

        Tensors of bool become ByteTensors, tensors of bfloat16 become FloatTensors, and views with the negative bit
        (``z.conj().imag``) are computed; these have other memory than ``t``.
        """
        t = t.detach().resolve_neg()
        ty = TYPE_OF_DTYPE.get(t.dtype)
        if ty is None:
            t = t.to(torch.uint8) if t.dtype == torch.bool else t.float()
            ty = TYPE_OF_DTYPE[t.dtype]
        if t.numel() == 0:
            return cls(ty)
        if t.dim() == 0:
            t = t.reshape(1)
        block = t.untyped_storage()
        flat = torch.empty(0, dtype=t.dtype, device=t.device).set_(block, 0, (block.nbytes() // t.itemsize,), (1,))
        return cls(ty, Storage(ty, flat=flat), int(t.storage_offset()), tuple(t.shape), t.stride())

    @classmethod
    def fresh(cls, t: torch.Tensor, ty: str | None = None) -> Tensor:
        """Return a contiguous tensor on the memory of ``t``, to which there must be no other references."""
        if ty is not None:
            t = cast_tensor(t, ty)
        if t.numel() == 0:
            return cls(ty or TYPE_OF_DTYPE[t.dtype])
        t = t.contiguous()
        if t.storage_offset() or t.untyped_storage().nbytes() != t.numel() * t.itemsize:
            t = t.clone(memory_format=torch.contiguous_format)
        ty = ty or TYPE_OF_DTYPE[t.dtype]
        size = tuple(t.shape) or (1,)
        return cls(ty, Storage(ty, flat=t.view(-1)), 0, size, contiguous_strides(size))

    @property
    def class_name(self) -> str:
        return f"torch.{self.ty}Tensor"

    @property
    def t(self) -> torch.Tensor:
        """The PyTorch view of the elements; shape ``(0,)`` if there are no elements."""
        storage = self.storage
        if storage is None or not self.size:
            return torch.empty(0, dtype=DTYPES[self.ty])
        if self._view is None or self._base is not storage.flat:
            flat = self._base = storage.flat
            self._view = torch.as_strided(flat, self.size, self.stride, flat.storage_offset() + self.offset)
        return self._view

    @property
    def dim(self) -> int:
        return len(self.size)

    @property
    def numel(self) -> int:
        return math.prod(self.size) if self.size else 0

    @property
    def shape_text(self) -> str:
        return shape_text(self.size)

    def is_contiguous(self) -> bool:
        return is_contiguous(self.size, self.stride)

    def overlaps(self) -> bool:
        """Return whether two elements may share memory, as in expanded or unfolded views."""
        if 0 in self.stride and any(n > 1 and s == 0 for n, s in zip(self.size, self.stride, strict=True)):
            return True
        extent = 0
        for s, n in sorted((s, n) for n, s in zip(self.size, self.stride, strict=True) if n > 1):
            if s <= extent:
                return True
            extent += s * (n - 1)
        return False

    def geometry(self, storage: Storage | None, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        """Become the view of ``storage`` with this geometry."""
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self._view = None
        if self.is_cached:
            changes[0] += 1

    def set(self, other: Tensor) -> None:
        """Become a view of the same elements as ``other``."""
        if other is not self:
            self.geometry(other.storage, other.offset, other.size, other.stride)

    def alias(self) -> Tensor:
        """Return another tensor object on the same view."""
        return Tensor(self.ty, self.storage, self.offset, self.size, self.stride)

    def resize(self, size: Sequence[int], stride: Sequence[int] | None = None) -> None:
        """Resize like Torch7: sizes from the first non-positive one on are ignored; the storage only grows.

        Args:
            size: the new sizes. If they equal the old ones, the strides do not change.
            stride: the new strides; negative ones are computed as for a contiguous tensor.
        """
        n = next((i for i, v in enumerate(size) if v <= 0), len(size))
        size = tuple(size[:n])
        given = tuple(stride[:n]) if stride is not None else (-1,) * n
        if size == self.size and all(g < 0 or g == s for g, s in zip(given, self.stride, strict=True)):
            return
        if not size:
            self.geometry(self.storage, self.offset, (), ())
            return
        strides = [0] * n
        for d in range(n - 1, -1, -1):
            if given[d] >= 0:
                strides[d] = given[d]
            else:
                strides[d] = 1 if d == n - 1 else size[d + 1] * strides[d + 1]
        count = self.offset + 1 + last_offset(size, strides)
        storage = self.storage if self.storage is not None else Storage(self.ty)
        if count > storage.size:
            storage.resize(count)
        self.geometry(storage, self.offset, size, tuple(strides))

    def resize_as(self, other: Tensor) -> None:
        if self.size != other.size:
            self.resize(other.size)

    def assign(self, values: torch.Tensor) -> None:
        """Resize to the shape of ``values`` and copy them, converted to the tensor's type."""
        shape = (tuple(values.shape) or (1,)) if values.numel() else ()
        if self.storage is None:
            self.set(Tensor.fresh(values, self.ty))
            return
        self.resize(shape)
        if shape:
            self.write(values.reshape(shape))

    def write(self, values: torch.Tensor) -> None:
        """Copy ``values``, which have the same number of elements; in overlapping views the last write wins."""
        if not self.size:
            return
        values = cast_tensor(values, self.ty)
        if self.overlaps():
            assert self.storage is not None
            self.storage.flat[self.storage_indices()] = values.reshape(-1)
        else:
            self.t.copy_(values.reshape(self.size))

    def storage_indices(self) -> torch.Tensor:
        """Return the index in the storage of each element, in logical order."""
        index = torch.tensor([self.offset])
        for n, s in zip(self.size, self.stride, strict=True):
            index = (index[:, None] + torch.arange(n)[None, :] * s).reshape(-1)
        return index

    def same(self, other: Tensor) -> bool:
        """Return whether storage and geometry are the same, like Torch7's ``isSetTo``."""
        return (
            self.storage is not None
            and other.storage is not None
            and self.storage.pointer == other.storage.pointer
            and (self.offset, self.size, self.stride) == (other.offset, other.size, other.stride)
        )

    @property
    def pointer(self) -> int:
        return id(self)
