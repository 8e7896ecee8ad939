"""Compare layers that run in Lua: they may return another tensor than their field, and write into their input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.compare.nested import tensors
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.lua.autograd import same
from dpnn_bridge.lua.module import LuaModule
from dpnn_bridge.parity.buffers import is_filled


def compare_field(module: nn.Module, name: str, expected: Any, tolerance: Tolerance) -> list[Difference] | None:
    """Compare the field ``output`` or ``gradInput`` of a layer with Torch7's; None if the layer does not run in Lua."""
    value = _field(module, name)
    return None if value is None else compare(name, value, expected, tolerance)


def returns_field(module: nn.Module, name: str, returned: Any) -> bool:
    """Return whether a result of a layer is its field; True for layers that do not run in Lua."""
    if not isinstance(module, LuaModule):
        return True
    own, given = tensors(_field(module, name)), tensors(returned)
    return len(own) == len(given) and all(map(same, own, given))


def input_after_forward(module: nn.Module, input: Any) -> Any:
    """Return what a forward pass of a Lua layer leaves of an input; None for other layers and for other inputs.

    Args:
        module: a module that is not used afterwards, because the forward pass changes its state.
        input: the input.
    """
    if not isinstance(module, LuaModule) or not isinstance(input, Tensor):
        return None
    try:
        with torch.no_grad():
            return module.after_forward(input)
    except DpnnBridgeError:  # not the input of this layer
        return None


def _field(module: nn.Module, name: str) -> Any:
    value = module.obj.get(name) if isinstance(module, LuaModule) else None
    return to_value(value) if is_filled(value) else None
