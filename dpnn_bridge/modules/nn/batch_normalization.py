"""Batch normalization, with Torch7's behavior for single samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.lua_class import LuaClass, has_tensor
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import record_as_leaf
from dpnn_bridge.modules.nn.strides import with_contiguous_strides
from dpnn_bridge.objects import LuaObject, LuaTensor


def _normalized(module: nn.modules.batchnorm._BatchNorm, input: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    features = [1, -1, *[1] * (input.dim() - 2)]
    output = (input - mean.view(features)) * scale.view(features)
    if module.weight is not None:
        output = output * module.weight.view(features)
    if module.bias is not None:
        output = output + module.bias.view(features)
    return output


def _normalized_batch(module: nn.modules.batchnorm._BatchNorm, input: Tensor) -> Tensor:
    """Normalize a training batch and update the running statistics; the output of a constant feature is its bias."""
    dims = [d for d in range(input.dim()) if d != 1]
    count = input.numel() // input.shape[1]
    if count < 2:
        raise ValueError(f"expected more than one element per channel in training, found shape {tuple(input.shape)}")
    variance, mean = torch.var_mean(input, dims, correction=0)
    total = variance + module.eps
    constant = total == 0
    scale = total.masked_fill(constant, 1).rsqrt().masked_fill(constant, 0)
    with torch.no_grad():
        updates = ((module.running_mean, mean), (module.running_var, variance * (count / (count - 1))))
        for running, value in updates:
            if running is not None:
                running.lerp_(value.to(running.dtype), module.momentum or 0.0)
    return _normalized(module, input, mean, scale)


@record_as_leaf
class WithoutEps(nn.modules.batchnorm._BatchNorm):
    """Mixin for layers with ``eps=0``: PyTorch's kernel raises an error in training, before 2.11 also in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training or self.running_mean is None or self.running_var is None:
            return _normalized_batch(self, input)
        return _normalized(self, input, self.running_mean, (self.running_var + self.eps).rsqrt())


