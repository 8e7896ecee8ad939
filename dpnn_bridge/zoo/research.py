"""Single layers of research code: treelstm, VAE-Torch, MemNN, crnn, bnn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.convolution import SPATIAL
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient, with_gradient_of


@lua_class("treelstm.CRowAddTable")
class CRowAddTable(nn.Module):
    """Adds a vector to every row of a matrix.

    Shape:
        - Input: ``[matrix, vector]``, :math:`(N, D)` and :math:`(D)`.
        - Output: :math:`(N, D)`.

    Lua:
        ``treelstm.CRowAddTable()``, treelstm layers/CRowAddTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] + input[1]

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.Sampler")
class Sampler(nn.Module):
    """Draws from a normal distribution with given means and log variances.

    Shape:
        - Input: ``[mean, log variance]``, both :math:`(N, D)`.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.Sampler()``, VAE-Torch Sampler.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return self.sampled(input, torch.randn_like(input[0]))

    def sampled(self, input: list[Tensor], eps: Tensor) -> Tensor:
        """Return the sample for standard normal noise ``eps``."""
        return (input[1] * 0.5).exp() * eps + input[0]

    class Lua(LuaClass):
        scratch = ("eps", "ouput")
        constants = {"gradInput": empty_table}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            """Exclude classes that draw from one tensor: from probabilities, or from means and variances in one."""
            others = {"argmax", "keep_long", "nInputDims", "nMix"}
            return not others & set(obj) and not isinstance(obj.get("gradInput"), LuaTensor)

        @classmethod
        def replay(cls, module: Sampler, after: LuaObject) -> Callable[..., Any]:
            return lambda input: module.sampled(input, noise_of(after, "eps", input[0]))


@lua_class("nn.KLDPenalty")
class KLDPenalty(nn.Module):
    """Returns its input; the backward pass adds the gradient of the KL divergence from a standard normal distribution.

    Shape:
        - Input: ``[mean, log variance]``, both :math:`(N, D)`.
        - Output: the input.

    Lua:
        ``nn.KLDPenalty()``, VAE-Torch KLDPenalty.lua
    """

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        mean, log_variance = input
        return [
            add_gradient(mean, mean.detach()),
            add_gradient(log_variance, (log_variance.detach().exp() - 1) * 0.5),
        ]

    class Lua(LuaClass):
        scratch = ("loss",)

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "myweight" not in obj  # a class with a weight of the penalty


@lua_class("nn.Normalization")
class Normalization(nn.Module):
    """Scales rows to length 1. Rows that are not longer than a threshold are divided by ``threshold + 1`` instead.

    Args:
        threshold: length; with the default 0 only rows of zeros are excepted.

    Shape:
        - Input, output: :math:`(*, D)`.

    Lua:
        ``nn.Normalization()``, MemNN EntNet-babi/layers/Normalization.lua
    """

    def __init__(self, threshold: float = 0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(input.detach(), dim=-1, keepdim=True)
        divisor = torch.where(norm <= self.threshold, self.threshold + 1, norm)
        output = input / divisor
        unit = output.detach()
        return with_gradient_of(output, (input - unit * (unit * input).sum(-1, keepdim=True)) / divisor)

    class Lua(LuaClass):
        scalars = {"thresh": "threshold"}
        scratch = ("norm", "buffer")


@lua_class("nn.LinearNB")
class LinearNB(LuaClass):
    """A linear map without bias, in fbnn and in MemN2N."""

    torch_type = nn.Linear
    tensors = ("weight",)
    sizes = {"weight": ("out_features", "in_features")}
    constant_kwargs = {"bias": False}
    resets = {"addBuffer": None}  # Lua reads the first size of an existing buffer
    import_only = True  # exported as nn.Linear


@lua_class("bnn.Binary")
class Binary(nn.Module):
    """Sign of the input; the gradient passes where the input is between -1 and 1.

    Shape:
        - Input: :math:`(*)`. In evaluation, Torch7 overwrites the input.
        - Output: the same shape.

    Lua:
        ``bnn.Binary()``, bnn.torch Binary.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        inside = (input > -1) & (input < 1)
        return with_gradient_of(input.sign(), torch.where(inside, input, 0))


