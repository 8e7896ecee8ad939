"""Declare copies and type conversions of tensors: ``clone``, ``copy``, ``type`` …"""

from __future__ import annotations

from typing import Any

import torch

from dpnn_bridge.lua.arguments import describe, element_type
from dpnn_bridge.lua.dispatch import native
from dpnn_bridge.lua.ops.pointwise import is_disjoint
from dpnn_bridge.lua.tensor import DTYPES, IN_ORDER, Tensor, TorchError


@native("contiguous")
def contiguous(t: Tensor, *_: Any) -> Tensor:
    return t if t.is_contiguous() else clone(t)


@native("clone")
def clone(t: Tensor, *_: Any) -> Tensor:
    return Tensor.fresh(t.t.clone(memory_format=torch.contiguous_format), t.ty) if t.size else Tensor(t.ty)


@native("copy")
def copy(t: Tensor, source: Any, *_: Any) -> Tensor:
    if not isinstance(source, Tensor):
        raise TorchError(f"bad argument #2 (torch.*Tensor expected, got {describe(source)})")
    copy_into(t, source)
    return t


def copy_into(t: Tensor, source: Tensor) -> None:
    if t.numel != source.numel:
        raise TorchError(
            f"inconsistent tensor size, expected tensor {t.shape_text} and src {source.shape_text} to have the same "
            f"number of elements, but got {t.numel} and {source.numel} elements respectively"
        )
    if t.numel and not t.same(source):
        assert t.storage is not None
        assert source.storage is not None
        if t.storage.block is source.storage.block and t.numel <= IN_ORDER and not is_disjoint(t, source):
            _copy_within(t, source)
            return
        try:
            t.write(source.t)
        except RuntimeError:  # PyTorch cannot copy between views that overlap
            _copy_within(t, source)


#: elements of a vector register; TH copies contiguous tensors in two registers per iteration
_VECTOR_WIDTH = {"Double": 4, "Float": 8}


def _copy_within(t: Tensor, source: Tensor) -> None:
    """Copy between overlapping views in Torch7's order: element by element, or vector by vector."""
    assert t.storage is not None
    flat = t.storage.flat.numpy()
    to, origin = t.storage_indices().numpy(), source.storage_indices().numpy()
    width = _VECTOR_WIDTH.get(t.ty, 0) if t.is_contiguous() and source.is_contiguous() else 0
    vectorized = len(to) // (2 * width) * 2 * width if width else 0
    for k in range(0, vectorized, width or 1):
        flat[to[k : k + width]] = flat[origin[k : k + width]]
    for target, index in zip(to[vectorized:].tolist(), origin[vectorized:].tolist(), strict=True):
        flat[target] = flat[index]


@native("type")
def type_(t: Tensor, name: Any = None, *_: Any) -> Tensor | str:
    if name is None or name is False:
        return t.class_name
    ty = element_type(name)
    if ty is None:
        raise TorchError(f"attempt to index a nil value: {name!r} is not a tensor class such as 'torch.FloatTensor'")
    return converted(t, ty)


def converted(t: Tensor, ty: str) -> Tensor:
    if ty == t.ty:
        return t
    return Tensor.fresh(t.t, ty) if t.size else Tensor(ty)


@native("typeAs")
def type_as(t: Tensor, other: Any, *_: Any) -> Tensor:
    if not isinstance(other, Tensor):
        raise TorchError(f"attempt to index a {describe(other)} value: typeAs needs a tensor")
    return converted(t, other.ty)


for _ty in DTYPES:
    native(_ty.lower())(lambda t, *_, ty=_ty: converted(t, ty))


@native("retain", "free")
def retain(t: Tensor, *_: Any) -> tuple[()]:
    return ()
