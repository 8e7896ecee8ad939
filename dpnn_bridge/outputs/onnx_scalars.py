"""Write numbers of arithmetic operations as tensors for ``torch.onnx``, which changes or omits some numbers.

It omits an addition of a number near 0 (up to 1e-8) and a multiplication by a number near 1 (up to 1e-5), and it rounds
numbers to single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: method of tensors -> function of tensors; a name with a leading r exchanges the operands
_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "truediv": torch.div,
    "true_divide": torch.div,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
}
#: types in which a number and a tensor with this number give equal results
_PRECISE = (torch.float32, torch.float64)


def _as_tensor(number: float, like: Tensor) -> Tensor:
    """Return a number as a tensor with one dimension, which ``torch.onnx`` compares with no number."""
    return torch.tensor([number] if like.dim() else number, dtype=like.dtype, device=like.device)


class OnnxScalars(TorchFunctionMode):
    """Replaces the floating-point numbers of arithmetic operations by tensors, inside the ``with`` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").removeprefix("__").removesuffix("__")
        operation = _ARITHMETIC.get(name) or _ARITHMETIC.get(name.removeprefix("r"))
        if operation is None or kwargs or len(args) != 2:
            return func(*args, **(kwargs or {}))
        tensor, number = args if isinstance(args[0], Tensor) else args[::-1]
        if type(number) is not float or not isinstance(tensor, Tensor) or tensor.dtype not in _PRECISE:
            return func(*args)
        other = _as_tensor(number, tensor)
        exchanged = name not in _ARITHMETIC or tensor is not args[0]
        return operation(other, tensor) if exchanged else operation(tensor, other)
