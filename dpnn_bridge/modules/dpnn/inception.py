"""Modules with several convolution branches: Inception, FireModule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.container import Concat, DepthConcat
from dpnn_bridge.modules.nn.decorator import Decorator


@lua_class("nn.Inception")
class Inception(Decorator):
    r"""The Inception module of GoogLeNet: convolution branches and a pooling branch, concatenated along the channels.

    Args:
        module: the branches in a :class:`DepthConcat`; :meth:`create` builds them.

    Shape:
        - Input: :math:`(N, C, H, W)`, or :math:`(C, H, W)` if the output's height is 1.
        - Output: :math:`(N, C', H', W')`, or :math:`(1, C', W')` for a single sample.

    Raises:
        ValueError: the output of a single sample has a height above 1; Torch7 raises an error too.

    Lua:
        ``nn.Inception(config)``, Inception.lua

    References:
        Szegedy et al., Going Deeper with Convolutions, https://arxiv.org/abs/1409.4842
    """

    fx_leaf = True

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 3:
            return self.module(input)
        output = self.module(input.unsqueeze(0))
        if output.shape[2] != 1:
            raise ValueError(
                f"Inception accepts a single sample only if its output has height 1, found {tuple(output.shape)}; "
                "pass a batch: input.unsqueeze(0)"
            )
        return output.squeeze(2)

    @classmethod
    def create(
        cls,
        input_size: int,
        output_size: Sequence[int],
        reduce_size: Sequence[int],
        *,
        reduce_stride: Sequence[int] = (),
        transfer: type[nn.Module] = nn.ReLU,
        batch_norm: bool = False,
        padding: bool = True,
        kernel_size: Sequence[int] = (5, 3),
        kernel_stride: Sequence[int] = (1, 1),
        pool_size: int = 3,
        pool_stride: int = 1,
        pool: nn.Module | None = None,
    ) -> Inception:
        """Build the branches of Torch7's constructor.

        Args:
            input_size: number of input channels.
            output_size: number of filters of each convolution after the 1x1 convolutions.
            reduce_size: number of filters of each 1x1 convolution: first of each convolution branch, then of the
                pooling branch, then of the branch with only a 1x1 convolution. The last two may be omitted.
            reduce_stride: strides of the 1x1 convolutions; default: 1.
            transfer: class of the activation after each convolution.
            batch_norm: insert a batch normalization before each activation.
            padding: pad each convolution by half its kernel size.
            kernel_size, kernel_stride: kernel sizes and strides of the convolutions; one branch each.
            pool_size, pool_stride: kernel size and stride of the max pooling, which has no padding.
            pool: pooling module that replaces the max pooling.
        """

        def conv(i: int, outputs: int, *, inputs: int = input_size, kernel: int = 1, stride: int | None = None):
            if stride is None:
                stride = reduce_stride[i] if i < len(reduce_stride) else 1
            norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
            return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding else 0), *norm, transfer()]

        branches = []
        for i, (kernel, stride) in enumerate(zip(kernel_size, kernel_stride, strict=True)):
            reduced = conv(i, reduce_size[i])
            branches.append([*reduced, *conv(i, output_size[i], inputs=reduce_size[i], kernel=kernel, stride=stride)])
        n = len(kernel_size)
        pooling = nn.MaxPool2d(pool_size, pool_stride) if pool is None else pool
        branches.append([pooling, *(conv(n, reduce_size[n]) if n < len(reduce_size) else [])])
        if n + 1 < len(reduce_size):
            branches.append(conv(n + 1, reduce_size[n + 1]))
        return cls(DepthConcat(*(nn.Sequential(*branch) for branch in branches), dimension=2))


@lua_class("nn.FireModule")
class FireModule(Decorator):
    r"""The fire module of SqueezeNet: 1x1 convolutions that squeeze, then 1x1 and 3x3 convolutions that expand.

    Args:
        module: a Sequential of squeeze, activation, expand and activation; :meth:`create` builds it.

    Shape:
        - Input: :math:`(N, C, H, W)`.
        - Output: :math:`(N, e_{1x1} + e_{3x3}, H, W)`.

    Lua:
        ``nn.FireModule(nInputPlane, s1x1, e1x1, e3x3, activation)``, FireModule.lua

    References:
        Iandola et al., SqueezeNet, https://arxiv.org/abs/1602.07360
    """

    fx_leaf = True

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4:
            raise ValueError(f"FireModule: expected shape (N, C, H, W), found {tuple(input.shape)}")
        return self.module(input)

    @classmethod
    def create(
        cls, in_channels: int, s1x1: int, e1x1: int, e3x3: int, activation: type[nn.Module] = nn.ReLU
    ) -> FireModule:
        """Build the layers of Torch7's constructor.

        Args:
            in_channels: number of input channels.
            s1x1: number of filters of the squeeze convolution.
            e1x1, e3x3: numbers of filters of the two expand convolutions.
            activation: class of the activation after squeeze and after expand.
        """
        expand = Concat(nn.Conv2d(s1x1, e1x1, 1), nn.Conv2d(s1x1, e3x3, 3, padding=1), dimension=2)
        return cls(nn.Sequential(nn.Conv2d(in_channels, s1x1, 1), activation(), expand, activation()))

    class Lua(Decorator.Lua):
        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None and ctx.compose:
                squeeze, activation, expand, _ = fields["module"]["modules"].as_list()
                small, large = expand["modules"].as_list()
                fields.update(squeeze=squeeze, expand=expand, activation=activation.class_name.removeprefix("nn."))
                fields.update(nInputPlane=squeeze["nInputPlane"], s1x1=squeeze["nOutputPlane"])
                fields.update(e1x1=small["nOutputPlane"], e3x3=large["nOutputPlane"])
            return fields
