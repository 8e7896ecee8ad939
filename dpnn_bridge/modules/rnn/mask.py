"""Masking in rnn: rows of zeros in the input are padding."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import first_tensor, map_tensors
from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.memory import decorated_copied_memory, new_memory
from dpnn_bridge.conversion.placeholder import bridge_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import is_traced
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


def zero_rows(input: Any, dims: int) -> Tensor:
    """Return whether each row of the first tensor is zero: :math:`(N)` for a batch, :math:`()` for a sample.

    A row is zero if the sum of its squares is zero in the precision of the tensor.

    Args:
        input: a tensor, or nested lists of tensors.
        dims: number of dimensions of one sample.

    Raises:
        ValueError: the tensor is neither a sample nor a batch.
    """
    first = first_tensor(input)
    if first.dim() not in (dims, dims + 1):
        raise ValueError(f"expected {dims} dimensions, or {dims + 1} for a batch, found shape {tuple(first.shape)}")
    start = first.dim() - dims
    return first.square().flatten(start).sum(start) == 0 if dims else first == 0


def without_rows(value: Any, mask: Tensor) -> Any:
    """Set the rows of every tensor that ``mask`` selects to zero; these rows get no gradient."""
    return map_tensors(lambda t: t.masked_fill(_expanded(mask, t), 0), value)


def zero_values(value: Any, mask: Tensor) -> Any:
    """Set the rows of every tensor that ``mask`` selects to zero; these rows still get their gradient."""
    return map_tensors(lambda t: with_gradient_of(t.masked_fill(_expanded(mask, t), 0), t), value)


def _expanded(mask: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of size 1 to a mask of rows, so that it broadcasts with ``like``."""
    return mask.reshape([*mask.shape, *[1] * (like.dim() - mask.dim())])


@lua_class("nn.MaskZero")
class MaskZero(Decorator):
    """Sets the rows of the output to zero for which the input is zero.

    Args:
        module: the decorated module.
        input_dims: number of dimensions of one sample of the (first) input tensor.

    Shape:
        - Input: one sample or a batch; the first tensor of a list determines the masked rows.
        - Output: the module's output, with zeros in masked rows.

    Lua:
        ``nn.MaskZero(module, nInputDim)``, MaskZero.lua

    Differs from PyTorch:
        As in Torch7, gradients of masked output rows reach the parameters of the *last* layer (in effect, its bias),
        but not the input. With a masking criterion these gradients are zero.
    """

    fx_leaf = True

    def __init__(self, module: nn.Module, input_dims: int) -> None:
        super().__init__(module)
        self.input_dims = input_dims

    def forward(self, input: Any) -> Any:
        mask = zero_rows(input, self.input_dims)
        return masked_call(self.module, input, mask)

    class Lua(Decorator.Lua):
        output_memory = decorated_copied_memory
        scalars = {"nInputDim": "input_dims"}
        scratch = ("zeroMask", "gradOutput")


def masked_call(module: nn.Module, input: Any, mask: Tensor) -> Any:
    """Return ``module(input)`` with zeros in the masked rows, whose gradients reach only parameters of last layers."""
    if type(module) is nn.Sequential and len(module):
        *body, last = module
        for child in body:
            input = child(input)
        return masked_call(last, input, mask)
    if type(module) is ConcatTable:
        return [masked_call(child, input, mask) for child in module]
    if type(module) is ParallelTable:
        return [masked_call(child, input[i], mask) for i, child in enumerate(module)]
    if bridge_of(module) is not None:
        return zero_values(module(input, mask=partial(without_rows, mask=mask)), mask)
    has_parameters = any(True for _ in module.parameters())
    if not has_parameters or any(True for _ in module.children()):
        return without_rows(module(input), mask)
    stopped = map_tensors(lambda t: torch.where(_expanded(mask, t), t.detach(), t), input)
    return zero_values(module(stopped), mask)


def trimmed_call(module: nn.Module, input: Any, rows: Tensor) -> Any:
    """Apply ``module`` only to the rows that the mask ``rows`` selects; the other rows of the output are zero."""
    indices = rows.nonzero().flatten()
    output = module(map_tensors(lambda t: t.index_select(0, indices), input))
    return map_tensors(lambda t: t.new_zeros(len(rows), *t.shape[1:]).index_copy(0, indices, t), output)


@lua_class("nn.TrimZero")
class TrimZero(MaskZero):
    """Like :class:`MaskZero`, but the gradient for a batch is the derivative.

    Args:
        module: the decorated module.
        input_dims: number of dimensions of one sample of the (first) input tensor.

    Shape:
        - Input: one sample or a batch; the first tensor of a list determines the masked rows.
        - Output: the module's output, with zeros in masked rows.

    Lua:
        ``nn.TrimZero(module, nInputDim)``, TrimZero.lua. Torch7 runs the module only on the rows that are not masked;
        here this is done only if the module contains a batch normalization in training mode, because otherwise the
        result is equal. If all rows are masked, the module runs on the first row, whose gradient reaches the
        parameters; this is a fault of Torch7.

    Differs from Torch7:
        If the last layer of the module has parameters, Torch7's backward pass raises an error; here it works.
    """

    def forward(self, input: Any) -> Any:
        mask = zero_rows(input, self.input_dims)
        if not mask.dim():
            return masked_call(self.module, input, mask)
        leaking = mask.all() & (torch.arange(len(mask), device=mask.device) == 0)
        input = map_tensors(lambda t: torch.where(_expanded(leaking, t), t.detach(), t), input)
        if any(m.training and isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.module.modules()):
            output = trimmed_call(self.module, input, ~mask | leaking)
        else:
            output = without_rows(self.module(input), mask & ~leaking)
        return zero_values(output, leaking)

    class Lua(MaskZero.Lua):
        output_memory = new_memory
        faults = (
            Fault(
                ("gradParams",),
                "if all rows of a time step are masked, Torch7 adds the gradient of the first row to the parameters",
                spreads=False,
            ),
        )
        scratch = (*MaskZero.Lua.scratch, "temp", "gradTemp")

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            tensor_class = ctx.type_of(module)
            return super().to_lua(module, ctx) | {name: LuaTensor.empty(tensor_class) for name in ("temp", "gradTemp")}


@lua_class("nn.LookupTableMaskZero")
class LookupTableMaskZero(LookupTable):
    """A lookup table whose output for index 0, the padding, is zero.

    Args:
        num_embeddings: number of rows, including row 0.
        embedding_dim: size of a row.

    Attributes:
        weight: the rows. Every call that is neither traced nor compiled sets row 0 to zero, also in evaluation mode;
            as in Torch7, the gradient of row 0 is accumulated nevertheless.

    Shape:
        - Input: :math:`(*)`, 0 for padding, otherwise from 1, regardless of the ``index_base`` of other modules.
        - Output: :math:`(*, D)`.

    Examples:
        >>> LookupTableMaskZero(3, 2)(torch.tensor([0]))
        tensor([[0., 0.]], grad_fn=<WhereBackward0>)

    Lua:
        ``nn.LookupTableMaskZero(nIndex, nOutput)``, LookupTableMaskZero.lua; the weight has nIndex + 1 rows
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.index_base = 0

    def forward(self, input: Tensor) -> Tensor:
        if not (is_traced() or torch.compiler.is_compiling()):
            self.weight.data[0] = 0  # .data, so that autograd and tracers do not record the change
        rows = super().forward(input)
        return torch.where((input.long() == 0).unsqueeze(-1), rows - rows.detach(), rows)

    class Lua(LookupTable.Lua):
        version = 1
