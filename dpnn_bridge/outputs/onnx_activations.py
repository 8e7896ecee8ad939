"""Compute the activations that ``torch.onnx`` exports inexactly with other operations.

It exports the logarithm of a sigmoid as such, which is infinite from -90 on in single precision. It rounds bounds and
replaced values to single precision.
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


#: function -> the same in double precision
_IN_DOUBLE: dict[Any, Callable[..., Tensor]] = {
    torch.clamp: _clamp,
    Tensor.clamp: _clamp,
    F.hardtanh: _hardtanh,
    F.threshold: _threshold,
}


class OnnxActivations(TorchFunctionMode):
    """Replaces the activations that ``torch.onnx`` exports inexactly, inside the ``with`` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.logsigmoid and args[0].is_floating_point():
            return _log_sigmoid(*args)
        replaced = _IN_DOUBLE.get(func)
        if replaced is not None and args and args[0].dtype == torch.float64:
            given = inspect.signature(replaced).bind(*args, **(kwargs or {})).arguments
            numbers = [value for name, value in given.items() if name != "input"]
            if not given.get("inplace") and not any(isinstance(value, Tensor) for value in numbers):
                return replaced(**given)
        return func(*args, **(kwargs or {}))
