"""Recurrent layers of skip-thoughts.torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.modules.rnn.gated import GRU
from dpnn_bridge.modules.rnn.mask import masked_call, zero_rows
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.GRUST")
class GRUST(GRU):
    r"""Gated recurrent unit, one time step per call.

    The reset gate is applied after the matrix product: the candidate is :math:`\tanh(W_c x + b_c + r \odot U_c h)`, and
    the new state is :math:`(1 - z) \odot \text{candidate} + z \odot h`.

    Args:
        recurrent_module: maps ``[input, h]`` to the new state ``h``.
        rho: maximum number of time steps for backpropagation through time.
        input_size, output_size: numbers of features.

    Shape:
        - Input: :math:`(N, I)` or :math:`(I)`.
        - Output: :math:`(N, O)` or :math:`(O)`.

    Lua:
        ``nn.GRUST(inputSize, outputSize, rho, p, mono)``, skip-thoughts torch/GRUST.lua
    """

    class Lua(GRU.Lua):
        checked_by = "formula"
        test = "test_grust_gates_what_comes_from_the_state"


@lua_class("nn.MaskZeroCopy")
class MaskZeroCopy(Decorator):
    """Replaces the output by rows of the previous output where the input is zero.

    As in Torch7, z zero rows of the input are replaced by the *first* z rows of the previous output. These rows have no
    gradient. The first call replaces no row.

    Args:
        module: the decorated module.
        input_dims: number of dimensions of one sample of the first input tensor.

    Attributes:
        last: the previous output, a buffer; None before the first call. ``forget()`` does not change it.

    Shape:
        - Input: one sample or a batch; in a list, the first tensor determines the masked rows.
        - Output: shape of the module's output.

    Differs from PyTorch:
        As for :class:`~dpnn_bridge.modules.rnn.mask.MaskZero`, masked rows contribute to the gradients of the last
        parameters.

    Differs from Torch7:
        In training, Torch7 has a clone with its own previous output for each time step; here there is only one.

    Lua:
        ``nn.MaskZeroCopy(module, nInputDim, silent, backward)``, skip-thoughts torch/MaskZeroCopy.lua
    """

    last: Tensor | None

    fx_leaf = True

    def __init__(self, module: nn.Module, input_dims: int) -> None:
        super().__init__(module)
        self.input_dims = input_dims
        self.register_buffer("last", None, persistent=False)

    def forward(self, input: Any) -> Tensor:
        mask = zero_rows(input, self.input_dims)
        output = masked_call(self.module, input, mask)
        rows = mask.reshape([*mask.shape, *[1] * (output.dim() - mask.dim())]).expand_as(output)
        if self.last is None:
            with torch.no_grad():
                kept = self.module(input).where(rows, 0)
        else:
            kept = torch.zeros_like(output).masked_scatter(rows, self.last.to(output.dtype))
        output = output + kept
        self.last = output.detach()
        return output

    class Lua(Decorator.Lua):
        scalars = {"nInputDim": "input_dims"}
        scratch = ("zeroMask", "gradOutput")
        checked_by = "formula"
        test = "test_masked_rows_take_the_first_rows_of_the_output_before"

        @classmethod
        def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            output = obj.get("output")
            if isinstance(output, LuaTensor) and output.size:
                module.last = to_value(output)

        @classmethod
        def to_lua(cls, module: MaskZeroCopy, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return fields if module.last is None else {**fields, "output": ctx.constant(module.last, module)}
