"""Linear layers for sparse inputs, given as indices and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import rows_at
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient


def row_numbers(sizes: Tensor, count: int) -> Tensor:
    """Return the 0-based sample of each of ``count`` elements, from the samples' sizes: ``[2, 1]`` -> ``[0, 0, 1]``."""
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=count)


def lengths(samples: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the lengths of the tensors, as a tensor on a device."""
    return torch.tensor([len(s) for s in samples], dtype=torch.long, device=device)


def weighted_sum(rows: Tensor, values: Tensor, weight: Tensor, bias: Tensor, n_rows: int) -> Tensor:
    """Compute, for each sample, the sum of its elements' products ``value * weight``, plus ``bias``.

    Args:
        rows: 0-based sample of each of K elements.
        values: value of each element, of shape (K).
        weight: row of the weight for each element, of shape (K, D).
        bias: bias of shape (D).
        n_rows: number of samples.

    Returns:
        The sums, of shape (n_rows, D).
    """
    terms = values.unsqueeze(1) * weight
    return bias.expand(n_rows, -1).index_add(0, rows, terms)


@lua_class("nn.SparseLinear")
class SparseLinear(nn.Module):
    r"""A linear layer for sparse vectors.

    Args:
        in_features: number of features of a sample.
        out_features: number of output features.
        weight_decay: factor of the weight, which is added to its gradient.
        do_grad_input: whether the values of the input get a gradient.
        index_base: index of the first feature.

    Shape:
        - Input: a list of :math:`N` tensors :math:`(K_i, 2)` with rows (index, value); a tensor :math:`(K, 2)` for a
          single sample; a tensor :math:`(N, K, 2)`; or a sparse tensor of PyTorch :math:`(N, D_{in})`, whose indices
          start at 0.
        - Output: :math:`(N, D_{out})`, or :math:`(D_{out})` for a single sample.

    Attributes:
        weight: weight of shape :math:`(D_{out}, D_{in})`.
        bias: bias of shape :math:`(D_{out})`.

    Lua:
        ``nn.SparseLinear(inputSize, outputSize, doGradInput)``, SparseLinear.lua

    Differs from Torch7:
        With ``do_grad_input``, Torch7 returns the gradient of all :math:`D_{in}` features; autograd computes only the
        gradient of the values in the input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_decay: float = 0,
        do_grad_input: bool = False,
        *,
        index_base: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight_decay, self.do_grad_input, self.index_base = weight_decay, do_grad_input, index_base
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from Torch7's uniform distributions."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound * 1e-6, bound * 1e-6)

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        rows, columns, values, n_rows = self._entries(input)
        if not self.do_grad_input:
            values = values.detach()
        weight = self.weight
        if self.weight_decay:
            weight = add_gradient(weight, self.weight_decay * weight.detach())
        # the index of a value 0 may be out of range
        columns = columns.where((columns >= 0) & (columns < self.in_features) | (values != 0), 0)
        output = weighted_sum(rows, values, rows_at(weight.t(), columns, self.index_base), self.bias, n_rows)
        return output[0] if isinstance(input, Tensor) and input.dim() == 2 and not is_sparse(input) else output

    def _entries(self, input: Tensor | list[Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return 0-based sample, 0-based column and value of each element, and the number of samples."""
        if isinstance(input, Tensor) and is_sparse(input):
            coo = input.to_sparse_coo().coalesce()
            return coo.indices()[0], coo.indices()[1], coo.values(), input.shape[0]
        if isinstance(input, Tensor):
            batch = input if input.dim() == 3 else input.unsqueeze(0)
            sizes, entries = lengths([*batch], batch.device), batch.flatten(0, 1)
        else:
            entries = torch.cat(input) if input else self.weight.new_empty(0, 2)
            sizes = lengths(input, entries.device)
        return row_numbers(sizes, len(entries)), entries[:, 0].long() - self.index_base, entries[:, 1], len(sizes)

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput",),
                "Torch7 returns a gradient of the dense vector, autograd the gradient of the values in the input",
                spreads=False,
            ),
        )
        tensors = ("weight", "bias")
        sizes = {"weight": ("out_features", "in_features")}
        indexed = True
        scalars = {"weightDecay": "weight_decay", "doGradInput": "do_grad_input"}
        defaults = {"weightDecay": 0, "doGradInput": False}
        constants = {"gradInput": empty_table, "sparseUpdate": 0}
        scratch = ("lastInput", "formatted_input", "sparseUpdate")

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "sparseUpdate": 0}


def is_sparse(tensor: Tensor) -> bool:
    """Return whether a tensor has one of PyTorch's sparse layouts."""
    return tensor.layout != torch.strided


@lua_class("nn.IndexLinear")
class IndexLinear(nn.Module):
    r"""A linear layer for sparse vectors given as keys and values, with optional normalization of the values.

    Args:
        in_features: number of keys.
        out_features: number of output features.
        offset: number that is added to a key, counted from 1, for its 0-based row in the weight.
        normalize: divide each value by the largest absolute value of its key in training. The weight then has four
            additional first columns: this maximum, its inverse, a learning rate and an offset of the values.
        do_grad_input: whether the values of the input get a gradient.
        index_base: index of the first key.

    Shape:
        - Input: ``[keys, values]`` with two lists of :math:`N` vectors or, for a single sample, two vectors; or
          ``[keys, values, sizes]`` with the concatenated keys and values of all samples, and the sizes of the samples.
        - Output: :math:`(N, D_{out})`, or :math:`(D_{out})` for a single sample.

    Attributes:
        weight: weight of shape :math:`(D_{in}, D_{out})`, with ``normalize`` :math:`(D_{in}, 4 + D_{out})`.
        bias: bias of shape :math:`(D_{out})`.

    Lua:
        ``nn.IndexLinear(inputSize, outputSize, doGradInput, keysOffset, weight, bias, normalize)``, IndexLinear.lua

    Differs from Torch7:
        Torch7 stores the gradient of the weight as a table with one row per key in the input; here it is an ordinary
        gradient. With ``do_grad_input``, Torch7 returns the gradient of all :math:`D_{in}` values; autograd computes
        only the gradient of the values in the input.

        With ``normalize``, Torch7's ``updateParameters`` updates the offset of a key once for each occurrence, each
        time with the weight after the previous update; here all updates use the weight before the step. If a key occurs
        twice in a batch, the offsets differ by the order of the squared learning rate: by 2e-6, 7e-5 and 6e-3 at rates
        of 0.001, 0.01 and 0.1, with weights and gradients of about 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        offset: int = -1,
        normalize: bool = False,
        do_grad_input: bool = False,
        *,
        index_base: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.offset, self.normalize, self.do_grad_input = offset, normalize, do_grad_input
        self.index_base = index_base
        columns = out_features + (4 if normalize else 0)
        self.weight = nn.Parameter(torch.zeros(in_features, columns, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))

    def forward(self, input: list[Any]) -> Tensor:
        keys, values, sizes, single = self._flat(input)
        columns = keys.long() + (1 - self.index_base + self.offset)
        if not self.do_grad_input:
            values = values.detach()
        weight = rows_at(self.weight, columns, self.index_base - 1 - self.offset)
        if self.normalize:
            values = normalized(self.weight, columns, values, self.training) + weight[:, 3]
            weight = weight[:, 4:]
        output = weighted_sum(row_numbers(sizes, len(values)), values, weight, self.bias, len(sizes))
        return output[0] if single else output

    def _flat(self, input: list[Any]) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Return all keys, all values, the sizes of the samples, and whether the input is one sample without batch."""
        keys, values = input[0], input[1]
        if len(input) == 3:
            sizes = input[2] if isinstance(input[2], Tensor) else torch.tensor([int(input[2])], device=keys.device)
            return keys, values, sizes.long(), False
        if isinstance(keys, Tensor):
            return keys, values, lengths([keys], keys.device), True
        return torch.cat(keys), torch.cat(values), lengths(keys, keys[0].device), False

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput",),
                "Torch7 returns a gradient of the dense vector, autograd the gradient of the values in the input",
                spreads=False,
            ),
            Fault(
                ("gradWeight",),
                "Torch7 stores a table of rows instead of a gradient tensor",
                spreads=False,
                listed=False,
            ),
        )
        computed_fields = ("inputSize", "outputSize", "normalize")
        tensors = ("weight", "bias")
        sizes = {"weight": ("in_features", None), "bias": "out_features"}
        scalars = {"offset": "offset", "doGradInput": "do_grad_input"}
        defaults = {"offset": -1, "doGradInput": False}
        default_training = False  # Torch7 updates the statistics only after a call of training()
        scratch = (
            *("gradWeight", "gradWeightBuffer", "valuesBuffer", "normalizedValues", "sizesCache", "cumSumSizesCache"),
            *(
                "running",
                "keys",
                "values",
                "sizes",
                "cumSumSizes",
                "lkeys",
                "lvalues",
                "updateKeys",
                "updateKeysBuffer",
            ),
        )
        constants = {
            "sizesCache": empty_table,
            "cumSumSizesCache": empty_table,
            "gradWeightBuffer": LuaTensor.empty,
            "valuesBuffer": LuaTensor.empty,
            "normalizedValues": LuaTensor.empty,
            "weightDecay": 0,
        }

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> IndexLinear:
            arguments = cls.arguments(obj, ctx)
            normalize = obj["weight"].shape[1] > arguments["out_features"]
            return IndexLinear(**arguments, normalize=normalize, index_base=ctx.index_base)

        @classmethod
        def to_lua(cls, module: IndexLinear, ctx: LuaContext) -> dict[str, Any]:
            running = LuaTable({"cumSumSizes": LuaTable(), "keys": LuaTable(), "gradWeight": LuaTable(), "counter": 1})
            return {
                **super().to_lua(module, ctx),
                "inputSize": module.weight.shape[0],
                "outputSize": module.bias.shape[0],
                "normalize": 4 if module.normalize else 0,
                "gradWeight": LuaTensor.empty(ctx.type_of(module)),
                "running": running,
            }


@torch.no_grad()
def normalized(weight: Tensor, columns: Tensor, values: Tensor, training: bool) -> Tensor:
    """Divide the values by the largest absolute value of their key so far.

    Args:
        weight: weight with one row per key, whose first three columns are the largest absolute value, its inverse, and
            the learning rate.
        columns: row of each element's key in the weight.
        values: value of each element.
        training: update the three columns in the order of the elements.

    Returns:
        The normalized values, between -1 and 1.
    """
    largest, inverse = weight[columns, 0], weight[columns, 1]
    if training:
        seen = torch.maximum(running_maximum(columns, values.abs()), largest)
        inverse = torch.where(seen > largest, 1 / seen, inverse)
        grown = torch.where(seen > largest, seen, largest)
        weight[:, 0].scatter_reduce_(0, columns, grown, "amax")
        changed = weight[columns, 0] > largest
        weight[columns[changed], 1] = 1 / weight[columns[changed], 0]
        weight[columns, 2] = 1
        largest = seen
    return torch.where(values.abs() > largest, values.sign(), values * inverse)


def running_maximum(keys: Tensor, values: Tensor) -> Tensor:
    r"""Compute the cumulative maximum of the values of each key, in :math:`\log n` steps."""
    order = keys.argsort(stable=True)
    keys, result = keys[order], values[order]
    step = 1
    while step < len(keys):
        same = keys[step:] == keys[:-step]
        before = torch.where(same, result[:-step], result[step:])
        result = torch.cat([result[:step], torch.maximum(result[step:], before)])
        step *= 2
    return torch.empty_like(result).index_copy_(0, order, result)
