"""REINFORCE: modules that sample, and whose gradient is that of the sample's log probability times a reward.

The reward arrives between forward and backward: from :func:`dpnn_bridge.training.reinforce`, or from the backward pass
of a reward criterion such as :class:`~dpnn_bridge.modules.dpnn.reward.VRClassReward`, which runs first. What reaches
the sample as its gradient is ignored, it need only arrive. The gradient belongs to descent: it is minus the derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Gamma

from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_context import LuaContext
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.torch_context import TorchContext
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


class _RewardGradient(torch.autograd.Function):
    """The sample; its gradient is the module's business."""

    @staticmethod
    def forward(ctx: Any, module: Reinforce, sample: Tensor, *inputs: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(sample, *inputs)
        return sample.view_as(sample)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        sample, *inputs = ctx.saved_tensors
        return None, None, *ctx.module.gradients(sample, *inputs)


class Reinforce(nn.Module):
    r"""Base of the REINFORCE modules; alone it hands its input on, and its gradient is the reward.

    Args:
        stochastic: sample in evaluation too; otherwise evaluation gives the distribution's mean.

    Attributes:
        reward: the reward of each sample, set by :meth:`reinforce`.

    Shape:
        - Input: :math:`(N, *)`, or :math:`(*)` with a single reward.
        - Output: the same shape.

    Raises:
        RuntimeError: in a backward pass when no reward was given.

    Lua:
        ``nn.Reinforce(stochastic)``, Reinforce.lua

    References:
        Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992
    """

    def __init__(self, stochastic: bool | None = None) -> None:
        super().__init__()
        self.stochastic = stochastic
        self.reward: Tensor | None = None

    def reinforce(self, reward: Tensor) -> None:
        """Sets the reward for the backward pass that follows.

        Args:
            reward: shape :math:`(N)`.
        """
        self.reward = reward

    def forward(self, input: Any) -> Tensor:
        inputs = self.distribution(input)
        with torch.no_grad():
            sample = self.sample(*inputs) if self.stochastic or self.training else self.mean(*inputs)
        return self.rewarded(sample, input)

    def rewarded(self, sample: Tensor, input: Any) -> Tensor:
        """``sample`` with the gradient of its log probability under ``input``."""
        return _RewardGradient.apply(self, sample, *self.distribution(input))

    def distribution(self, input: Any) -> tuple[Tensor, ...]:
        """The distribution's parameters that the input gives."""
        return (input,)

    def sample(self, *inputs: Tensor) -> Tensor:
        """A sample of the distribution."""
        return inputs[0].clone()

    def mean(self, *inputs: Tensor) -> Tensor:
        """What evaluation gives."""
        return inputs[0].clone()

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The gradient for each of ``inputs``."""
        return (self.reward_as(inputs[0]).clone(),)

    def reward_as(self, input: Tensor) -> Tensor:
        """The rewards in the shape of ``input``."""
        name, reward = type(self).__name__, self.reward
        if reward is None:
            raise RuntimeError(
                f"{name} got no reward: use a reward criterion such as VRClassReward, or call reinforce(reward) "
                "of each such module (dpnn_bridge.training.reinforce for a model) between forward and backward"
            )
        if reward.dim() != 1:
            raise RuntimeError(f"{name}: the reward must have shape (N), found {tuple(reward.shape)}")
        reward = reward.to(input.device, input.dtype)
        if reward.shape == input.shape:
            return reward
        if len(reward) not in (1, input.shape[0]):
            raise RuntimeError(f"{name}: {len(reward)} rewards do not fit an input of shape {tuple(input.shape)}")
        return reward.reshape(-1, *[1] * (input.dim() - 1)).expand_as(input)

    def extra_repr(self) -> str:
        return "stochastic=True" if self.stochastic else ""


@lua_class("nn.Reinforce")
class ReinforceClass(LuaClass):
    """Base of the REINFORCE blocks.

    Attributes:
        before_2016: what modules of files without ``_type`` computed differently: a field of our own, which Torch7
            ignores, and its value.
    """

    torch_type = Reinforce
    scalars = {"stochastic": "stochastic"}
    defaults = {"stochastic": None}
    scratch = ("reward",)
    before_2016: ClassVar[dict[str, Any]] = {}

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        if "_type" in obj or not cls.before_2016:
            return obj
        return obj.changed({**cls.before_2016, **obj})

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields = super().to_lua(module, ctx)
        return {k: v for k, v in fields.items() if k not in cls.before_2016 or v == cls.before_2016[k]}

    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Any], Tensor] | None:
        assert isinstance(module, Reinforce)
        output = after.get("output")
        if not (module.training or module.stochastic) or not isinstance(output, LuaTensor):
            return None
        return lambda x: module.rewarded(noise_of(after, "output", module.distribution(x)[0]), x)


class ReinforceBernoulli(Reinforce):
    r"""Samples ones with the given probabilities: :math:`\partial \ln f / \partial p = (x - p) / (p (1 - p))`.

    Args:
        stochastic: sample in evaluation too; otherwise evaluation gives the probabilities.

    Shape:
        - Input: :math:`(N, *)`, or :math:`(*)` with a single reward.
        - Output: the same shape.

    Lua:
        ``nn.ReinforceBernoulli(stochastic)``, ReinforceBernoulli.lua
    """

    def sample(self, *inputs: Tensor) -> Tensor:
        return (torch.rand_like(inputs[0]) < inputs[0]).to(inputs[0].dtype)

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        p = inputs[0]
        return (-(sample - p) / ((1 - p) * p) * self.reward_as(p),)


@lua_class("nn.ReinforceBernoulli")
class ReinforceBernoulliClass(ReinforceClass):
    torch_type = ReinforceBernoulli


class ReinforceCategorical(Reinforce):
    r"""Samples one of K categories, as a vector with a one: :math:`\partial \ln f / \partial p_i = x_i / p_i`.

    Args:
        stochastic: sample in evaluation too; otherwise evaluation gives the probabilities.
        epsilon: added to the probabilities that the gradient is divided by.

    Shape:
        - Input: :math:`(N, K)`.
        - Output: :math:`(N, K)`.

    Lua:
        ``nn.ReinforceCategorical(stochastic)``, ReinforceCategorical.lua. Files of 2015 have no epsilon.
    """

    def __init__(self, stochastic: bool | None = None, epsilon: float = 1e-8) -> None:
        super().__init__(stochastic)
        self.epsilon = epsilon

    def distribution(self, input: Any) -> tuple[Tensor, ...]:
        if input.dim() != 2:
            raise ValueError(f"ReinforceCategorical takes batches of shape (N, K), found {tuple(input.shape)}")
        return (input,)

    def sample(self, *inputs: Tensor) -> Tensor:
        return torch.zeros_like(inputs[0]).scatter_(1, torch.multinomial(inputs[0], 1), 1)

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (-sample / (inputs[0] + self.epsilon) * self.reward_as(inputs[0]),)


@lua_class("nn.ReinforceCategorical")
class ReinforceCategoricalClass(ReinforceClass):
    torch_type = ReinforceCategorical
    scalars = {**ReinforceClass.scalars, "epsilon": "epsilon"}
    defaults = {**ReinforceClass.defaults, "epsilon": 1e-8}
    before_2016 = {"epsilon": 0}


class _TwoParameters(Reinforce):
    """Base of distributions whose second parameter is a number, a tensor or part of the input.

    Args:
        second: number, tensor of the input's shape or without its batch, or None when the input is a pair.
        stochastic: sample in evaluation too.
    """

    name = "second"  #: attribute and Lua field of the second parameter

    def __init__(self, second: float | Tensor | None = None, stochastic: bool | None = None) -> None:
        super().__init__(stochastic)
        if isinstance(second, Tensor):
            self.register_buffer(self.name, second)
        else:
            setattr(self, self.name, second)

    def distribution(self, input: Any) -> tuple[Tensor, ...]:
        kind = type(self).__name__
        if isinstance(input, (list, tuple)):
            if len(input) != 2 or input[0].shape != input[1].shape:
                raise ValueError(
                    f"{kind} takes a tensor or a pair of tensors of one shape, found {len(input)} elements"
                )
            return tuple(input)
        second = getattr(self, self.name)
        if second is None:
            raise ValueError(f"{kind} has no {self.name}; its input must be a pair with it")
        if isinstance(second, Tensor) and second.shape not in (input.shape, input.shape[1:]):
            raise ValueError(f"{kind}: {self.name} of shape {tuple(second.shape)} does not fit {tuple(input.shape)}")
        return (input,)

    def parameters_of(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        """Both parameters; they broadcast."""
        return inputs if len(inputs) == 2 else (inputs[0], getattr(self, self.name))

    def extra_repr(self) -> str:
        second = getattr(self, self.name)
        text = f"{self.name}={tuple(second.shape) if isinstance(second, Tensor) else second}"
        return f"{text}, stochastic=True" if self.stochastic else text


class TwoParametersClass(ReinforceClass):
    """``stdev`` or ``scale`` is a number, a tensor, or missing when the input holds it."""

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
            kind = ctx.type_of(module)
            fields["gradInput"] = LuaTable.from_list([LuaTensor.empty(kind), LuaTensor.empty(kind)])
        elif not isinstance(second, Tensor):
            fields[cls.torch_type.name] = second
        return fields


class ReinforceNormal(_TwoParameters):
    r"""Samples from normal distributions with the given means.

    The derivatives are :math:`(x - \mu) / \sigma^2` for the mean and, for the standard deviation,
    :math:`((x - \mu)^2 - \sigma^2) / \sigma^3`.

    Args:
        stdev: standard deviation: a number, a tensor of the input's shape or without its batch, or None when the input
            is a pair ``[mean, stdev]``.
        stochastic: sample in evaluation too; otherwise evaluation gives the means.
        rewards_stdev: whether the gradient for the standard deviation is multiplied by the reward; False also leaves
            out the 1e-8 that is added to its divisor.

    Shape:
        - Input: :math:`(N, *)`, or a pair of that shape.
        - Output: :math:`(N, *)`.

    Examples:
        >>> locator = nn.Sequential(nn.Linear(8, 2), nn.Tanh(), ReinforceNormal(0.1))
        >>> locator(torch.zeros(4, 8)).shape
        torch.Size([4, 2])

    Lua:
        ``nn.ReinforceNormal(stdev, stochastic)``, ReinforceNormal.lua. In files of 2015 the gradient for the standard
        deviation is not multiplied by the reward.
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


@lua_class("nn.ReinforceNormal")
class ReinforceNormalClass(TwoParametersClass):
    torch_type = ReinforceNormal
    scalars = {**ReinforceClass.scalars, "rewardsStdev": "rewards_stdev"}
    defaults = {**ReinforceClass.defaults, "rewardsStdev": True}
    before_2016 = {"rewardsStdev": False}


class ReinforceGamma(_TwoParameters):
    r"""Samples from gamma distributions with the given shapes.

    The derivatives are :math:`\ln x - \psi(k) - \ln \theta` for the shape and :math:`x / \theta^2 - k / \theta` for the
    scale.

    Args:
        scale: scale :math:`\theta`: a number, a tensor of the input's shape or without its batch, or None when the
            input is a pair ``[shape, scale]``.
        stochastic: sample in evaluation too; otherwise evaluation gives the means :math:`k \theta`.

    Shape:
        - Input: :math:`(N, *)`, or a pair of that shape.
        - Output: :math:`(N, *)`.

    Lua:
        ``nn.ReinforceGamma(scale, stochastic)``, ReinforceGamma.lua. Samples, and the shape of which :math:`\psi` is
        taken, are single precision whatever the type.
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


@lua_class("nn.ReinforceGamma")
class ReinforceGammaClass(TwoParametersClass):
    torch_type = ReinforceGamma
