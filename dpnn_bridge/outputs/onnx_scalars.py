"""Write numbers of arithmetic operations as tensors for ``torch.onnx``, which changes or omits some numbers.

It omits an addition of a number near 0 (up to 1e-8) and a multiplication by a number near 1 (up to 1e-5), and it rounds
numbers to single precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: functions of a tensor and a number; a method in place has an underscore behind its name, an operator two around it
_ARITHMETIC = frozenset(
    (
        *("add", "sub", "rsub", "subtract", "mul", "multiply", "div", "rdiv", "rtruediv", "divide", "true_divide"),
        *("add_", "sub_", "subtract_", "mul_", "multiply_", "div_", "divide_", "true_divide_"),
    )
)
#: types in which a number and a tensor with this number give equal results
_PRECISE = (torch.float32, torch.float64)


def _as_tensor(value: Any, like: Tensor) -> Any:
    """Return a number as a tensor with one dimension, which ``torch.onnx`` compares with no number."""
    if type(value) is not float:
        return value
    return torch.tensor([value] if like.dim() else value, dtype=like.dtype, device=like.device)


class OnnxScalars(TorchFunctionMode):
    """Replaces the floating-point numbers of arithmetic operations by tensors, inside the ``with`` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").removeprefix("__").removesuffix("__")
        if name in _ARITHMETIC and not kwargs and len(args) == 2:
            tensor = next((a for a in args if isinstance(a, Tensor)), None)
            if tensor is not None and tensor.dtype in _PRECISE:
                args = [_as_tensor(value, tensor) for value in args]
        return func(*args, **(kwargs or {}))
