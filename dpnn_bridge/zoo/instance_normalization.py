"""Instance normalization of style-transfer packages: fast-neural-style, texture_nets, CycleGAN, CartoonGAN, AdaIN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.faults import OtherVersion
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor


class DisabledInstanceNorm2d(nn.InstanceNorm2d):
    """A disabled instance normalization: returns its input. Its parameters are kept for the export.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input.

    Lua:
        ``nn.InstanceNormalization(nOutput, true)``, AdaIN-style lib/InstanceNormalization.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input


def _by_running_statistics(module: nn.InstanceNorm2d, input: Tensor) -> Tensor:
    """Compute the result of nn since August 2017; running statistics that no file contains are 0 and 1."""
    if isinstance(module, DisabledInstanceNorm2d):
        return module(input)
    record = record_of(module)
    stored = [record.fields.get(name) if record else None for name in ("running_mean", "running_var")]
    starts = (torch.full((module.num_features,), start) for start in (0.0, 1.0))
    pairs = zip(stored, starts, strict=True)
    mean, var = ((s.torch() if isinstance(s, LuaTensor) else start).to(input) for s, start in pairs)
    batch = input if input.dim() == 4 else input.unsqueeze(0)
    return F.batch_norm(batch, mean, var, module.weight, module.bias, eps=module.eps).reshape(input.shape)


#: Torch7's classes normalize a view of all samples as one sample
_BY_SAMPLE = (
    "nn since August 2017 normalizes a batch of one by running statistics, so this instance normalization does not use "
    "the statistics of the image; with the earlier versions, with which models were published, it does"
)


@lua_class("nn.InstanceNormalization")
class InstanceNormalization(LuaClass):
    """All four published variants, which use the statistics of the instance in training and in evaluation.

    The inner ``bn`` is a buffer. Two variants have running statistics that no output depends on; they are kept
    unchanged.
    """

    torch_type = (nn.InstanceNorm2d, DisabledInstanceNorm2d)
    scalars = {"nOutput": "num_features", "eps": "eps"}
    tensors = ("weight", "bias")
    scratch = ("bn",)
    other_version = OtherVersion(_BY_SAMPLE, _by_running_statistics)

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Remove the inner normalization, which Torch7 creates again because the batch size is set to -1."""
        return obj.changed({name: -1 for name in ("prev_N", "prev_batch_size") if name in obj}, bn=None)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        module_class = DisabledInstanceNorm2d if is_true(obj.get("disabled")) else nn.InstanceNorm2d
        return module_class(**cls.arguments(obj, ctx), affine=obj.get("weight") is not None)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        new = {} if record_of(module) else {"prev_N": -1, "affine": module.affine}
        return {**super().to_lua(module, ctx), **new}


@lua_class("nn.AdaptiveInstanceNormalization")
class AdaptiveInstanceNormalization(nn.Module):
    """Gives content features the mean and the standard deviation of style features.

    The statistics are computed for each instance and channel.

    Args:
        num_features: number of channels.
        eps: number that is added to the variance of the content.
        disabled: return the content.

    Shape:
        - Input: ``[content, style]``, each :math:`(N, C, H, W)` or :math:`(C, H, W)`; sizes may differ.
        - Output: :math:`(N, C, H, W)` of the content; :math:`(1, C, H, W)` for three dimensions.

    Raises:
        ValueError: content and style differ in the number of samples, or do not have ``num_features`` channels.

    Lua:
        ``nn.AdaptiveInstanceNormalization(nOutput, disabled, eps)``, AdaIN-style lib/AdaptiveInstanceNormalization.lua

    Differs from Torch7:
        Torch7 defines no gradient.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, disabled: bool = False) -> None:
        super().__init__()
        self.num_features, self.eps, self.disabled = num_features, eps, disabled

    def forward(self, input: list[Tensor]) -> Tensor:
        return self._styled(input, self._normalized)

    def _normalized(self, content: Tensor) -> Tensor:
        # F.instance_norm calls this, but refuses images of one pixel
        return torch.instance_norm(content, None, None, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled)

    def _by_running_statistics(self, input: list[Tensor]) -> Tensor:
        """Compute the result of nn since August 2017, whose running statistics stay 0 and 1."""
        return self._styled(input, lambda content: content / math.sqrt(1 + self.eps))

    def _styled(self, input: list[Tensor], normalize: Callable[[Tensor], Tensor]) -> Tensor:
        content, style = input
        if self.disabled:
            return content
        if content.dim() == 3:
            content, style = content.unsqueeze(0), style.unsqueeze(0)
        sizes = (content.shape[0], self.num_features)
        if content.dim() != 4 or style.dim() != 4 or content.shape[:2] != sizes or style.shape[:2] != sizes:
            raise ValueError(
                f"AdaptiveInstanceNormalization expects content and style with {self.num_features} channels, and the "
                f"same number of samples, found {tuple(content.shape)} and {tuple(style.shape)}"
            )
        statistics = style.flatten(2)
        std = statistics.var(2, unbiased=False).sqrt()
        return normalize(content) * std[:, :, None, None] + statistics.mean(2)[:, :, None, None]

    class Lua(LuaClass):
        scalars = {"nOutput": "num_features", "eps": "eps", "disabled": "disabled"}
        defaults = {"disabled": False}
        constants = {"batchSize": -1}
        scratch = ("bn",)
        other_version = OtherVersion(_BY_SAMPLE, lambda module, input: module._by_running_statistics(input))

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            return obj.changed(bn=None, batchSize=-1)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return fields if fields["disabled"] else {k: v for k, v in fields.items() if k != "disabled"}
