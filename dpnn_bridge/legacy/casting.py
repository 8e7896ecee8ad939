"""Cast modules: ``module.type(...)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.legacy.values import whole_storage
from dpnn_bridge.legacy.viewed import Viewed


def cast(value: Any, kind: Any, done: dict[Any, Any]) -> Any:
    """Cast the tensors in a module, criterion or nested list, in place where it can contain others.

    Args:
        value: the value to cast.
        kind: a type such as ``"torch.DoubleTensor"``.
        done: values that were cast before; tensors on the same memory share it afterwards.

    Returns:
        The value, another one for a tensor.
    """
    if isinstance(value, Tensor):
        return _tensor(value, kind, done)
    if id(value) in done or (not isinstance(value, (list, dict)) and not isinstance(value, Viewed)):
        return value
    done[id(value)] = value
    target: Any = value if isinstance(value, (list, dict)) else value._fields
    for key, entry in list(enumerate(target) if isinstance(target, list) else target.items()):
        target[key] = cast(entry, kind, done)
    if isinstance(value, Viewed):
        value.__dict__["_type"] = kind if isinstance(kind, str) else torch.Tensor().type(kind).type()
    return value


def _tensor(tensor: Tensor, kind: Any, done: dict[Any, Any]) -> Tensor:
    if tensor.type() == kind:
        return tensor
    if tensor.numel() == 0:
        return tensor.type(kind)
    key = (storage_id(tensor), tensor.dtype)
    if key not in done:
        done[key] = (tensor, whole_storage(tensor.detach()).type(kind))
    return done[key][1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
