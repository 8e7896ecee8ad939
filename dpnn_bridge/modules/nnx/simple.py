"""Simple layers of nnx."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.SaturatedLU")
class SaturatedLU(nn.Module):
    """Replaces values below one threshold and above another.

    Args:
        threshold, value: values below ``threshold`` become ``value``.
        threshold2, value2: values above ``threshold2`` become ``value2``.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.SaturatedLU(threshold, value, threshold2, value2)``, nnx SaturatedLU.lua
    """

    def __init__(self, threshold: float = -1, value: float = -1, threshold2: float = 1, value2: float = 1) -> None:
        super().__init__()
        self.threshold, self.value, self.threshold2, self.value2 = threshold, value, threshold2, value2

    def forward(self, input: Tensor) -> Tensor:
        raised = torch.where(input < self.threshold, torch.full_like(input, self.value), input)
        return torch.where(raised > self.threshold2, torch.full_like(input, self.value2), raised)

    class Lua(LuaClass):
        scalars = {"threshold": "threshold", "val": "value", "threshold2": "threshold2", "val2": "value2"}


@lua_class("nn.Minus")
class Minus(nn.Module):
    """Negates its input.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Minus()``, nnx Minus.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return -input


@lua_class("nn.Probe", "nn.Tic", "nn.Toc")
class Probe(LuaClass):
    """In Torch7, prints statistics or run times; here, returns its input."""

    torch_type = nn.Identity
    import_only = True
    is_identity = True


@lua_class("nn.PixelSort")
class PixelSort(LuaClass):
    torch_type = nn.PixelUnshuffle
    scalars = {"downscaleFactor": "downscale_factor"}

    @classmethod
    def to_lua(cls, module: nn.PixelUnshuffle, ctx: LuaContext) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "downscaleFactorSquared": module.downscale_factor**2}


@lua_class("nn.MultiSoftMax")
class MultiSoftMax(LuaClass):
    """Softmax over the last of two or three dimensions. With two, Torch7's ``forward`` returns nil."""

    torch_type = nn.Softmax
    import_only = True  # nn.SoftMax accepts more shapes

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {"dim": -1}


@lua_class("nn.Balance")
class Balance(RunBuffers):
    """Scales class probabilities so that all classes are equally frequent over the last batches.

    Args:
        n_batch: number of batches in ``cache``.
        batch_size: batch size in ``cache``; 0 before the first batch.
        start: row of ``cache`` for the next batch, counted from 1.

    Shape:
        - Input: :math:`(N, C)`, probabilities.
        - Output: :math:`(N, C)`; rows with sum 1 in training mode, the input in evaluation mode.

    Attributes:
        cache: the last batches, a buffer of shape :math:`(n\\_batch N, C)`.

    Differs from PyTorch:
        In the gradient, the class frequencies and the sums of the rows are constants.

    Differs from Torch7:
        In evaluation mode the gradient is not changed; Torch7 divides it by the sums of the last training batch, or by
        uninitialized memory if there was none.

    Lua:
        ``nn.Balance(nBatch)``, nnx Balance.lua
    """

    cache: Tensor

    run_buffers = ("cache",)

    def __init__(self, n_batch: int = 10, batch_size: int = 0, start: int = 1) -> None:
        super().__init__()
        self.n_batch, self.batch_size, self.start = n_batch, batch_size, start
        self.register_buffer("cache", torch.empty(0))

    def forward(self, input: Tensor) -> Tensor:
        N = input.shape[0]
        if self.batch_size != N:
            self.cache = input.new_zeros(N * self.n_batch, input.shape[1])
            self.batch_size, self.start = N, 1
        if not self.training:
            return input
        cache = self.cache.clone()
        cache[self.start - 1 : self.start - 1 + N] = input.detach()
        self.cache = cache
        self.start = self.start + N if self.start + N <= len(cache) else 1
        frequency = cache.sum(0) / cache.sum()
        scaled = input.detach() / frequency
        total = scaled.sum(1, keepdim=True)
        return with_gradient_of(scaled / total, input / total / frequency)

    class Lua(LuaClass):
        faults = (
            Fault(
                ("gradInput", "gradParams"),
                "in evaluation mode, Torch7 divides the gradient by the sums of the last training batch",
                mode="eval",
            ),
        )
        scalars = {"nBatch": "n_batch", "batchSize": "batch_size", "startIdx": "start"}
        tensors = {"inputCache": "cache"}
        optional = {"inputCache": None}
        scratch = ("prob", "sum")
        constants = dict.fromkeys(scratch, LuaTensor.empty)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            module = super().build(obj, ctx)
            module.cache = obj["inputCache"].torch()  # before the first batch, empty but with the right dtype
            return module


