"""Compute the activations that ``torch.onnx`` exports inexactly with other operations.

It exports the logarithm of a sigmoid as such, which is infinite from -90 on in single precision. It rounds bounds and
replaced values to single precision. It cannot export ``F.rrelu``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def _log_sigmoid(input: Tensor) -> Tensor:
    return input.clamp(max=0) - (1 + (-input.abs()).exp()).log()


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if max is not None:
        input = torch.minimum(input, input.new_tensor(max))
    return input if min is None else torch.maximum(input, input.new_tensor(min))


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return _clamp(input, min_val, max_val)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    return torch.where(input <= input.new_tensor(threshold), input.new_tensor(value), input)


def _softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    return input - _clamp(input, -lambd, lambd)


def _rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    return F.leaky_relu(input, (lower + upper) / 2)


#: function -> the same in evaluation mode, in any precision
_REPLACED: dict[Any, Callable[..., Tensor]] = {F.logsigmoid: _log_sigmoid, F.rrelu: _rrelu}
#: function -> the same in double precision
_IN_DOUBLE: dict[Any, Callable[..., Tensor]] = {
    torch.clamp: _clamp,
    Tensor.clamp: _clamp,
    F.hardtanh: _hardtanh,
    F.threshold: _threshold,
    F.softshrink: _softshrink,
}


class OnnxActivations(TorchFunctionMode):
    """Replaces the activations that ``torch.onnx`` exports inexactly, inside the ``with`` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = _REPLACED.get(func)
        if func in _IN_DOUBLE and args and args[0].dtype == torch.float64:
            replaced = _IN_DOUBLE[func]
        if replaced is not None and args and args[0].is_floating_point():
            given = inspect.signature(replaced).bind(*args, **(kwargs or {})).arguments
            numbers = [value for name, value in given.items() if name != "input"]
            changes = given.get("inplace") or given.get("training")
            if not changes and not any(isinstance(value, Tensor) for value in numbers):
                return replaced(**given)
        return func(*args, **(kwargs or {}))
