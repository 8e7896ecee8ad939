"""Layers that several training scripts define under the same name: printing, stochastic bits, flattening, triplets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.lua_class import LuaClass, WithoutParameters, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("nn.Print", "nn.PrintModule", "nn.PrintNoNewline", "nn.PrintAddress", "nn.Debug")
class Print(LuaClass):
    """Returns its input. In Torch7 it prints something, which depends on the repository."""

    torch_type = nn.Identity
    import_only = True
    is_identity = True
    checked_by = "formula"
    test = "test_printing_layers_pass_everything_through"

    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        return "modules" not in obj


@lua_class("nn.BinaryStochastic")
class BinaryStochastic(nn.Module):
    """Draws zeros and ones; the sigmoid of the input is the probability of 1. In evaluation, rounds the probability.

    Args:
        lo, hi: values that replace 0 and 1 in evaluation.

    Shape:
        - Input, output: :math:`(*)`.

    Differs from PyTorch:
        As in Torch7, the gradient is the gradient of the sigmoid.

    Lua:
        ``nn.BinaryStochastic(lo, hi)``, BinaryStochastic.lua of training scripts
    """

    def __init__(self, lo: float = 0.0, hi: float = 1.0) -> None:
        super().__init__()
        self.lo, self.hi = lo, hi

    def forward(self, input: Tensor) -> Tensor:
        probability = input.sigmoid()
        if self.training:
            return with_gradient_of(torch.bernoulli(probability.detach()), probability)
        bits = (probability.detach() * 2).floor().clamp(0, 1)
        return with_gradient_of(bits * (self.hi - self.lo) + self.lo, probability)

    class Lua(LuaClass):
        scalars = ("lo", "hi")
        defaults = {"lo": 0, "hi": 1}
        scratch = ("rawoutput", "cpubuff1", "cpubuff2")
        checked_by = "formula"
        test = "test_stochastic_bits_have_the_gradient_of_the_sigmoid"


@lua_class("nn.Flatten")
class FlattenMaps(nn.Module):
    """Flattens each channel.

    Shape:
        - Input: :math:`(C, H, W)`.
        - Output: :math:`(C, HW)`.

    Lua:
        ``nn.Flatten()``, in scripts that classify every pixel of an image
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 3:
            raise ValueError(f"FlattenMaps expects an input of shape (C, H, W), found {tuple(input.shape)}")
        return input.flatten(1)

    class Lua(LuaClass):
        checked_by = "formula"
        test = "test_maps_are_flattened_each_on_its_own"


@lua_class("nn.TripletEmbeddingCriterion")
class TripletEmbeddingCriterion(nn.Module):
    r"""Mean of :math:`\max(0, |a - p|^2 + \alpha - |a - n|^2)` over anchors, positives and negatives.

    Args:
        alpha: :math:`\alpha`.

    Shape:
        - Input: list of three tensors :math:`(N, D)`: anchors, positives, negatives.
        - Output: scalar.

    Lua:
        ``nn.TripletEmbeddingCriterion(alpha)``, TripletEmbedding.lua of Atcold/torch-TripletEmbedding
    """

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, input: list[Tensor], target: Tensor | None = None) -> Tensor:
        anchor, positive, negative = input
        distance = (anchor - positive).square().sum(1) + self.alpha - (anchor - negative).square().sum(1)
        return distance.relu().sum() / len(anchor)

    class Lua(WithoutParameters):
        scalars = ("alpha",)
        scratch = ("Li",)
        constants = {"Li": LuaTensor.empty, "gradInput": empty_table, "output": 0}
        checked_by = "formula"
        test = "test_a_triplet_pulls_the_positive_and_pushes_the_negative"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "alpha" in obj
