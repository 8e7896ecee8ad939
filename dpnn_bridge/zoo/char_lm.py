"""Layers of character language models: char-rnn's OneHot, lstm-char-cnn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, empty_tensors
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import explains_index_base, rows_at
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("OneHot")
class OneHot(nn.Module):
    """One-hot vectors of indices.

    Args:
        size: length of the vectors.
        index_base: smallest index.
        dtype: dtype of the output; a cast of the module, such as ``double()``, changes it.

    Shape:
        - Input: :math:`(N)`.
        - Output: :math:`(N, size)`.

    Lua:
        ``OneHot(size)``, char-rnn util/OneHot.lua (a class without namespace)
    """

    def __init__(self, size: int, index_base: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.size, self.index_base, self.dtype = size, index_base, dtype

    row_wise = True

    @explains_index_base
    def forward(self, input: Tensor) -> Tensor:
        return F.one_hot(input.long() - self.index_base, self.size).to(self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OneHot:
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype  # as the parameters of the next layers
        return self

    class Lua(LuaClass):
        indexed = True
        scalars = {"outputSize": "size"}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            output = obj.get("output")
            dtype = output.torch().dtype if isinstance(output, LuaTensor) else torch.float32
            return {**super().arguments(obj, ctx), "dtype": dtype}

        @classmethod
        def to_lua(cls, module: OneHot, ctx: LuaContext) -> dict[str, Any]:
            eye = torch.eye(module.size, dtype=module.dtype)  # Lua creates the matrix only if the field is missing
            return {**super().to_lua(module, ctx), "_eye": ctx.constant(eye, module)}


@lua_class("nn.HLogSoftMax")
class HLogSoftMax(nn.Module):
    """Loss of a softmax in two levels: first the cluster of a class, then the class in its cluster.

    Args:
        cluster_model: maps the input to log probabilities of the clusters.
        class_model: maps ``[input, cluster]`` to log probabilities of the classes in the cluster.
        mapping: the cluster of each class and the position in the cluster, counted from 1; a buffer of shape
            :math:`(classes, 2)`.
        index_base: index of the first class in the targets.

    Shape:
        - Input: :math:`(N, D)`; target :math:`(N)`.
        - Output: scalar, a mean over the batch.

    Raises:
        IndexError: a target is out of range.

    Lua:
        ``nn.HLogSoftMax(mapping, input_size)``, lstm-char-cnn util/HLogSoftMax.lua
    """

    mapping: Tensor

    def __init__(self, cluster_model: nn.Module, class_model: nn.Module, mapping: Tensor, index_base: int = 1) -> None:
        super().__init__()
        self.cluster_model, self.class_model, self.index_base = cluster_model, class_model, index_base
        self.register_buffer("mapping", mapping)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        rows = rows_at(self.mapping, target.long() - self.index_base, self.index_base).long()
        cluster, position = (rows - 1).unbind(1)
        loss = F.nll_loss(self.cluster_model(input), cluster)
        inner = self.class_model([input, cluster + self.index_base])
        return loss + F.nll_loss(inner.flatten(1), position)

    class Lua(LuaClass):
        indexed = True
        members = ("cluster_model", "class_model")
        tensors = ("mapping",)
        tensor_args = ("mapping",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "logLossCluster" in obj  # a module created in PyTorch lacks this field and cannot be exported

        @classmethod
        def parameters(
            cls, module: HLogSoftMax, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            """Yield weight and bias of the clusters, then biases and then weights of the classes."""
            yield from inner(module.cluster_model)
            classes = list(inner(module.class_model))
            yield from sorted(classes, key=lambda site: not _is_class_bias(site[0]))


def _is_class_bias(module: nn.Module) -> bool:
    record = record_of(module)
    return record is not None and record.fields.get("name") == "class_bias"


@lua_class("nn.TensorProd")
class TensorProd(nn.Module):
    """Bilinear map of two vectors, with a bias.

    Args:
        size1, size2: lengths of the vectors.
        out_features: length of the result.

    Shape:
        - Input: ``[a, b]``, :math:`(N, n)` and :math:`(N, m)`, or without N.
        - Output: :math:`(N, o)`, :math:`y_k = a^T W_k b + b_k`.

    Differs from Torch7:
        Torch7 accumulates the gradients of the input over its calls.

    Lua:
        ``nn.TensorProd(size1, size2, output_size)``, lstm-char-cnn util/TensorProd.lua
    """

    def __init__(self, size1: int, size2: int, out_features: int, device: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, size1, size2, device=device))
        self.bias = nn.Parameter(torch.empty(out_features, device=device))
        bound = (size1 + size2) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: list[Tensor]) -> Tensor:
        return torch.einsum("...i,kij,...j->...k", input[0], self.weight, input[1]) + self.bias

    class Lua(LuaClass):
        """Torch7's ``parameters()`` lists the weight before the bias."""

        tensors = ("weight", "bias")
        sizes = {"weight": ("out_features", "size1", "size2")}
        scratch = ("tmp", "ab", "buffer", "buffer2")
        constants = {"tmp": LuaTensor.empty, "gradInput": empty_tensors(2)}
        checked_by = "formula"
        test = "test_tensor_product"

        @classmethod
        def to_lua(cls, module: TensorProd, ctx: LuaContext) -> dict[str, Any]:
            product = torch.zeros_like(module.weight[0])  # outer product of the vectors; Torch7 does not resize it
            return {**super().to_lua(module, ctx), "ab": ctx.constant(product, module)}
