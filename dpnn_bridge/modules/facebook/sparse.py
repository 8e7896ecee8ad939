"""Layers of fbnn for sparse inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion
from dpnn_bridge.modules.nn.indices import rows_at
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.nn.sparse import SparseLinear, weighted_sum
from dpnn_bridge.objects import LuaTensor


@lua_class("fbnn.SparseLinear")
class KeyValueLinear(SparseLinear):
    """A linear layer for sparse vectors that also accepts separate keys and values.

    Args:
        in_features, out_features, weight_decay, do_grad_input, index_base: as in
            :class:`~dpnn_bridge.modules.nn.sparse.SparseLinear`.

    Shape:
        - Input: ``[keys, values]``, both :math:`(N, K)` or :math:`(K)`; or an input tensor of :class:`SparseLinear`.
        - Output: :math:`(N, D_{out})`, or :math:`(D_{out})` for a single sample.

    Lua:
        ``fbnn.SparseLinear(inputSize, outputSize, useSparseUpdate, skipUpdateGradInput)``, fbnn SparseLinear.lua
    """

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        output = super().forward(input)
        return output[0] if not isinstance(input, Tensor) and len(output) == 1 else output

    def _entries(self, input: Tensor | list[Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
        if isinstance(input, Tensor):
            return super()._entries(input)
        keys, values = (part.reshape(-1, part.shape[-1]) for part in input)
        rows = torch.arange(len(keys), device=keys.device).repeat_interleave(keys.shape[1])
        return rows, keys.flatten().long() - self.index_base, values.flatten(), len(keys)

    class Lua(SparseLinear.Lua):
        scratch = ("lastInput", "lastInputKey", "lastInputVal", "formatted_input")
        constants = {"numBackward": 0}
        checked_by = "formula"
        test = "test_sparse_linear_of_fbnn_takes_keys_and_values"


@lua_class("fbnn.SegSparseLinear")
class SegSparseLinear(nn.Module):
    """A linear layer for a batch of sparse vectors given as one list of elements.

    Args:
        in_features, out_features: numbers of features.
        index_base: index of the first sample and of the first key.

    Attributes:
        weight: :math:`(D_{in}, D_{out})`.
        bias: :math:`(D_{out})`.

    Shape:
        - Input: ``[samples, keys, values]``, all :math:`(K)`: sample index, feature index and value of each element.
          The argument ``batch_size`` of ``forward`` defaults to the largest sample index.
        - Output: :math:`(N, D_{out})`.

    Differs from PyTorch:
        As in Torch7, the values get no gradient.

    Lua:
        ``fbnn.SegSparseLinear(inputSize, outputSize)``, fbnn SegSparseLinear.lua
    """

    def __init__(self, in_features: int, out_features: int, index_base: int = 1, device: Any = None) -> None:
        super().__init__()
        self.index_base = index_base
        self.weight = nn.Parameter(torch.empty(in_features, out_features, device=device))
        self.bias = nn.Parameter(torch.empty(out_features, device=device))
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound * 1e-6, bound * 1e-6)

    def forward(self, input: list[Tensor], batch_size: int | None = None) -> Tensor:
        samples, keys, values = input
        rows = samples.long() - self.index_base
        count = batch_size if batch_size is not None else int(rows.max()) + 1
        weight = rows_at(self.weight, keys.long() - self.index_base, self.index_base)
        return weighted_sum(rows, values.detach(), weight, self.bias, count)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"

    class Lua(LuaClass):
        tensors = ("weight", "bias")
        sizes = {"weight": ("in_features", "out_features")}
        indexed = True
        scratch = ("_sparseBuf", "sparseGradWeightPtr", "lastInput")
        constants = {"useSparseGrad": False, "learningRateMul": 1}
        checked_by = "formula"
        test = "test_seg_sparse_linear_adds_the_entries_of_a_sample"


@lua_class("nn.SparseThreshold")
class SparseThreshold(nn.Module):
    """Applies a threshold to the values of sparse vectors.

    Args:
        module: the threshold module.

    Shape:
        - Input, output: :math:`(*, 2)`, an index and a value in each row.

    Lua:
        ``nn.SparseThreshold(threshold, value)``, fbnn SparseThreshold.lua
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Tensor) -> Tensor:
        indices, values = input.split(1, -1)
        return torch.cat([indices, self.module(values)], -1)

    class Lua(LuaClass):
        members = ("module",)
        checked_by = "formula"
        test = "test_sparse_threshold_leaves_indices_alone"


@lua_class("nn.SparseNLLCriterion")
class SparseNLLCriterion(Criterion):
    """Cross entropy with a target distribution in which K classes have a nonzero probability.

    Args:
        K: number of classes with a nonzero probability.
        do_target_check: raise an error if the probabilities of a sample do not sum to 1.
        size_average: divide by N.
        index_base: index of the first class.

    Shape:
        - Input: log probabilities :math:`(N, C)` or :math:`(C)`; target ``[probabilities, classes]``, both
          :math:`(N, K)` or :math:`(K)`, without duplicate classes.
        - Output: scalar.

    Lua:
        ``nn.SparseNLLCriterion(K)``, fbnn SparseNLLCriterion.lua

    Raises:
        ValueError: the probabilities of a sample do not sum to 1.
    """

    def __init__(self, K: int, do_target_check: bool = True, size_average: bool = True, index_base: int = 1) -> None:
        super().__init__()
        self.K, self.do_target_check = K, do_target_check
        self.size_average, self.index_base = size_average, index_base

    def forward(self, input: Tensor, target: list[Tensor]) -> Tensor:
        x = input.reshape(-1, input.shape[-1])
        probabilities, classes = (part.reshape(len(x), -1) for part in target)
        if self.do_target_check and (probabilities.sum(1) - 1).abs().max() > 1e-3:
            raise ValueError(
                "SparseNLLCriterion: the target's probabilities must sum to 1; do_target_check=False skips this check"
            )
        total = -(x.gather(1, classes.long() - self.index_base) * probabilities).sum()
        return total / len(x) if self.size_average else total

    class Lua(Criterion.Lua):
        indexed = True
        scalars = {"K": "K", "do_target_check": "do_target_check", "sizeAverage": "size_average"}
        scratch = ("tmp_buffer",)
        constants = {"tmp_buffer": LuaTensor.empty}
        checked_by = "formula"
        test = "test_sparse_likelihood_takes_a_distribution"

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "output": ctx.typed_constant(torch.zeros(1), module)}


@lua_class("nn.FasterLookup")
class FasterLookupClass(LuaClass):
    """A lookup table; ``scaleGradByFreq`` scales in the backward pass, whereas fbnn scales in the parameter update."""

    torch_type = LookupTable
    tensors = ("weight",)
    sizes = {"weight": ("num_embeddings", "embedding_dim")}
    indexed = True
    scalars = {"scaleGradByFreq": "scale_grad_by_freq"}
    defaults = {"scaleGradByFreq": False}
    checked_by = "formula"
    test = "test_faster_lookup_is_a_look_up_table"
    import_only = True  # nn.LookupTable has more settings