@lua_class("nn.PushTable")
class PushTable(nn.Module):
    """Removes one element from a list; a :class:`PullTable` inserts it into another list later.

    Args:
        index: position of the element, counted from 1.

    Shape:
        - Input: list.
        - Output: list without the element.

    Lua:
        ``nn.PushTable(index)``, nnx PushTable.lua
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.pulls: list[PullTable] = []
        self._pushed: Any = None
        self._waiting = 0

    def forward(self, input: list[Any]) -> list[Any]:
        self._pushed, self._waiting = input[self.index - 1], len(self.pulls)
        return [*input[: self.index - 1], *input[self.index :]]

    def take(self) -> Any:
        """Return the removed element; it is released after the call of the last :class:`PullTable`.

        Raises:
            RuntimeError: there is no element, because the PushTable has not been called since the last PullTable.
        """
        if self._waiting <= 0:
            raise RuntimeError("PullTable: call its PushTable before each call of the PullTable")
        pushed = self._pushed
        self._waiting -= 1
        if self._waiting == 0:
            self._pushed = None
        return pushed

    class Lua(LuaClass):
        computed_fields = ("_pulls",)
        scalars = {"_index": "index"}
        constants = {"_forward": False, "_gradInput": LuaTensor.empty, "gradInput": empty_table, "output": empty_table}

        @classmethod
        def to_lua(cls, module: PushTable, ctx: LuaContext) -> dict[str, Any]:
            pulls = LuaTable.from_list(ctx.to_lua(pull) for pull in module.pulls)
            return {**super().to_lua(module, ctx), "_pulls": pulls}


@lua_class("nn.PullTable")
class PullTable(nn.Module):
    """Inserts the element that a :class:`PushTable` removed into a list.

    Args:
        push: the PushTable.
        index: position for the element, counted from 1.

    Shape:
        - Input: list, or one tensor.
        - Output: list with the element.

    Raises:
        RuntimeError: the PushTable has not been called before.

    Lua:
        ``push:pull(index)``, nnx PullTable.lua
    """

    push: PushTable

    def __init__(self, push: PushTable, index: int) -> None:
        super().__init__()
        self.index = index
        self.__dict__["push"] = push  # not a submodule, because it is another module of the network
        push.pulls.append(self)

    def forward(self, input: Any) -> list[Any]:
        rest = list(input) if isinstance(input, (list, tuple)) else [input]
        return [*rest[: self.index - 1], self.push.take(), *rest[self.index - 1 :]]

    class Lua(LuaClass):
        computed_fields = ("_push",)
        scalars = {"_index": "index"}
        constants = {"gradInput": empty_table, "output": empty_table}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {**super().arguments(obj, ctx), "push": ctx.to_torch(obj["_push"], "_push")}

        @classmethod
        def to_lua(cls, module: PullTable, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "_push": ctx.to_lua(module.push)}


class _NaturalGradient(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor, metric: QDRiemaNNLinear) -> Tensor:
        return F.linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.metric = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        input, weight = ctx.saved_tensors
        grad = grads[0].to(weight.dtype)  # under autocast the output has a lower precision
        return grad @ weight, *ctx.metric.natural(input, grad), None


@lua_class("nnx.QDRiemaNNLinear")
class QDRiemaNNLinear(nn.Linear):
    """:class:`torch.nn.Linear` with natural gradients of its parameters.

    Args:
        in_features, out_features: numbers of features, D and H.
        gamma: update rate of the metric, a moving average over batches.
        quasi_diagonal: whether the metric also couples each weight with the bias.
        damping: number that is added to the diagonal metric; of the quasi-diagonal metric, smallest determinant,
            and a number that is added to its entry of the bias.
        fresh: whether the metric has not been updated yet.

    Shape:
        - Input: :math:`(N, D)`.
        - Output: :math:`(N, H)`.

    Differs from PyTorch:
        Each backward pass updates the metric (buffers ``Mii``, ``M00``, ``M0i``) and multiplies the gradients of weight
        and bias by its inverse.

    Differs from Torch7:
        Torch7 also rescales previously accumulated gradients; reset the gradients before each backward pass.

    Lua:
        ``nnx.QDRiemaNNLinear(inputSize, outputSize, gamma, qdFlag)``, nnx QDRiemaNNLinear.lua
    """

    Mii: Tensor
    M00: Tensor
    M0i: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        gamma: float = 0.01,
        quasi_diagonal: bool = True,
        damping: float = 1e-12,
        fresh: bool = True,
        device: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device)
        self.gamma, self.quasi_diagonal, self.damping, self.fresh = gamma, quasi_diagonal, damping, fresh
        self.register_buffer("Mii", torch.zeros_like(self.weight))
        self.register_buffer("M00", torch.zeros_like(self.bias))
        self.register_buffer("M0i", torch.zeros_like(self.weight) if quasi_diagonal else None)

    def forward(self, input: Tensor) -> Tensor:
        return _NaturalGradient.apply(input, self.weight, self.bias, self)

    def natural(self, input: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Update the metric with a batch; return the natural gradients of weight and bias."""
        square = grad.square().t()
        batch = {"Mii": square @ input.square(), "M00": square.sum(1)}
        if self.quasi_diagonal:
            batch["M0i"] = square @ input
        for name, value in batch.items():
            old = getattr(self, name)
            setattr(self, name, value if self.fresh else old * (1 - self.gamma) + value * self.gamma)
        self.fresh = False
        weight, bias = grad.t() @ input, grad.sum(0)
        if self.M0i is None:
            self.Mii, self.M00 = self.Mii + self.damping, self.M00 + self.damping
            return weight / self.Mii, bias / self.M00
        M00 = self.M00.unsqueeze(1)
        weight = (weight * M00 - self.M0i * bias.unsqueeze(1)) / (self.Mii * M00 - self.M0i**2).clamp(
            self.damping, 1e25
        )
        return weight, (bias - (self.M0i * weight).sum(1)) / (self.M00 + self.damping)

    class Lua(LuaClass):
        scalars = {"gamma": "gamma", "qdFlag": "quasi_diagonal", "matReg": "damping", "initMetric": "fresh"}
        tensors = ("weight", "bias", "Mii", "M00", "M0i")
        sizes = {"weight": ("out_features", "in_features")}
        scratch = ("addBuffer",)
