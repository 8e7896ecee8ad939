"""Linear maps of sparse inputs, which are given as indices and values."""

from __future__ import annotations

import math
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
    """Return the sample of each of ``count`` entries: ``[2, 1]`` -> ``[0, 0, 1]``."""
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=count)


def lengths(entries: list[Tensor]) -> Tensor:
    """Return the lengths of a list of tensors, as a tensor on their device."""
    return torch.tensor([len(e) for e in entries], device=entries[0].device if entries else None)


def weighted_sum(rows: Tensor, values: Tensor, weight: Tensor, bias: Tensor, n_rows: int) -> Tensor:
    """Compute, for each sample, the sum of its values times their rows of ``weight``, plus ``bias``."""
    terms = values.unsqueeze(1) * weight
    return bias.expand(n_rows, -1).index_add(0, rows, terms)


@lua_class("nn.SparseLinear")
class SparseLinear(nn.Module):
    r"""A linear map of sparse vectors.

    Args:
        in_features: size of a sample.
        out_features: size of the output.
        weight_decay: times the weight, added to its gradient.
        do_grad_input: let the values of the input receive a gradient.
        index_base: index of the first element of a sample.

    Shape:
        - Input: a list of :math:`N` tensors :math:`(K_i, 2)` whose rows are (index, value), one such tensor for a
          single sample, a tensor :math:`(N, K, 2)`, or a sparse torch tensor :math:`(N, D_{in})`, whose indices count
          from 0 as always in torch.
        - Output: :math:`(N, D_{out})`, or :math:`(D_{out})` for a single sample.

    Attributes:
        weight: of shape :math:`(D_{out}, D_{in})`.
        bias: of shape :math:`(D_{out})`.

    Lua:
        ``nn.SparseLinear(inputSize, outputSize, doGradInput)``, SparseLinear.lua

    Differs from Torch7:
        With ``do_grad_input`` Torch7 returns the gradient of all :math:`D_{in}` elements; autograd gives that of the
        values in the input.
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
        """Draw the parameters uniformly as Torch7 does."""
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
        columns = columns.where((columns >= 0) & (columns < self.in_features) | (values != 0), 0)  # the index of a 0
        output = weighted_sum(rows, values, rows_at(weight.t(), columns, self.index_base), self.bias, n_rows)
        return output[0] if isinstance(input, Tensor) and input.dim() == 2 and not is_sparse(input) else output

    def _entries(self, input: Tensor | list[Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return the samples, 0-based columns, values and the number of samples."""
        if isinstance(input, Tensor) and is_sparse(input):
            coo = input.to_sparse_coo().coalesce()
            return coo.indices()[0], coo.indices()[1], coo.values(), input.shape[0]
        if isinstance(input, Tensor):
            batch = input if input.dim() == 3 else input.unsqueeze(0)
            sizes, entries = lengths(list(batch)).to(batch.device), batch.flatten(0, 1)
        else:
            sizes, entries = lengths(input), torch.cat(input) if input else self.weight.new_empty(0, 2)
        return row_numbers(sizes, len(entries)), entries[:, 0].long() - self.index_base, entries[:, 1], len(sizes)

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput",),
                "Torch7 returns a gradient for each element of the dense vector, autograd one for each input value",
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
    """Return whether a tensor has one of torch's sparse layouts."""
    return tensor.layout != torch.strided


@lua_class("nn.IndexLinear")
class IndexLinear(nn.Module):
    r"""A linear map of sparse vectors that are given as keys and values, with optional normalisation of the values.

    Args:
        in_features: number of keys.
        out_features: size of the output.
        offset: added to a key (counted from 1) to give its 0-based row in the weight.
        normalize: divide each value by the largest absolute value that its key had in training. The weight then has
            four columns more, in front: that maximum, its inverse, a learning rate and an offset per key.
        do_grad_input: let the values of the input receive a gradient.
        index_base: index of the first key.

    Shape:
        - Input: ``[keys, values]`` with two lists of :math:`N` vectors or, for a single sample, two vectors; or
          ``[keys, values, sizes]`` with all samples joined and their sizes.
        - Output: :math:`(N, D_{out})`, or :math:`(D_{out})` for a single sample.

    Attributes:
        weight: of shape :math:`(D_{in}, D_{out})`, with ``normalize`` :math:`(D_{in}, 4 + D_{out})`.
        bias: of shape :math:`(D_{out})`.

    Lua:
        ``nn.IndexLinear(inputSize, outputSize, doGradInput, keysOffset, weight, bias, normalize)``, IndexLinear.lua

    Differs from Torch7:
        Torch7 keeps the gradient of the weight as one row per key in the input and lists that table in place of a
        gradient tensor; here it is an ordinary gradient. With ``do_grad_input`` Torch7 returns the gradient of all
        :math:`D_{in}` values; autograd gives that of the values in the input.

        With ``normalize``, Torch7's ``updateParameters`` steps the offset of a key once for each of its entries, with
        the weight that the entry before left; here all steps take the weight of before. A key that occurs twice in a
        batch has offsets that differ by the square of the learning rate: 2e-6, 7e-5 and 6e-3 at rates of 0.001, 0.01
        and 0.1, with weights and gradients of about 1.
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
        """Return all keys and values joined, the sizes of the samples, and whether there is just one without batch."""
        keys, values = input[0], input[1]
        if len(input) == 3:
            sizes = input[2] if isinstance(input[2], Tensor) else torch.tensor([int(input[2])], device=keys.device)
            return keys, values, sizes.long(), False
        if isinstance(keys, Tensor):
            return keys, values, lengths([keys]), True
        return torch.cat(keys), torch.cat(values), lengths(keys), False

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput",),
                "Torch7 returns a gradient for each element of the dense vector, autograd one for each input value",
                spreads=False,
            ),
            Fault(("gradWeight",), "Torch7 lists a table of rows instead of a gradient tensor", spreads=False),
        )
        computed_fields = ("inputSize", "outputSize", "normalize")
        tensors = ("weight", "bias")
        sizes = {"weight": ("in_features", None), "bias": "out_features"}
        scalars = {"offset": "offset", "doGradInput": "do_grad_input"}
        defaults = {"offset": -1, "doGradInput": False}
        default_training = False  # Torch7 updates the statistics only after training() was called
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
    """Divide the values by the largest absolute value of their key so far, which training updates entry by entry.

    Args:
        weight: one row per key, of which the first three numbers are the largest absolute value, its inverse, and the
            scale of updates.
        columns: the row of each entry.
        values: the value of each entry.
        training: update the three numbers.
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
    r"""Compute, for each entry, the largest value of its key so far, in :math:`\log n` steps."""
    order = keys.argsort(stable=True)
    keys, result = keys[order], values[order]
    step = 1
    while step < len(keys):
        same = keys[step:] == keys[:-step]
        before = torch.where(same, result[:-step], result[step:])
        result = torch.cat([result[:step], torch.maximum(result[step:], before)])
        step *= 2
    return torch.empty_like(result).index_copy_(0, order, result)
