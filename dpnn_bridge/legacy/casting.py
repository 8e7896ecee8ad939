"""Cast modules: ``module.type(...)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.legacy.legacy_object import LegacyObject
from dpnn_bridge.legacy.values import storage_tensor


def cast(value: Any, tensor_type: Any, done: dict[Any, Any]) -> Any:
    """Cast the tensors in a module, criterion or nested list.

    Args:
        value: the value to cast. Modules, criterions, lists and dicts are changed in place.
        tensor_type: a type such as ``"torch.DoubleTensor"``.
        done: cache of earlier calls, so that tensors that share memory share it after the cast too.

    Returns:
        The value, or for a tensor a new tensor.
    """
    if isinstance(value, Tensor):
        return _tensor(value, tensor_type, done)
    pending = [value]
    while pending:
        container = pending.pop()
        if id(container) in done or not isinstance(container, (list, dict, LegacyObject)):
            continue
        done[id(container)] = container
        target: Any = container._fields if isinstance(container, LegacyObject) else container
        for key, entry in list(enumerate(target) if isinstance(target, list) else target.items()):
            if isinstance(entry, Tensor):
                target[key] = _tensor(entry, tensor_type, done)
            else:
                pending.append(entry)
        if isinstance(container, LegacyObject):
            container.__dict__["_type"] = (
                tensor_type if isinstance(tensor_type, str) else torch.Tensor().type(tensor_type).type()
            )
    return value


def _tensor(tensor: Tensor, tensor_type: Any, done: dict[Any, Any]) -> Tensor:
    if tensor.type() == tensor_type:
        return tensor
    if tensor.numel() == 0:
        return tensor.type(tensor_type)
    key = (storage_id(tensor), tensor.dtype)
    if key not in done:
        done[key] = (tensor, storage_tensor(tensor.detach()).type(tensor_type))
    return done[key][1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
