"""Layers that replace, clip or print their input: Constant, Clip, PrintSize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.display import printable
from dpnn_bridge.compare.nested import map_tensors
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.memory import same_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.torch7.gradient import notice_gradient, with_gradient_of, zero_gradient


@lua_class("nn.Clip")
class Clip(nn.Module):
    """Clamps its input to ``[minval, maxval]``; the gradient is not changed, also where values are clamped.

    Args:
        minval: smallest output; used for all elements if it is larger than ``maxval``.
        maxval: largest output.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Clip(minval, maxval)``, Clip.lua

    Differs from PyTorch:
        The gradient of :func:`torch.clamp` is zero where values are clamped.
    """

    def __init__(self, minval: float, maxval: float) -> None:
        super().__init__()
        self.minval, self.maxval = minval, maxval

    def forward(self, input: Tensor) -> Tensor:
        return with_gradient_of(input.detach().clamp(self.minval, max(self.minval, self.maxval)), input)

    class Lua(LuaClass):
        scalars = ("minval", "maxval")


@lua_class("nn.Constant")
class Constant(nn.Module):
    r"""Returns a constant for any input.

    Args:
        value: the constant.
        n_input_dim: number of dimensions of one sample; an input with more is a batch, and the constant is repeated for
            each sample. None: the output is the constant itself.

    Attributes:
        value: the constant as a buffer; it is not trained.

    Shape:
        - Input: :math:`(N, *)`, or any value.
        - Output: :math:`(N, \text{value's shape})`, or the value's shape.

    Lua:
        ``nn.Constant(value, nInputDim)``, Constant.lua
    """

    value: Tensor

    def __init__(self, value: float | Tensor, n_input_dim: int | None = None) -> None:
        super().__init__()
        self.register_buffer("value", value if isinstance(value, Tensor) else torch.tensor([float(value)]))
        self.n_input_dim = n_input_dim

    def forward(self, input: Any) -> Tensor:
        if self.n_input_dim is None or input.dim() <= self.n_input_dim:
            output = self.value.clone()
        else:
            output = self.value.expand(len(input), *self.value.shape).clone(memory_format=torch.contiguous_format)
        return zero_gradient(output, input) if isinstance(input, Tensor) else output

    def extra_repr(self) -> str:
        shape = "x".join(map(str, self.value.shape))
        return shape if self.n_input_dim is None else f"{shape}, n_input_dim={self.n_input_dim}"

    class Lua(LuaClass):
        scalars = {"nInputDim": "n_input_dim"}
        defaults = {"nInputDim": None}
        tensors = ("value",)
        tensor_args = ("value",)


@lua_class("nn.PrintSize")
class PrintSize(nn.Module):
    """Prints the shape of its input in the forward pass and the shape of the gradient in the backward pass.

    Args:
        prefix: start of the printed lines.

    Shape:
        - Input, output: a tensor or nested lists of tensors.

    Lua:
        ``nn.PrintSize(prefix)``, PrintSize.lua
    """

    def __init__(self, prefix: str = "PrintSize") -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, input: Any) -> Any:
        print(f"{printable(self.prefix)}:input\n {_sizes(input)}")
        return map_tensors(lambda t: notice_gradient(t, self._print_gradient) if t.requires_grad else t, input)

    def _print_gradient(self, gradient: Tensor) -> None:
        print(f"{printable(self.prefix)}:gradOutput\n {_sizes(gradient)}")

    class Lua(LuaClass):
        output_memory = same_memory
        scalars = ("prefix",)


def _sizes(value: Any) -> Any:
    return map_tensors(lambda t: tuple(t.shape), value)