class BatchNorm1dWithoutEps(WithoutEps, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` with ``eps=0``, see :class:`WithoutEps`."""


class BatchNorm2dWithoutEps(WithoutEps, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` with ``eps=0``, see :class:`WithoutEps`."""


class BatchNorm3dWithoutEps(WithoutEps, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` with ``eps=0``, see :class:`WithoutEps`."""


WITHOUT_EPS = {
    nn.BatchNorm1d: BatchNorm1dWithoutEps,
    nn.BatchNorm2d: BatchNorm2dWithoutEps,
    nn.BatchNorm3d: BatchNorm3dWithoutEps,
}


def has_ambiguous_strides(x: Tensor) -> bool:
    """Return whether a tensor has a dimension of size 1. Recorded graphs have batches of any size, and no gradients."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        return 1 in x.shape
    recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]
    return 1 in (x.shape[1:] if recorded else x.shape)


def before_single_sample(self: Any, input: tuple[Tensor]) -> tuple[Tensor]:
    """Process a single sample as in Torch7 (forward pre-hook of PyTorch's layers).

    In evaluation mode, a sample without batch dimension is accepted, and the output is a batch of one. In training
    mode, a batch of one is normalized with the running statistics, which are not updated. A hook does not change the
    type of the layer, so that fusion, quantization and SyncBatchNorm recognize it. TorchScript compiles both hooks.

    PyTorch derives a memory format from the strides. If a size is 1, these can be ambiguous and the gradients wrong, so
    the hooks replace them with contiguous strides.
    """
    x = input[0]
    if not isinstance(x, Tensor):  # a torch.fx proxy
        return input
    at = 1 if x.dim() >= self.batch_dims else 0
    if x.dim() > at and x.shape[at] != self.num_features:
        raise ValueError(f"expected {self.num_features} channels in dimension {at}, found an input of shape {x.shape}")
    if not self.training:
        if x.dim() == self.batch_dims - 1:
            x = x.unsqueeze(0)
    elif x.dim() == self.batch_dims and x.shape[0] == 1:
        self.training = False
        self.is_single = True
    return (with_contiguous_strides(x) if has_ambiguous_strides(x) else x,)


def after_single_sample(self: Any, input: tuple[Tensor], output: Tensor) -> Tensor:
    """Undo :func:`before_single_sample` (forward hook, also called after an error).

    Fusion moves this hook to the fused layer, which may lack the attributes.
    """
    if hasattr(self, "is_single") and self.is_single:
        self.training = True
        self.is_single = False
    if not isinstance(output, Tensor):
        return output
    return with_contiguous_strides(output) if has_ambiguous_strides(output) else output


def accept_single_samples(root: nn.Module) -> nn.Module:
    """Make the batch normalizations of a model accept single samples as in Torch7; see :func:`before_single_sample`."""
    dims = {nn.BatchNorm1d: 2, nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
    module: Any
    for module in root.modules():
        torch_type = next((t for t in dims if isinstance(module, t)), None)
        if torch_type is not None:
            module.batch_dims, module.is_single = dims[torch_type], False
            module.register_forward_pre_hook(before_single_sample)
            module.register_forward_hook(after_single_sample, always_call=True)
    return root


class Normalization(LuaClass):
    """Base class of the mappings for nn, cudnn and fbcunn."""

    scalars = ("eps", "momentum")
    sizes = {"running_mean": "num_features"}
    optional = {"weight": "affine"}
    defaults = {"eps": 1e-5, "momentum": 0.1}
    scratch = ("buffer", "buffer2", "centered", "std", "normalized", "save_mean", "save_std", "scaleT")

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        mean = obj.get("running_mean")
        if mean is None or (isinstance(mean, LuaTensor) and not mean.size):
            reason = "has neither running statistics nor a weight, so that its number of channels is unknown"
            raise ctx.error(f"the layer {reason}; run it on training data in Torch7, and save it again", obj)
        arguments = cls.arguments(obj, ctx)
        torch_type = cls.torch_type if arguments["eps"] > 0 else WITHOUT_EPS[cls.torch_type]
        module = torch_type(**arguments)
        if not has_tensor(obj, "bias"):
            module.bias = None
        module.num_batches_tracked = torch.tensor(0)
        return accept_single_samples(module)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: Any) -> dict[str, Any]:
        return {**super().to_lua(module, ctx), "affine": module.weight is not None}

    @classmethod
    def represents(cls, module: Any) -> bool:
        return module.running_mean is not None and module.momentum is not None


def from_inverse_deviation(std: Tensor, module: Any) -> Tensor:
    """Compute the variance from an inverse standard deviation that includes eps."""
    return std.double().pow(-2).to(std.dtype) - module.eps


def inverse_deviation(variance: Tensor, module: Any) -> Tensor:
    """Undo :func:`from_inverse_deviation`."""
    return (variance + module.eps).rsqrt()


INVERSE_DEVIATION = Field("running_var", Layout(from_inverse_deviation, inverse_deviation))


def _repeated(value: float, like: LuaTensor) -> LuaTensor:
    """Return a tensor that repeats one element as often as ``like`` has elements."""
    one = LuaTensor.from_numpy(np.array([value], like.dtype), like.class_name)
    return LuaTensor(one.class_name, (like.size,), (0,), 0, one.storage)


class SecondVersion(Normalization):
    """Mapping of class version 2, which stores ``running_var``."""

    version = 2
    tensors = {name: name for name in ("weight", "bias", "running_mean", "running_var")}

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Add the statistics of a new layer, which versions before July 2015 created in the first training batch."""
        statistics = ("running_mean", "running_var", "running_std")
        if has_tensor(obj, "weight") and not any(has_tensor(obj, name) for name in statistics):
            new = {"running_mean": 0.0, "running_var": 1.0, "running_std": None}
            obj = obj.changed(**{n: None if v is None else _repeated(v, obj["weight"]) for n, v in new.items()})
        return super().upgrade(obj)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        module = super().build(obj, ctx)
        module.__dict__["keeps_std"] = "running_std" in obj and "running_var" not in obj
        return module

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        """Return the fields; version 1 stores ``running_std``, an inverse standard deviation, not ``running_var``."""
        fields = super().fields_of(module)
        if getattr(module, "keeps_std", False):
            del fields["running_var"]
            fields["running_std"] = INVERSE_DEVIATION
        return fields

    @classmethod
    def version_of(cls, module: nn.Module) -> int:
        return 1 if getattr(module, "keeps_std", False) else cls.version


@lua_class("nn.BatchNormalization", "cudnn.BatchNormalization")
class BatchNormalization(SecondVersion):
    torch_type = nn.BatchNorm1d


@lua_class("nn.SpatialBatchNormalization", "cudnn.SpatialBatchNormalization")
class SpatialBatchNormalization(SecondVersion):
    torch_type = nn.BatchNorm2d


class FbnnNormalization(Normalization):
    """All versions of fbcunn store ``running_std``, the inverse standard deviation."""

    import_only = True
    version = 1
    tensors = {
        "weight": "weight",
        "bias": "bias",
        "running_mean": "running_mean",
        "running_std": INVERSE_DEVIATION,
    }
    checked_by = "structure"


@lua_class("fbnn.BatchNormalization")
class FbnnBatchNormalization(FbnnNormalization):
    torch_type = nn.BatchNorm1d
    test = "test_normalization_of_fbnn_keeps_the_inverse_deviation"


@lua_class("fbnn.SpatialBatchNormalization")
class FbnnSpatialBatchNormalization(FbnnNormalization):
    torch_type = nn.BatchNorm2d
    test = "test_fbcunn_keeps_the_inverse_deviation"


@lua_class("cudnn.VolumetricBatchNormalization")
class CudnnVolumetricBatchNormalization(SecondVersion):
    torch_type = nn.BatchNorm3d
    import_only = True  # a layer created in PyTorch is exported as nn's class


@lua_class("nn.VolumetricBatchNormalization")
class VolumetricBatchNormalization(CudnnVolumetricBatchNormalization):
    """Torch7 writes version 1, because a Lua class does not inherit the version of its parent class."""

    import_only = False
    version = 1
