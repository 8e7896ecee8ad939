"""Convert objects of ``torch.legacy.nn`` to Lua objects, whose tensors share the memory of PyTorch's where possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.conversion.lua_values import numpy_dtype
from dpnn_bridge.legacy.legacy_object import LegacyObject
from dpnn_bridge.legacy.lua_graph import LuaDescription, LuaGraph, add_constants
from dpnn_bridge.legacy.user_modules import is_user_module
from dpnn_bridge.legacy.values import storage_tensor
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTensor, tensor_class

#: beginning of the class name of a Lua object for a module of the user, which computes in Python
USER_CLASS = "python."


class Encoder(LuaGraph):
    """Converter of modules, criterions and values to Lua values.

    Lua tensors share the memory of CPU tensors. Tensors of a dtype that Torch7 lacks (bool, bfloat16) are copied.

    Args:
        inherited: a module of the user whose computation is that of its class in ``torch.legacy.nn``.

    Attributes:
        pairs: every module and criterion with its Lua object.
        user_modules: ``id`` of a Lua object -> module of the user, which computes in Python.
    """

    def __init__(self, inherited: Any = None) -> None:
        super().__init__()
        self._inherited = inherited
        self.pairs: list[tuple[Any, LuaObject]] = []
        self.user_modules: dict[int, Any] = {}
        self._storages: dict[tuple[int, torch.dtype], LuaStorage] = {}

    def describe(self, value: Any) -> LuaDescription | None:
        if "_typename" in getattr(value, "__dict__", ()):
            state = value.__dict__
            return LuaDescription(state["_typename"], "", {}, state["_version_number"], state["_header"], state["_obj"])
        if not isinstance(value, LegacyObject):
            return None
        is_user_class = is_user_module(value) and value is not self._inherited
        in_python = is_user_class or value._own_module() is not None
        name = USER_CLASS + type(value).__name__ if in_python else value._lua_class
        fields = {k: v for k, v in value.__dict__.items() if k not in ("_version", "_header")}
        header = value.__dict__.get("_header", ())
        return LuaDescription(name, value._legacy_class, fields, value.__dict__.get("_version"), header)

    def complete(self, value: Any, description: LuaDescription, obj: LuaObject) -> None:
        if not isinstance(value, LegacyObject):
            return
        self.pairs.append((value, obj))
        if description.class_name.startswith(USER_CLASS):
            self.user_modules[id(obj)] = value
        else:
            add_constants(obj)

    def tensor(self, value: Any) -> LuaTensor | LuaStorage | None:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, torch.storage.TypedStorage):
            elements = torch.empty(0, dtype=value.dtype, device=value.device).set_(value._untyped_storage)
            return self._storage(_as_lua_type(elements))
        if not isinstance(value, Tensor):
            return super().tensor(value)
        value = _as_lua_type(value.detach())
        name = tensor_class(numpy_dtype(value))
        if value.numel() == 0:
            return LuaTensor.empty(name)
        if value.dim() == 0:
            value = value.reshape(1)
        return LuaTensor(name, tuple(value.shape), value.stride(), value.storage_offset(), self._storage(value))

    def _storage(self, value: Tensor) -> LuaStorage:
        key = (storage_id(value), value.dtype)
        if key not in self._storages:
            elements = storage_tensor(value)
            name = tensor_class(numpy_dtype(value)).replace("Tensor", "Storage")
            load = elements.numpy() if elements.device.type == "cpu" else lambda: elements.cpu().numpy()
            self._storages[key] = LuaStorage(name, elements.numel(), load)
            self._storages[key]._torch = elements
            self._alive.append(value)
        return self._storages[key]


def _as_lua_type(tensor: Tensor) -> Tensor:
    """Copy a tensor to a dtype that Torch7 has; return a tensor of such a dtype unchanged."""
    return tensor.to({torch.bool: torch.uint8, torch.bfloat16: torch.float32}.get(tensor.dtype, tensor.dtype))
