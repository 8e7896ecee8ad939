"""Batch normalization, with Torch7's rules for single samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.torch_context import TorchContext
from dpnn_bridge.modules.nn.strides import plain_strides
from dpnn_bridge.objects import LuaObject, LuaTensor


def normalised_without_eps(module: nn.modules.batchnorm._BatchNorm, input: Tensor) -> Tensor:
    """A training batch normalised without eps, which PyTorch refuses; a feature that never varies gives its bias."""
    features = [1, -1, *[1] * (input.dim() - 2)]
    dims = [d for d in range(input.dim()) if d != 1]
    variance, mean = torch.var_mean(input, dims, correction=0)
    total = variance + module.eps
    constant = total == 0
    scale = total.masked_fill(constant, 1).rsqrt().masked_fill(constant, 0)
    with torch.no_grad():
        count = input.numel() // input.shape[1]
        new = ((module.running_mean, mean), (module.running_var, variance * (count / (count - 1))))
        for running, value in new:
            if running is not None:
                running.lerp_(value.to(running.dtype), module.momentum or 0.0)
    output = (input - mean.view(features)) * scale.view(features)
    if module.weight is not None:
        output = output * module.weight.view(features) + module.bias.view(features)
    return output


class SingleSamples(nn.modules.batchnorm._BatchNorm):
    """What Torch7 does with one sample, mixed into the three batch normalizations.

    Without batch dimension it is accepted in evaluation and comes back as a batch of one. In training, a batch of one
    is normalised with the running statistics, which stay as they are.
    """

    #: dimensions of a batch
    dims: int

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == self.dims - 1 and not self.training:
            input = input.unsqueeze(0)
        if 1 in input.shape[1:]:  # PyTorch reads a memory format from the strides there, and computes wrong gradients
            return plain_strides(self._normalised(plain_strides(input)))
        return self._normalised(input)

    def _normalised(self, input: Tensor) -> Tensor:
        if self.training and input.dim() == self.dims and input.shape[0] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        if self.training and self.eps <= 0:
            return normalised_without_eps(self, input)
        return super().forward(input)


class BatchNorm1d(SingleSamples, nn.BatchNorm1d):
    """Batch normalization of feature vectors.

    Args:
        num_features: number of features.
        eps: added to the variance.
        momentum: weight of the new value in the running statistics.
        affine: whether there are a factor and a summand for each feature.

    Shape:
        - Input: :math:`(N, C)`; :math:`(C)` in evaluation.
        - Output: :math:`(N, C)`; :math:`(1, C)` for a single sample.

    Differs from torch:
        Single samples, see :class:`SingleSamples`.

    Lua:
        ``nn.BatchNormalization(nOutput, eps, momentum, affine)``, BatchNormalization.lua
    """

    dims = 2


class BatchNorm2d(SingleSamples, nn.BatchNorm2d):
    """Batch normalization of feature maps.

    Args:
        num_features, eps, momentum, affine: as in :class:`BatchNorm1d`.

    Shape:
        - Input: :math:`(N, C, H, W)`; :math:`(C, H, W)` in evaluation.
        - Output: :math:`(N, C, H, W)`; :math:`(1, C, H, W)` for a single sample.

    Differs from torch:
        Single samples, see :class:`SingleSamples`.

    Lua:
        ``nn.SpatialBatchNormalization(nOutput, eps, momentum, affine)``, SpatialBatchNormalization.lua
    """

    dims = 4


class BatchNorm3d(SingleSamples, nn.BatchNorm3d):
    """Batch normalization of volumes.

    Args:
        num_features, eps, momentum, affine: as in :class:`BatchNorm1d`.

    Shape:
        - Input: :math:`(N, C, T, H, W)`; :math:`(C, T, H, W)` in evaluation.
        - Output: :math:`(N, C, T, H, W)`; :math:`(1, C, T, H, W)` for a single sample.

    Differs from torch:
        Single samples, see :class:`SingleSamples`.

    Lua:
        ``nn.VolumetricBatchNormalization(nOutput, eps, momentum, affine)``, VolumetricBatchNormalization.lua
    """

    dims = 5


class Normalization(LuaClass):
    """What the classes of nn, cudnn and fbcunn share."""

    scalars = {"eps": "eps", "momentum": "momentum"}
    defaults = {"eps": 1e-5, "momentum": 0.1}
    scratch = ("buffer", "buffer2", "centered", "std", "normalized", "save_mean", "save_std", "scaleT")

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        weight = obj.get("weight")
        return {
            **super().arguments(obj, ctx),
            "num_features": obj["running_mean"].size,
            "affine": isinstance(weight, LuaTensor) and weight.size > 0,
            "device": "meta",
        }

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        module = cls.torch_type[0](**cls.arguments(obj, ctx))
        module.num_batches_tracked = torch.tensor(0)
        return module

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: Any) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "affine": module.weight is not None}

    @classmethod
    def represents(cls, module: Any) -> bool:
        return module.running_mean is not None and module.momentum is not None


class SecondVersion(Normalization):
    version = 2
    tensors = {name: name for name in ("weight", "bias", "running_mean", "running_var")}

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """The first version kept ``running_std``, the inverse of a standard deviation, for ``running_var``."""
        obj = super().upgrade(obj)
        std = obj.get("running_std")
        if not isinstance(std, LuaTensor) or "running_var" in obj:
            return obj
        variance = np.power(std.numpy(), -2.0, dtype=np.float64).astype(std.dtype) - std.dtype.type(obj["eps"])
        return obj.changed(running_std=None, running_var=LuaTensor.from_numpy(variance, std.class_name))


@lua_class("nn.BatchNormalization", "cudnn.BatchNormalization")
class BatchNormalization(SecondVersion):
    torch_type = (BatchNorm1d, nn.BatchNorm1d)


@lua_class("nn.SpatialBatchNormalization", "cudnn.SpatialBatchNormalization")
class SpatialBatchNormalization(SecondVersion):
    torch_type = (BatchNorm2d, nn.BatchNorm2d)


def from_inverse_deviation(std: Tensor, module: Any) -> Tensor:
    """A variance from the inverse of a standard deviation that includes eps."""
    return std.pow(-2) - module.eps


def inverse_deviation(variance: Tensor, module: Any) -> Tensor:
    """The inverse of :func:`from_inverse_deviation`."""
    return (variance + module.eps).rsqrt()


class FbnnNormalization(Normalization):
    """fbcunn kept ``running_std`` for good."""

    version = 1
    tensors = {
        "weight": "weight",
        "bias": "bias",
        "running_mean": "running_mean",
        "running_std": Field("running_var", Layout(from_inverse_deviation, inverse_deviation)),
    }
    checked_by = "structure"


@lua_class("fbnn.BatchNormalization")
class FbnnBatchNormalization(FbnnNormalization):
    torch_type = (BatchNorm1d, nn.BatchNorm1d)


@lua_class("fbnn.SpatialBatchNormalization")
class FbnnSpatialBatchNormalization(FbnnNormalization):
    torch_type = (BatchNorm2d, nn.BatchNorm2d)


@lua_class("cudnn.VolumetricBatchNormalization")
class CudnnVolumetricBatchNormalization(SecondVersion):
    torch_type = (BatchNorm3d, nn.BatchNorm3d)


@lua_class("nn.VolumetricBatchNormalization")
class VolumetricBatchNormalization(CudnnVolumetricBatchNormalization):
    """Torch7 writes version 1, since a class does not inherit its parent's."""

    version = 1
