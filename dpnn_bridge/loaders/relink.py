"""Move tensors that were views of a model's flat storage to the storage of a replacement model.

A checkpoint often contains the vector of ``getParameters()`` beside its model. A model that replaces it has new
storages. Each new storage refers to the storage that it replaces, so the vector can view the new weights.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dpnn_bridge.base.graph import values_in
from dpnn_bridge.objects import LuaStorage, LuaTensor


def relink(root: Any) -> None:
    """Move tensors to the storages that replace theirs; where two storages replace one, neither does."""
    tensors = [value for value in values_in(root) if isinstance(value, LuaTensor)]
    claims: dict[int, dict[int, LuaStorage]] = defaultdict(dict)
    for tensor in tensors:
        if tensor.storage is not None and tensor.storage.replaces >= 0:
            claims[tensor.storage.replaces][id(tensor.storage)] = tensor.storage
    for tensor in tensors if claims else ():
        storage = tensor.storage
        new = claims.get(storage.origin, {}) if storage is not None else {}
        for claim in new.values() if len(new) == 1 else ():
            if storage is not None and claim.size == storage.size:
                tensor.storage, tensor.class_name = claim, claim.class_name.replace("Storage", "Tensor")
