"""``nn.Bottle``, which applies a module to inputs with several batch dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.objects import LuaTensor, element_dtype


@lua_class("nn.Bottle")
class Bottle(Decorator):
    r"""Flattens several batch dimensions to one, applies a module, and restores the batch dimensions.

    Args:
        module: the module to apply.
        n_input_dims: number of dimensions of the module's input, including the batch.
        n_output_dims: number of dimensions of the module's output; default: ``n_input_dims``.

    Shape:
        - Input: :math:`(N_1, …, N_k, *)`, where the module's input is :math:`(N, *)`.
        - Output: :math:`(N_1, …, N_k, *)`, where the module's output is :math:`(N, *)`.

    Lua:
        ``nn.Bottle(module, nInputDim, nOutputDim)``, Bottle.lua

    Raises:
        ValueError: the module's output does not have ``n_output_dims`` dimensions.
    """

    fx_leaf = True

    def __init__(self, module: nn.Module, n_input_dims: int = 2, n_output_dims: int | None = None) -> None:
        super().__init__(module)
        self.n_input_dims = n_input_dims
        self.n_output_dims = n_input_dims if n_output_dims is None else n_output_dims

    def forward(self, input: Tensor) -> Tensor:
        extra = input.dim() - self.n_input_dims
        if extra <= 0:
            return self.module(input)
        batch = input.shape[: extra + 1]
        count = math.prod(batch)  # torch.export traces Size.numel() as a constant
        output = self.module(input.reshape(count, *input.shape[extra + 1 :]))
        if output.dim() != self.n_output_dims:
            raise ValueError(
                f"expected a module output with {self.n_output_dims} dimensions, found shape {tuple(output.shape)}"
            )
        same = output.shape[0] == count
        last = batch[-1] if same else output.shape[0] // math.prod(batch[:-1])
        return output.reshape(*batch[:-1], last, *output.shape[1:])

    class Lua(Decorator.Lua):
        scalars = {"nInputDim": "n_input_dims", "nOutputDim": "n_output_dims"}
        scratch = ("dimDelta", "inShape", "outShape")

        @classmethod
        def to_lua(cls, module: Bottle, ctx: LuaContext) -> dict[str, Any]:
            tensor_class = ctx.type_of(module)
            counts = (module.n_input_dims, module.n_output_dims)  # limited, because a damaged file can have any number
            inputs, outputs = (np.zeros(min(n, MAX_DIMENSIONS), element_dtype(tensor_class)) for n in counts)
            return {
                **super().to_lua(module, ctx),
                "dimDelta": module.n_input_dims - module.n_output_dims,
                "inShape": LuaTensor.from_numpy(inputs, tensor_class),
                "outShape": LuaTensor.from_numpy(outputs, tensor_class),
            }
