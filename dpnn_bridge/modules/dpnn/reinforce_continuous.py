"""REINFORCE modules that sample from distributions over real numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Gamma

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.dpnn.reinforce import Reinforce
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


class _TwoParameters(Reinforce):
    """Base class of distributions whose second parameter is a number, a tensor or part of the input.

    Args:
        second: a number; a tensor of the input's or a sample's shape; or None if the input is a pair that contains it.
        stochastic: sample in evaluation mode too.
    """

    name = "second"  #: attribute and Lua field of the second parameter

    def __init__(self, second: float | Tensor | None = None, stochastic: bool | None = None) -> None:
        super().__init__(stochastic)
        if isinstance(second, Tensor):
            self.register_buffer(self.name, second)
        else:
            setattr(self, self.name, second)

    def distribution(self, input: Any) -> tuple[Tensor, ...]:
        class_name = type(self).__name__
        if isinstance(input, (list, tuple)):
            if len(input) != 2 or input[0].shape != input[1].shape:
                found = [tuple(t.shape) for t in input] if len(input) == 2 else f"{len(input)} elements"
                raise ValueError(f"{class_name}: expected a tensor or a pair of tensors of equal shape, found {found}")
            return tuple(input)
        second = getattr(self, self.name)
        if second is None:
            raise ValueError(
                f"{class_name} without {self.name}: expected a pair of tensors whose second is the {self.name}"
            )
        if isinstance(second, Tensor) and second.shape not in (input.shape, input.shape[1:]):
            raise ValueError(
                f"{class_name}: expected {self.name} of the input's shape {tuple(input.shape)} or of a sample's shape "
                f"{tuple(input.shape[1:])}, found {tuple(second.shape)}"
            )
        return (input,)

    def parameters_of(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        """Return both parameters, whose shapes broadcast."""
        return inputs if len(inputs) == 2 else (inputs[0], getattr(self, self.name))

    def extra_repr(self) -> str:
        second = getattr(self, self.name)
        text = f"{self.name}={tuple(second.shape) if isinstance(second, Tensor) else second}"
        return f"{text}, stochastic=True" if self.stochastic else text

    class Lua(Reinforce.Lua):
        """``stdev`` or ``scale`` is a number, a tensor, or missing if the input contains it."""

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            second = obj.get(cls.torch_type.name)
            if isinstance(second, LuaTensor):
                second = second.torch()
            return {**super().arguments(obj, ctx), cls.torch_type.name: second}

        @classmethod
        def fields_of(cls, module: nn.Module) -> dict[str, Field]:
            name = cls.torch_type.name
            return {name: Field(name)} if name in module._buffers else {}

        @classmethod
        def handled(cls, module: nn.Module) -> set[str]:
            return super().handled(module) | {cls.torch_type.name}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            second = getattr(module, cls.torch_type.name)
            if second is None:
                tensor_class = ctx.type_of(module)
                fields["gradInput"] = LuaTable.from_list([LuaTensor.empty(tensor_class), LuaTensor.empty(tensor_class)])
            elif not isinstance(second, Tensor):
                fields[cls.torch_type.name] = second
            return fields


@lua_class("nn.ReinforceNormal")
class ReinforceNormal(_TwoParameters):
    r"""Samples from normal distributions with the given means.

    The derivatives are :math:`(x - \mu) / \sigma^2` for the mean and, for the standard deviation,
    :math:`((x - \mu)^2 - \sigma^2) / \sigma^3`.

    Args:
        stdev: standard deviation: a number; a tensor of the input's or a sample's shape; or None if the input is a pair
            ``[mean, stdev]``.
        stochastic: sample in evaluation mode too; otherwise evaluation mode returns the means.
        rewards_stdev: whether the gradient of the standard deviation is multiplied by the reward; False also omits the
            1e-8 that is added to its divisor.

    Shape:
        - Input: :math:`(N, *)`, or a pair of tensors of that shape.
        - Output: :math:`(N, *)`.

    Examples:
        >>> locator = nn.Sequential(nn.Linear(8, 2), nn.Tanh(), ReinforceNormal(0.1))
        >>> locator(torch.zeros(4, 8)).shape
        torch.Size([4, 2])

    Lua:
        ``nn.ReinforceNormal(stdev, stochastic)``, ReinforceNormal.lua. The class of 2015 does not multiply the gradient
        of the standard deviation by the reward.
    """

    name = "stdev"

    def __init__(
        self, stdev: float | Tensor | None = None, stochastic: bool | None = None, rewards_stdev: bool = True
    ) -> None:
        super().__init__(stdev, stochastic)
        self.rewards_stdev = rewards_stdev

    def sample(self, *inputs: Tensor) -> Tensor:
        mean, stdev = self.parameters_of(inputs)
        return torch.randn_like(mean) * stdev + mean

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        mean, stdev = self.parameters_of(inputs)
        difference = sample - mean
        grad_mean = -difference / stdev**2 * self.reward_as(mean)
        if len(inputs) == 1:
            return (grad_mean,)
        grad_stdev = stdev**2 - difference**2
        if self.rewards_stdev:
            return grad_mean, grad_stdev / (stdev**3 + 1e-8) * self.reward_as(stdev)
        return grad_mean, grad_stdev / stdev**3

    class Lua(_TwoParameters.Lua):
        scalars = {**Reinforce.Lua.scalars, "rewardsStdev": "rewards_stdev"}
        defaults = {**Reinforce.Lua.defaults, "rewardsStdev": True}
        before_2016 = {"rewardsStdev": False}


@lua_class("nn.ReinforceGamma")
class ReinforceGamma(_TwoParameters):
    r"""Samples from gamma distributions with the given shapes.

    The derivatives are :math:`\ln x - \psi(k) - \ln \theta` for the shape and :math:`x / \theta^2 - k / \theta` for the
    scale.

    Args:
        scale: scale :math:`\theta`: a number; a tensor of the input's or a sample's shape; or None if the input is a
            pair ``[shape, scale]``.
        stochastic: sample in evaluation mode too; otherwise evaluation mode returns the means :math:`k \theta`.

    Shape:
        - Input: :math:`(N, *)`, or a pair of tensors of that shape.
        - Output: :math:`(N, *)`.

    Lua:
        ``nn.ReinforceGamma(scale, stochastic)``, ReinforceGamma.lua. As in Torch7, the samples and the argument of
        :math:`\psi` are float32 for every dtype.
    """

    name = "scale"

    def __init__(self, scale: float | Tensor | None = None, stochastic: bool | None = None) -> None:
        super().__init__(scale, stochastic)

    def sample(self, *inputs: Tensor) -> Tensor:
        shape, scale = self.parameters_of(inputs)
        gamma = Gamma(shape.float(), torch.ones_like(shape, dtype=torch.float32), validate_args=False)
        return (gamma.sample() * scale).to(shape.dtype)

    def mean(self, *inputs: Tensor) -> Tensor:
        shape, scale = self.parameters_of(inputs)
        return shape * scale

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        shape, scale = self.parameters_of(inputs)
        log_scale = torch.as_tensor(scale, dtype=shape.dtype, device=shape.device).log()
        digamma = shape.float().double().digamma().to(shape.dtype)
        grad_shape = -(sample.log() - digamma - log_scale) * self.reward_as(shape)
        if len(inputs) == 1:
            return (grad_shape,)
        return grad_shape, -(sample / scale**2 - shape / scale) * self.reward_as(scale)

    class Lua(_TwoParameters.Lua):
        pass
