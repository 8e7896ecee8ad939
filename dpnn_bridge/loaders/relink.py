"""Make the flat parameter vector of a checkpoint view the weights of a replaced model.

A checkpoint often contains the vector of ``getParameters()`` besides its model. A new model in the checkpoint has new
storages. Each new storage refers to the storage that it replaces, so the vector can view the new weights.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dpnn_bridge.base.graph import values_in
from dpnn_bridge.objects import LuaStorage, LuaTensor


def relink(root: Any) -> None:
    """Change the storages of tensors to the storages that replace them, unless two storages replace the same one."""
    views = [(t, t.storage) for t in values_in(root) if isinstance(t, LuaTensor) and t.storage is not None]
    replacements: dict[int, list[LuaStorage]] = defaultdict(list)  # `origin` of a storage -> its replacements
    for storage in {id(storage): storage for _, storage in views}.values():
        if storage.replaces >= 0:
            replacements[storage.replaces].append(storage)
    for tensor, storage in views if replacements else ():
        candidates = replacements.get(storage.origin, ())
        if len(candidates) == 1 and candidates[0].size == storage.size:
            tensor.storage, tensor.class_name = candidates[0], candidates[0].class_name.replace("Storage", "Tensor")