@lua_class("bnn.SpatialConvolution")
class BinarySpatialConvolution(nn.Module):
    """Convolution of the signs of the input with binary weights, scaled for each output channel.

    Positive inputs are replaced by 1; other inputs and the padding are replaced by -1.

    Args:
        in_channels, out_channels: numbers of channels.
        kernel_size, stride, padding: (height, width).

    Shape:
        - Input: :math:`(N, C_{in}, H, W)`.
        - Output: :math:`(N, C_{out}, H', W')`.

    Attributes:
        signs: weights -1 and 1, a buffer of shape :math:`(C_{out}, C_{in}, k_H, k_W)`; Torch7 packs 32 weights into one
            integer.
        alphas: factor of each output channel, a buffer of shape :math:`(C_{out})`.

    Lua:
        ``bnn.SpatialConvolution(nInputPlane, nOutputPlane, kW, kH, dW, dH, padW, padH)``, bnn.torch
        BinarySpatialConvolution.lua
    """

    signs: Tensor
    alphas: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.register_buffer("signs", torch.ones(out_channels, in_channels, *kernel_size))
        self.register_buffer("alphas", torch.ones(out_channels))

    def forward(self, input: Tensor) -> Tensor:
        signs = torch.where(input > 0, 1, -1).to(self.signs.dtype)
        padH, padW = self.padding
        padded = F.pad(signs, (padW, padW, padH, padH), value=-1)
        return F.conv2d(padded, self.signs, stride=self.stride) * self.alphas.view(-1, 1, 1)

    class Lua(LuaClass):
        computed_fields = ("weight",)
        scalars = SPATIAL
        tensors = ("alphas",)
        scratch = ("finput", "fgradInput", "columns_binary")
        checked_by = "formula"
        test = "test_computes_what_the_formula_gives"

        @classmethod
        def fill(cls, module: BinarySpatialConvolution, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            weight = obj.get("weight")
            if not isinstance(weight, LuaTensor):
                raise ctx.error(
                    "the field 'weight' is missing: the weights were not converted to binary before the module was "
                    "saved; convert them in Torch7 and save the module again",
                    obj,
                )
            bits = weight.torch().long().unsqueeze(-1) >> torch.arange(32)
            signs = (bits & 1).flatten(1)[:, : module.signs[0].numel()] * 2 - 1
            module.signs = signs.view_as(module.signs).to(module.alphas.dtype)

        @classmethod
        def to_lua(cls, module: BinarySpatialConvolution, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            bits = F.pad((module.signs > 0).flatten(1).long(), (0, -module.signs[0].numel() % 32)).unflatten(
                1, (-1, 32)
            )
            words = (bits << torch.arange(32, device=bits.device)).sum(-1)
            words = torch.where(words >= 2**31, words - 2**32, words).int()
            weight_class = (
                "torch.CudaIntTensor" if fields["alphas"].class_name == "torch.CudaTensor" else "torch.IntTensor"
            )
            return {**fields, "weight": LuaTensor.from_numpy(words.cpu().numpy(), weight_class)}


class WithoutClones(LuaClass):
    """Mapping of a class that, in its first call, creates a clone for each time step; clones share the parameters."""

    constants = {"clones": empty_table, "gradInput": empty_table, "output": empty_table}

    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        return "maxT" in obj  # number of clones; a module created in PyTorch lacks it and cannot be exported

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        return obj.changed(rnnState=None, drnnState=None, clones=LuaTable())


@lua_class("nn.SharedParallelTable")
class SharedParallelTable(nn.Module):
    """Applies one module to every entry of a list.

    Args:
        unit: the module.

    Shape:
        - Input: list.
        - Output: list of the same length.

    Lua:
        ``nn.SharedParallelTable(unit, maxT)``, crnn src/SharedParallelTable.lua
    """

    fx_leaf = True

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, input: list[Any]) -> list[Any]:
        return [self.unit(x) for x in input]

    class Lua(WithoutClones):
        members = ("unit",)


@lua_class("nn.BiRnnJoin")
class BiRnnJoin(nn.Module):
    """Combines two sequences at each time step.

    Args:
        unit: module whose input is a list of both entries of a time step.

    Shape:
        - Input: two lists of equal length.
        - Output: list of this length.

    Lua:
        ``nn.BiRnnJoin(nIn, nOut, maxT)``, crnn src/BiRnnJoin.lua
    """

    fx_leaf = True

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, input: list[list[Tensor]]) -> list[Tensor]:
        return [self.unit([forward, backward]) for forward, backward in zip(*input, strict=True)]

    class Lua(WithoutClones):
        members = {"joinUnit": "unit"}


@lua_class("nn.LstmLayer")
class LstmLayer(nn.Module):
    """Applies an LSTM unit to a list of time steps.

    Args:
        unit: maps ``[x, cell, hidden]`` to ``[cell, hidden, output]``.
        hidden_size: size H of the states.
        reverse: run from the last step to the first.

    Shape:
        - Input: list of T tensors :math:`(N, D)`.
        - Output: list of T tensors :math:`(N, H)`.

    Lua:
        ``nn.LstmLayer(nIn, nHidden, maxT, dropout, reverse)``, crnn src/LstmLayer.lua
    """

    fx_leaf = True

    def __init__(self, unit: nn.Module, hidden_size: int, reverse: bool = False) -> None:
        super().__init__()
        self.unit, self.hidden_size, self.reverse = unit, hidden_size, reverse

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        cell = hidden = input[0].new_zeros(input[0].shape[0], self.hidden_size)
        outputs = []
        for x in reversed(input) if self.reverse else input:
            cell, hidden, output = self.unit([x, cell, hidden])
            outputs.append(output)
        return outputs[::-1] if self.reverse else outputs

    class Lua(WithoutClones):
        members = {"lstmUnit": "unit"}
        scalars = {"nHidden": "hidden_size", "reverse": "reverse"}
