"""Layers of cheng6076/SNLI-attention: sums and means of lists, masked layers, a masked loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.lua_class import LuaClass, empty_table, empty_tensors
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.torch7.gradient import with_gradient_of, with_penalty


@lua_class("nn.AddScalar", "nn.ReplicateAdd")
class AddScalar(nn.Module):
    """Adds a matrix ``y`` to every block of columns of a wider matrix ``x``.

    Shape:
        - Input: ``[x, y]``, :math:`(N, kD)` and :math:`(N, D)`.
        - Output: :math:`(N, kD)`.

    Lua:
        ``nn.AddScalar()``, ``nn.ReplicateAdd()``, SNLI-attention util/AddScalar.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        x, y = input
        return x + y.repeat(1, x.shape[1] // y.shape[1])

    class Lua(LuaClass):
        constants = {"gradInput": empty_tensors(2)}


@lua_class("nn.TensorAddVector")
class TensorAddVector(nn.Module):
    """Adds a row to every row of a matrix.

    Shape:
        - Input: ``[x, y]``, :math:`(N, D)` and :math:`(1, D)`.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.TensorAddVector()``, SNLI-attention util/TensorAddVector.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] + input[1]

    class Lua(LuaClass):
        constants = {"gradInput": empty_tensors(2)}


@lua_class("nn.CAveTable")
class CAveTable(nn.Module):
    """The mean of a list of tensors.

    Shape:
        - Input: list of tensors of equal shape.
        - Output: the same shape.

    Lua:
        ``nn.CAveTable()``, SNLI-attention util/CAveTable.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        return torch.stack(list(input)).sum(0) / len(input)

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.MaskAveTable")
class MaskAveTable(nn.Module):
    """The mean of the time steps whose mask is 1.

    Shape:
        - Input: ``[steps, mask]``: a list of T tensors :math:`(N, D)`, and :math:`(N, T)`.
        - Output: :math:`(N, D)`.

    Differs from PyTorch:
        As in Torch7, the output always includes the first step, even if its mask is 0. The gradient uses the mask.

    Lua:
        ``nn.MaskAveTable()``, SNLI-attention util/MaskAveTable.lua
    """

    def forward(self, input: tuple[list[Tensor], Tensor]) -> Tensor:
        steps, mask = torch.stack(list(input[0]), 1), input[1].detach()[..., None]
        total = steps[:, 0] + (steps[:, 1:] * mask[:, 1:]).sum(1)
        return with_gradient_of(total, (steps * mask).sum(1)) / mask.sum(1)

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.Maskh")
class Maskh(nn.Module):
    """Returns the current state where the mask is 1, otherwise the previous state.

    Shape:
        - Input: ``[previous, current, mask]``, :math:`(N, D)` twice and :math:`(N)`.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.Maskh()``, SNLI-attention util/Maskh.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        mask = input[2].detach().reshape(len(input[0]), -1)
        return input[0] * (1 - mask) + input[1] * mask

    class Lua(LuaClass):
        constants = {"gradInput": empty_table}


@lua_class("nn.TableAddTensor")
class TableAddTensor(nn.Module):
    """Adds a tensor to every tensor of a list.

    Shape:
        - Input: ``[list, tensor]``; all tensors have the same shape.
        - Output: list of tensors of this shape.

    Lua:
        ``nn.TableAddTensor()``, SNLI-attention util/TableAddTensor.lua
    """

    def forward(self, input: tuple[list[Tensor], Tensor]) -> list[Tensor]:
        return [x + input[1] for x in input[0]]

    class Lua(LuaClass):
        constants = {"output": empty_table, "gradInput": empty_table}


@lua_class("nn.TableLinear")
class TableLinear(nn.Linear):
    """Applies one linear layer to every tensor of a list.

    Shape:
        - Input: a list of tensors :math:`(N, D)` or :math:`(D)`.
        - Output: a list of tensors.

    Lua:
        ``nn.TableLinear(inputSize, outputSize)``, SNLI-attention util/TableLinear.lua
    """

    def forward(self, input: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        return [F.linear(x, self.weight, self.bias) for x in input]

    class Lua(LuaClass):
        tensors = ("weight", "bias")
        sizes = {"weight": ("out_features", "in_features")}
        resets = {"addBuffer": None}  # Lua reads the first size of an existing buffer
        constants = {"output": empty_table, "gradInput": empty_table}


@lua_class("nn.SumKeepdim")
class SumKeepdim(nn.Module):
    """The sum or the mean over one dimension, which is kept with size 1.

    Args:
        dimension: the dimension, counted from 1, or backwards from -1.
        n_input_dims: number of dimensions of one sample; an input with one more dimension is a batch.
        size_average: return the mean instead of the sum.

    Shape:
        - Input: :math:`(*)`.
        - Output: shape of the input, with size 1 in the dimension.

    Lua:
        ``nn.SumKeepdim(dimension, nInputDims, sizeAverage)``, SNLI-attention util/SumKeepdim.lua

    Differs from Torch7:
        Torch7 raises an error in the backward pass unless the dimension has size 1.
    """

    def __init__(self, dimension: int = 1, n_input_dims: int | None = None, size_average: bool = False) -> None:
        super().__init__()
        self.dimension, self.n_input_dims, self.size_average = dimension, n_input_dims, size_average

    def forward(self, input: Tensor) -> Tensor:
        batched = self.n_input_dims is not None and input.dim() == self.n_input_dims + 1
        dim = self.dimension if self.dimension < 0 else self.dimension - 1 + batched
        return input.mean(dim, keepdim=True) if self.size_average else input.sum(dim, keepdim=True)

    class Lua(LuaClass):
        scalars = {"dimension": "dimension", "nInputDims": "n_input_dims", "sizeAverage": "size_average"}
        defaults = {"nInputDims": None}


@lua_class("nn.MaskedLoss")
class MaskedLoss(nn.Module):
    """The negative log likelihood of the targets, except of targets below the first class.

    Args:
        index_base: index of the first class, 1 as in Lua or 0; smaller targets are ignored.

    Shape:
        - Input: ``[log probabilities, targets]``, :math:`(N, C)` and :math:`(N)`.
        - Output: ``[loss, correct, counted]``: the sum of the losses, the number of targets with the largest score, and
          the number of targets that are not ignored.

    Differs from PyTorch:
        As in Torch7, the gradient is the gradient of the loss divided by N, whatever the gradient of the output is. A
        class with the same name and fields in cheng6076/mlm divides the loss by N too.

    Lua:
        ``nn.MaskedLoss()``, SNLI-attention util/MaskedLoss.lua
    """

    def __init__(self, index_base: int = 1) -> None:
        super().__init__()
        self.index_base = index_base

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        scores, target = input[0], input[1].long() - self.index_base
        counted = target >= 0
        picked = scores.gather(1, target.clamp(min=0)[:, None])[:, 0].where(counted, 0)
        correct = (scores.amax(1) == picked) & counted
        loss = with_penalty(-picked.detach().sum(), -picked.sum() / len(target))
        return [loss, correct.sum().to(scores.dtype), counted.sum().to(scores.dtype)]

    class Lua(LuaClass):
        indexed = True
