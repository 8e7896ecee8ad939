"""Conversions of shape and type: Collapse, Convert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.memory import Trace, view_memory, view_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.dpnn.decorator import result_dtype, result_fields
from dpnn_bridge.objects import LuaObject


@lua_class("nn.Collapse")
class Collapse(nn.Module):
    r"""Flattens each sample.

    Args:
        n_input_dim: number of dimensions of one sample; an input with more has a batch dimension first.

    Shape:
        - Input: :math:`(*)` or :math:`(N, *)`.
        - Output: :math:`(\prod *)` or :math:`(N, \prod *)`.

    Lua:
        ``nn.Collapse(nInputDim)``, Collapse.lua
    """

    def __init__(self, n_input_dim: int) -> None:
        super().__init__()
        self.n_input_dim = n_input_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.unsqueeze(1).flatten(1) if input.dim() > self.n_input_dim else input.reshape(-1)

    class Lua(LuaClass):
        output_memory = view_memory
        scalars = {"nInputDim": "n_input_dim"}


@lua_class("nn.Convert")
class Convert(nn.Module):
    """Permutes or flattens dimensions, and converts to the dtype and device of the model.

    A shape is a string with one letter for each dimension: ``b`` batch, ``c`` channel, ``h`` height, ``w`` width,
    ``f`` feature, ``t`` target, or any other letter. A shape without ``b`` gets a leading ``b``.

    Args:
        input_shape: shape string such as ``"bchw"``; None: inputs of any shape, which is not changed.
        output_shape: a permutation of ``input_shape``, or ``"bf"`` (flattens each sample), ``"b"`` (from ``bf`` with
            one feature, or the first target of ``bt``), ``"bt"`` (from ``b``).
        dtype: dtype of the output; ``.double()`` and ``.to()`` change it.

    Shape:
        - Input: ``input_shape``, or ``input_shape`` without ``b`` for a single sample.
        - Output: ``output_shape``, or ``output_shape`` without ``b`` for a single sample.

    Examples:
        >>> Convert("chw", "f")(torch.zeros(2, 3, 4, 5)).shape
        torch.Size([2, 60])
        >>> Convert("chw", "hwc")(torch.zeros(3, 4, 5)).shape
        torch.Size([4, 5, 3])

    Raises:
        ValueError: ``input_shape`` cannot be converted to ``output_shape``.

    Lua:
        ``nn.Convert(inputShape, outputShape)``, Convert.lua

    Differs from Torch7:
        Torch7 accepts only samples with the size of the first input; here the size may vary. Torch7 flattens a single
        non-contiguous sample in the order of its memory.
    """

    like: Tensor

    def __init__(
        self, input_shape: str | None = None, output_shape: str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if input_shape is None and output_shape is not None:
            raise ValueError(f"Convert: output_shape {output_shape!r} requires input_shape")
        self.input_shape, self.output_shape = _with_batch(input_shape), _with_batch(output_shape or input_shape)
        if "b*" in (self.input_shape, self.output_shape) and self.input_shape != self.output_shape:
            raise ValueError("both shapes of Convert must be 'b*', or neither")
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        input = input.to(self.like)
        if self.input_shape == "b*":
            return input
        single = input.dim() < len(self.input_shape)
        if single:
            input = input.unsqueeze(self.input_shape.index("b"))
        output = self._permuted(input)
        return output.squeeze(self.output_shape.index("b")) if single and output.dim() > 1 else output

    def _permuted(self, input: Tensor) -> Tensor:
        source, target = self.input_shape, self.output_shape
        if sorted(source) == sorted(target):
            return input.permute([source.index(axis) for axis in target])
        b = source.index("b")
        if target == "bf" and source != "bt":
            return input.unsqueeze(1) if source == "b" else input.transpose(0, b).flatten(1)
        if target == "b" and sorted(source) == ["b", "t"]:
            return input.select(source.index("t"), 0)
        if target == "b" and sorted(source) == ["b", "f"]:
            if input.shape[1 - b] > 1:
                raise ValueError(
                    f"Convert from {source!r} to 'b': expected one feature, found shape {tuple(input.shape)}"
                )
            return input.select(1 - b, 0)
        if target == "bt" and source == "b":
            return input.unsqueeze(1)
        raise ValueError(f"Convert cannot convert from shape {source!r} to {target!r}")

    class Lua(LuaClass):
        scalars = {"inputShape": "input_shape", "outputShape": "output_shape"}
        constants = {"modules": empty_table}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "dtype": result_dtype(obj)}

        @classmethod
        def to_lua(cls, module: Convert, ctx: Any) -> dict[str, Any]:
            source, target = module.input_shape, module.output_shape
            any_shape = source == "b*"
            fields = {
                **super().to_lua(module, ctx),
                **result_fields(module, ctx),
                "inputBatchDim": source.index("b") + 1,
                "outputBatchDim": target.index("b") + 1,
                "nInputDim": -1 if any_shape else len(source),
                "nOutputDim": -1 if any_shape else len(target),
            }
            if any_shape or len(source) == len(target):
                fields["transposition"] = any_shape or set(source) <= set(target)
            return fields

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            source, target = obj["inputShape"], obj["outputShape"]
            if source == target or source == "b*":
                return input
            is_view = target == "bf" and source.startswith("b") and len(source) > 2
            return view_of(input, obj) if is_view else trace.computed(input)


def _with_batch(shape: str | None) -> str:
    if shape is None:
        return "b*"
    return shape if "b" in shape else f"b{shape}"
