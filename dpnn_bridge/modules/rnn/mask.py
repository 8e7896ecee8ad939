"""Masks of rnn: rows of zeros in the input are padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import first_tensor, map_tensors
from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import is_traced
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


def zero_rows(input: Any, dims: int) -> Tensor:
    """Return which rows of the first tensor are zero: :math:`(N)` for a batch, :math:`()` for a sample.

    A row counts as zero when the sum of its squares is zero in its own precision.

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
    """Return ``value`` with zeros in the rows of every tensor that ``mask`` selects; no gradient flows there."""
    return map_tensors(lambda t: t.masked_fill(_spread(mask, t), 0), value)


def zero_values(value: Any, mask: Tensor) -> Any:
    """Return ``value`` with zeros in the rows of every tensor that ``mask`` selects; their gradient flows as before."""
    return map_tensors(lambda t: with_gradient_of(t.masked_fill(_spread(mask, t), 0), t), value)


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape([*mask.shape, *[1] * (like.dim() - mask.dim())])


@lua_class("nn.MaskZero")
class MaskZero(Decorator):
    """Sets the output to zero where the input is zero.

    Args:
        module: the decorated module.
        input_dims: number of dimensions of one sample of the (first) input tensor.

    Shape:
        - Input: one sample or a batch; of a list, the first tensor says what is masked.
        - Output: the module's; masked rows are zero.

    Lua:
        ``nn.MaskZero(module, nInputDim)``, MaskZero.lua

    Differs from PyTorch:
        As in Torch7 the masked rows count in the gradients of the parameters of the *last* layer (a bias, in effect),
        though not in the gradient of the input. With a criterion that masks as well this makes no difference.
    """

    fx_leaf = True

    def __init__(self, module: nn.Module, input_dims: int) -> None:
        super().__init__(module)
        self.input_dims = input_dims

    def forward(self, input: Any) -> Any:
        mask = zero_rows(input, self.input_dims)
        return masked_call(self.module, input, mask)

    class Lua(Decorator.Lua):
        scalars = {"nInputDim": "input_dims"}
        scratch = ("zeroMask", "gradOutput")


def masked_call(module: nn.Module, input: Any, mask: Tensor) -> Any:
    """Return ``module(input)`` without the masked rows; they count in the parameter gradients of the last layers."""
    if type(module) is nn.Sequential and len(module):
        *body, last = module
        for member in body:
            input = member(input)
        return masked_call(last, input, mask)
    if type(module) is ConcatTable:
        return [masked_call(member, input, mask) for member in module]
    if type(module) is ParallelTable:
        return [masked_call(member, input[i], mask) for i, member in enumerate(module)]
    has_parameters = any(True for _ in module.parameters())
    if not has_parameters or any(True for _ in module.children()):
        return without_rows(module(input), mask)
    stopped = map_tensors(lambda t: torch.where(_spread(mask, t), t.detach(), t), input)
    return zero_values(module(stopped), mask)


def trimmed_call(module: nn.Module, input: Any, rows: Tensor) -> Any:
    """Apply ``module`` to the selected rows only; the others give zeros."""
    places = rows.nonzero().flatten()
    output = module(map_tensors(lambda t: t.index_select(0, places), input))
    return map_tensors(lambda t: t.new_zeros(len(rows), *t.shape[1:]).index_copy(0, places, t), output)


@lua_class("nn.TrimZero")
class TrimZero(MaskZero):
    """Like :class:`MaskZero`; the gradient for a batch is the derivative.

    Args:
        module: the decorated module.
        input_dims: number of dimensions of one sample of the (first) input tensor.

    Shape:
        - Input: one sample or a batch; of a list, the first tensor says what is masked.
        - Output: the module's; masked rows are zero.

    Lua:
        ``nn.TrimZero(module, nInputDim)``, TrimZero.lua. Torch7 runs the module on the other rows only; here so in
        training around a batch normalization, elsewhere the result is the same without. Where all rows are masked the
        first one takes part, and its gradient reaches the parameters, as in Torch7, which meant to clear it. Torch7
        raises in backward where the module ends in a layer with parameters; here it works.
    """

    def forward(self, input: Any) -> Any:
        mask = zero_rows(input, self.input_dims)
        if not mask.dim():
            return masked_call(self.module, input, mask)
        leaking = mask.all() & (torch.arange(len(mask), device=mask.device) == 0)
        input = map_tensors(lambda t: torch.where(_spread(leaking, t), t.detach(), t), input)
        if any(m.training and isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.module.modules()):
            output = trimmed_call(self.module, input, ~mask | leaking)
        else:
            output = without_rows(self.module(input), mask & ~leaking)
        return zero_values(output, leaking)

    class Lua(MaskZero.Lua):
        faults = (
            Fault(
                ("gradParams",),
                "the first row of a step that is masked as a whole leaks into the gradients of parameters in Torch7",
                spreads=False,
            ),
        )
        scratch = (*MaskZero.Lua.scratch, "temp", "gradTemp")

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            kind = ctx.type_of(module)
            return super().to_lua(module, ctx) | {name: LuaTensor.empty(kind) for name in ("temp", "gradTemp")}


@lua_class("nn.LookupTableMaskZero")
class LookupTableMaskZero(LookupTable):
    """A table of rows whose index 0 gives zeros, for padding.

    Args:
        num_embeddings: number of rows, that of index 0 included.
        embedding_dim: size of a row.

    Attributes:
        weight: row 0 is set to zero by every call that is neither traced nor compiled; its gradient is accumulated all
            the same, as in Torch7.

    Shape:
        - Input: :math:`(*)`, 0 for padding, else counted from 1 (whatever ``index_base`` other modules use).
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
            self.weight.data[0] = 0  # data: autograd and tracers see no change of the parameter
        rows = super().forward(input)
        return torch.where((input.long() == 0).unsqueeze(-1), rows - rows.detach(), rows)

    class Lua(LookupTable.Lua):
        version = 1
