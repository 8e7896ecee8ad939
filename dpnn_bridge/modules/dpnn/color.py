"""Layers for the colors of images: SimpleColorTransform, PCAColorTransform, SpatialFeatNormalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.dpnn.noise import TRAINING_ONLY
from dpnn_bridge.modules.nn.dropout import stored_noise
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.torch7.gradient import refuse_gradient


class ColorNoise(nn.Module):
    """Base class of the color transforms: adds one random number per image and channel in training mode."""

    def channels(self) -> int:
        """Return the number of channels."""
        raise NotImplementedError

    def draw(self, n: int, like: Tensor) -> Tensor:
        """Draw noise of shape ``(n, C)``."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        name = type(self).__name__
        if not self.training:
            return refuse_gradient(input, TRAINING_ONLY.format(name))
        if input.dim() not in (3, 4) or input.shape[-3] != self.channels():
            raise ValueError(f"{name}: expected images with {self.channels()} channels, found {tuple(input.shape)}")
        return self.with_noise(input, self.draw(input.shape[0] if input.dim() == 4 else 1, input))

    def with_noise(self, input: Tensor, noise: Tensor) -> Tensor:
        """Add noise of shape ``(n, C)`` or ``(C)`` to the channels of ``input``."""
        return input + noise.reshape(*input.shape[:-2], 1, 1)

    class Lua(LuaClass):
        scratch = ("noise",)
        computed_fields = ("inputChannels",)

        @classmethod
        def replay(cls, module: ColorNoise, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            if not module.training or not stored_noise(after):
                return None
            return lambda x: module.with_noise(x, noise_of(after, "noise", x))

        @classmethod
        def to_lua(cls, module: ColorNoise, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "inputChannels": module.channels()}


@lua_class("nn.SimpleColorTransform")
class SimpleColorTransform(ColorNoise):
    """Adds a uniform random number to each channel of each image in training mode.

    Args:
        range: largest absolute value of the noise of each channel, of shape :math:`(C)`.

    Attributes:
        range: the argument, as a buffer.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Raises:
        RuntimeError: a backward pass runs through the layer in evaluation mode.

    Lua:
        ``nn.SimpleColorTransform(inputChannels, range)``, SimpleColorTransform.lua
    """

    range: Tensor

    def __init__(self, range: Tensor) -> None:
        super().__init__()
        self.register_buffer("range", range)

    def channels(self) -> int:
        return self.range.numel()

    def draw(self, n: int, like: Tensor) -> Tensor:
        return like.new_empty(n, self.channels()).uniform_(-1, 1) * self.range.reshape(-1)

    class Lua(ColorNoise.Lua):
        tensors = ("range",)
        tensor_args = ("range",)


@lua_class("nn.PCAColorTransform")
class PCAColorTransform(ColorNoise):
    r"""Adds a random mixture of the colors' principal components to each image in training mode, as in AlexNet.

    The noise of one image is :math:`V (\lambda \odot n)` with :math:`n \sim \mathcal{N}(0, \text{std}^2)`.

    Args:
        eigen_vectors: :math:`V` of shape :math:`(C, C)`; each column is a component.
        eigen_values: :math:`\lambda` of shape :math:`(C)`.
        std: standard deviation of the mixture's weights.

    Attributes:
        eigen_vectors, eigen_values: the arguments, as buffers.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Raises:
        RuntimeError: a backward pass runs through the layer in evaluation mode.

    Lua:
        ``nn.PCAColorTransform(inputChannels, eigenVectors, eigenValues, std)``, PCAColorTransform.lua. Its comment
        documents rows as the components, but its code uses the columns.
    """

    eigen_vectors: Tensor
    eigen_values: Tensor

    def __init__(self, eigen_vectors: Tensor, eigen_values: Tensor, std: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("eigen_vectors", eigen_vectors)
        self.register_buffer("eigen_values", eigen_values)
        self.std = std

    def channels(self) -> int:
        return self.eigen_values.numel()

    def draw(self, n: int, like: Tensor) -> Tensor:
        alphas = like.new_empty(n, self.channels()).normal_(0, self.std) * self.eigen_values.reshape(-1)
        return alphas @ self.eigen_vectors.t()

    class Lua(ColorNoise.Lua):
        scalars = ("std",)
        tensors = {"eigenVectors": "eigen_vectors", "eigenValues": "eigen_values"}
        tensor_args = ("eigenVectors", "eigenValues")
        scratch = ("noise", "alphas")


@lua_class("nn.SpatialFeatNormalization")
class SpatialFeatNormalization(nn.Module):
    """Subtracts a given mean from each channel and divides by a given standard deviation.

    Args:
        mean: mean of each channel, of shape :math:`(C)`.
        std: standard deviation of each channel, of shape :math:`(C)`; default: 1.

    Attributes:
        mean, std: the arguments, as buffers; they are not trained.

    Shape:
        - Input, output: :math:`(N, C, H, W)` or :math:`(C, H, W)`.

    Lua:
        ``nn.SpatialFeatNormalization(mean, std)``, SpatialFeatNormalization.lua
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor | None = None) -> None:
        super().__init__()
        if mean.dim() != 1:
            raise ValueError(f"SpatialFeatNormalization: expected a mean of shape (C), found {tuple(mean.shape)}")
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.ones_like(mean) if std is None else std)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4) or input.shape[-3] != len(self.mean):
            raise ValueError(
                f"SpatialFeatNormalization: expected images with {len(self.mean)} channels, found {tuple(input.shape)}"
            )
        return (input - self.mean[:, None, None]) / self.std[:, None, None]

    def extra_repr(self) -> str:
        return str(len(self.mean))

    class Lua(LuaClass):
        computed_fields = ("noOfFeats",)
        tensors = ("mean", "std")
        tensor_args = ("mean", "std")

        @classmethod
        def to_lua(cls, module: SpatialFeatNormalization, ctx: LuaContext) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "noOfFeats": len(module.mean)}
