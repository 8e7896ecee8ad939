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
    views = [(t, t.storage) for t in values_in(root) if isinstance(t, LuaTensor) and t.storage is not None]
    replacements: dict[int, list[LuaStorage]] = defaultdict(list)  # those of a storage, by its `origin`
    for storage in {id(storage): storage for _, storage in views}.values():
        if storage.replaces >= 0:
            replacements[storage.replaces].append(storage)
    for tensor, storage in views if replacements else ():
        found = replacements.get(storage.origin, ())
        if len(found) == 1 and found[0].size == storage.size:
            tensor.storage, tensor.class_name = found[0], found[0].class_name.replace("Storage", "Tensor")
