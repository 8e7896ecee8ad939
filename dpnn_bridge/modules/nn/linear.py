"""Linear layers, and distances to weight vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, has_tensor
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import rows_at
from dpnn_bridge.modules.nn.initialization import init_uniform
from dpnn_bridge.objects import LuaObject


@lua_class("nn.Linear", "nn.LinearVA")
class Linear(LuaClass):
    torch_type = nn.Linear
    tensors = ("weight", "bias")
    sizes = {"weight": ("out_features", "in_features")}
    optional = {"bias": "bias"}
    scratch = ("addBuffer",)


@lua_class("nn.Bilinear")
class Bilinear(nn.Bilinear):
    r""":class:`torch.nn.Bilinear` that takes its two inputs as one list.

    Shape:
        - Input: list of two tensors :math:`(N, D_1)` and :math:`(N, D_2)`.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.Bilinear(inputSize1, inputSize2, outputSize, bias)``, Bilinear.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(input[0], input[1])

    class Lua(LuaClass):
        tensors = ("weight", "bias")
        sizes = {"weight": ("out_features", "in1_features", "in2_features")}
        optional = {"bias": "bias"}
        scratch = ("buff1", "buff2")

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "gradInput": ctx.empty_tensors(module, 2)}


def _length(x: Tensor) -> Tensor:
    """Return the norm of each row plus 1e-12; as in Torch7, the gradient divides the rows by this sum."""
    length = x.norm(2, -1, keepdim=True) + 1e-12
    square = x.square().sum(-1, keepdim=True)
    # the second derivative of the quotient contains the derivative of its divisor twice
    return length.detach() + (square - square.detach()) / (length + length.detach())


@lua_class("nn.Cosine")
class Cosine(nn.Module):
    r"""Computes the cosine similarities between the input and weight vectors.

    Args:
        in_features: number of input features.
        out_features: number of weight vectors.

    Shape:
        - Input: :math:`(D_{in})` or :math:`(N, D_{in})`.
        - Output: :math:`(D_{out})` or :math:`(N, D_{out})`.

    Attributes:
        weight: the weight vectors as rows, of shape :math:`(D_{out}, D_{in})`.

    Lua:
        ``nn.Cosine(inputSize, outputSize)``, Cosine.lua
    """

    def __init__(self, in_features: int, out_features: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from Torch7's uniform distribution."""
        init_uniform(self.weight.shape[0], self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight) / _length(self.weight).squeeze(-1) / _length(input)

    class Lua(LuaClass):
        tensors = ("weight",)
        sizes = {"weight": ("out_features", "in_features")}


class _Norm(torch.autograd.Function):
    """Computes the 2-norm over dimension -2; the gradient divides by the norm plus 1e-7."""

    generate_vmap_rule = True

    @staticmethod
    def forward(difference: Tensor) -> Tensor:
        return difference.norm(2, -2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        difference, norm = ctx.saved_tensors
        return difference * (grads[0] / (norm + 1e-7)).unsqueeze(-2)


@lua_class("nn.Euclidean")
class Euclidean(nn.Module):
    r"""Computes the Euclidean distances between the input and weight vectors.

    Args:
        in_features: number of input features.
        out_features: number of weight vectors.

    Shape:
        - Input: :math:`(D_{in})` or :math:`(N, D_{in})`.
        - Output: :math:`(D_{out})` or :math:`(N, D_{out})`.

    Attributes:
        weight: the weight vectors as columns, of shape :math:`(D_{in}, D_{out})`.

    Lua:
        ``nn.Euclidean(inputSize, outputSize)``, Euclidean.lua

    Differs from PyTorch:
        The gradient divides by the distance plus ``1e-7``, so it is finite where input and weight vector are equal.
    """

    def __init__(self, in_features: int, out_features: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(in_features, out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from Torch7's uniform distribution."""
        init_uniform(self.weight.shape[0], self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return _Norm.apply(input.unsqueeze(-1) - self.weight)

    class Lua(LuaClass):
        tensors = ("weight",)
        sizes = {"weight": ("in_features", "out_features")}
        constants = {"fastBackward": True}


@lua_class("nn.WeightedEuclidean")
class WeightedEuclidean(Euclidean):
    r"""Computes Euclidean distances between the input and weight vectors, with a factor for each difference.

    Args:
        in_features: number of input features.
        out_features: number of weight vectors.

    Shape:
        - Input: :math:`(D_{in})` or :math:`(N, D_{in})`.
        - Output: :math:`(D_{out})` or :math:`(N, D_{out})`.

    Attributes:
        weight: the weight vectors as columns, of shape :math:`(D_{in}, D_{out})`.
        diag_cov: factors of the differences between input and weight, of shape :math:`(D_{in}, D_{out})`.

    Lua:
        ``nn.WeightedEuclidean(inputSize, outputSize)``, WeightedEuclidean.lua
    """

    def __init__(self, in_features: int, out_features: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__(in_features, out_features, device, dtype)
        self.diag_cov = nn.Parameter(torch.ones_like(self.weight))

    def forward(self, input: Tensor) -> Tensor:
        return _Norm.apply(self.diag_cov * (input.unsqueeze(-1) - self.weight))

    class Lua(Euclidean.Lua):
        tensors = {"weight": "weight", "diagCov": "diag_cov"}
        constants = {}


@lua_class("nn.PartialLinear")
class PartialLinear(nn.Module):
    r"""A linear layer that computes only some of its outputs.

    Args:
        network: inner network of the Lua module; the lookup table in it has the weight.
        out_features: number of all outputs.
        bias: whether the layer has a bias.

    Shape:
        - Input: :math:`(N, D_{in})`.
        - Output: :math:`(N, K)`, where :math:`K` is the size of the partition.

    Attributes:
        bias: bias of shape :math:`(1, D_{out})`, or None.
        partition: the outputs to compute, counted from 1; floating-point numbers, as in Torch7.
        all_columns: all outputs, the initial value of ``partition``.

    Lua:
        ``nn.PartialLinear(inputSize, outputSize, bias)``, PartialLinear.lua
    """

    partition: Tensor
    all_columns: Tensor

    fx_leaf = True

    def __init__(self, network: nn.Sequential, out_features: int, bias: bool = True, device: Any = None) -> None:
        super().__init__()
        self.network, self.out_features = network, out_features
        self.bias = nn.Parameter(torch.zeros(1, out_features, device=device)) if bias else None
        self.register_buffer("all_columns", torch.arange(1.0, out_features + 1, device=device))
        self.register_buffer("partition", self.all_columns.clone())  # torch.jit.trace refuses one buffer twice

    @property
    def in_features(self) -> int:
        """Number of columns of the weight."""
        return self.weight.shape[1]

    @property
    def weight(self) -> Tensor:
        """The weight, with one row for each output."""
        return self.network.get_parameter("0.1.weight")

    def forward(self, input: Tensor) -> Tensor:
        columns = self.partition.long() - 1
        bias = None if self.bias is None else rows_at(self.bias[0], columns, 1)
        return F.linear(input, rows_at(self.weight, columns, 1), bias)

    class Lua(LuaClass):
        computed_fields = ("network", "inputsize", "outputsize", "allcolumns")
        tensors = {"bias": "bias", "partition": "partition"}
        scratch = ("buffer", "addBuffer")

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> PartialLinear:
            network = ctx.to_torch(obj["network"], "network")
            assert isinstance(network, nn.Sequential)
            module = PartialLinear(network, int(obj["outputsize"]), bias=has_tensor(obj, "bias"))
            module.all_columns = module.all_columns.to(module.weight.dtype)
            module.partition = module.partition[: obj["partition"].size]
            return module

        @classmethod
        def to_lua(cls, module: PartialLinear, ctx: LuaContext) -> dict[str, Any]:
            outputs, inputs = module.weight.shape
            fields = super().to_lua(module, ctx)
            fields["allcolumns"] = ctx.typed_constant(module.all_columns, module)
            if torch.equal(module.partition, module.all_columns):
                fields["partition"] = fields["allcolumns"]
            return {**fields, "inputsize": inputs, "outputsize": outputs, "network": ctx.to_lua(module.network)}

        @classmethod
        def children(cls, module: nn.Module) -> list[nn.Module]:
            return []

        @classmethod
        def parameters(
            cls, module: PartialLinear, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            yield from inner(module.network)
            yield from super().parameters(module, inner)
