"""REINFORCE modules: the output is a sample; the gradient is that of its log probability times a reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTensor


class _RewardGradient(torch.autograd.Function):
    """Returns the sample; the backward pass sets the reward, if there is one, and calls the module's ``gradients``."""

    @staticmethod
    def forward(ctx: Any, module: Reinforce, reward: Tensor | None, sample: Tensor, *inputs: Tensor) -> Tensor:
        ctx.module, ctx.reward, ctx.adds_gradient = module, reward, True
        ctx.save_for_backward(sample, *inputs)
        return sample.view_as(sample)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        sample, *inputs = ctx.saved_tensors
        if ctx.reward is not None:
            ctx.module.reinforce(ctx.reward)
        return None, None, None, *ctx.module.gradients(sample, *inputs)


@lua_class("nn.Reinforce")
class Reinforce(nn.Module):
    r"""Base class of the REINFORCE modules; used directly, it returns its input, and its gradient is the reward.

    Args:
        stochastic: sample in evaluation mode too; otherwise evaluation mode returns the mean of the distribution.

    Attributes:
        reward: the reward of each sample, set by :meth:`reinforce`.

    Shape:
        - Input, output: :math:`(N, *)`, or :math:`(*)` with a single reward.

    Raises:
        RuntimeError: a backward pass runs without a reward.

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
        """Set the reward for the next backward pass.

        Args:
            reward: reward of each sample, of shape :math:`(N)`.
        """
        self.reward = reward

    def forward(self, input: Any) -> Tensor:
        inputs = self.distribution(input)
        with torch.no_grad():
            sample = self.sample(*inputs) if self.stochastic or self.training else self.mean(*inputs)
        return self.rewarded(sample, input)

    def rewarded(self, sample: Tensor, input: Any, reward: Tensor | None = None) -> Tensor:
        """Return ``sample`` with the gradient of its log probability under ``input``.

        Args:
            sample: a sample of the distribution.
            input: the input.
            reward: the reward of the sample; default: that of the last :meth:`reinforce` before the backward pass.
        """
        return _RewardGradient.apply(self, reward, sample, *self.distribution(input))

    def distribution(self, input: Any) -> tuple[Tensor, ...]:
        """Return the parameters of the distribution that the input contains."""
        return (input,)

    def sample(self, *inputs: Tensor) -> Tensor:
        """Return a sample of the distribution."""
        return inputs[0].clone()

    def mean(self, *inputs: Tensor) -> Tensor:
        """Return the output in evaluation mode."""
        return inputs[0].clone()

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the gradient for each of ``inputs``."""
        return (self.reward_as(inputs[0]).clone(),)

    def reward_as(self, input: Tensor) -> Tensor:
        """Return the rewards, expanded to the shape of ``input``."""
        name, reward = type(self).__name__, self.reward
        if reward is None:
            raise RuntimeError(
                f"{name} has no reward: use a reward criterion such as VRClassReward, or call "
                "dpnn_bridge.training.reinforce(model, reward) between the forward and the backward pass. A criterion "
                "that was converted apart from the model rewards a copy of it: load both with "
                "dpnn_bridge.load_checkpoint. A reference of dpnn-verify contains the reward as `reward`"
            )
        if reward.dim() != 1:
            raise RuntimeError(f"{name}: expected a reward of shape (N), found {tuple(reward.shape)}")
        reward = reward.to(input.device, input.dtype)
        if reward.shape == input.shape:
            return reward
        if len(reward) not in (1, input.shape[0]):
            raise RuntimeError(
                f"{name}: expected {input.shape[0]} rewards for an input of shape {tuple(input.shape)}, "
                f"found {len(reward)}"
            )
        return reward.reshape(-1, *[1] * (input.dim() - 1)).expand_as(input)

    class Lua(LuaClass):
        """Base class of the REINFORCE class mappings.

        Attributes:
            before_2016: values of fields for files without ``_type``, whose modules computed another gradient. The
                fields are ours; Torch7 ignores them.
        """

        scalars = ("stochastic",)
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
        def replay(cls, module: Reinforce, after: LuaObject) -> Callable[[Any], Tensor] | None:
            output = after.get("output")
            if not (module.training or module.stochastic) or not isinstance(output, LuaTensor):
                return None

            def drawn(x: Any) -> Tensor:
                (like, *_) = module.distribution(x)
                reward = noise_of(after, "reward", like) if isinstance(after.get("reward"), LuaTensor) else None
                return module.rewarded(noise_of(after, "output", like), x, reward)

            return drawn


@lua_class("nn.ReinforceBernoulli")
class ReinforceBernoulli(Reinforce):
    r"""Samples 0 or 1 with the given probabilities of 1: :math:`\partial \ln f / \partial p = (x - p) / (p (1 - p))`.

    Args:
        stochastic: sample in evaluation mode too; otherwise evaluation mode returns the probabilities.

    Shape:
        - Input, output: :math:`(N, *)`, or :math:`(*)` with a single reward.

    Lua:
        ``nn.ReinforceBernoulli(stochastic)``, ReinforceBernoulli.lua
    """

    def sample(self, *inputs: Tensor) -> Tensor:
        return (torch.rand_like(inputs[0]) < inputs[0]).to(inputs[0].dtype)

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        p = inputs[0]
        return (-(sample - p) / ((1 - p) * p) * self.reward_as(p),)


@lua_class("nn.ReinforceCategorical")
class ReinforceCategorical(Reinforce):
    r"""Samples one of K categories as a one-hot vector: :math:`\partial \ln f / \partial p_i = x_i / p_i`.

    Args:
        stochastic: sample in evaluation mode too; otherwise evaluation mode returns the probabilities.
        epsilon: added to the probabilities in the divisor of the gradient.

    Shape:
        - Input: :math:`(N, K)`.
        - Output: :math:`(N, K)`.

    Lua:
        ``nn.ReinforceCategorical(stochastic)``, ReinforceCategorical.lua. The class of 2015 has no epsilon.
    """

    def __init__(self, stochastic: bool | None = None, epsilon: float = 1e-8) -> None:
        super().__init__(stochastic)
        self.epsilon = epsilon

    def distribution(self, input: Any) -> tuple[Tensor, ...]:
        if input.dim() != 2:
            raise ValueError(f"ReinforceCategorical: expected shape (N, K), found {tuple(input.shape)}")
        return (input,)

    def sample(self, *inputs: Tensor) -> Tensor:
        return torch.zeros_like(inputs[0]).scatter_(1, torch.multinomial(inputs[0], 1), 1)

    def gradients(self, sample: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (-sample / (inputs[0] + self.epsilon) * self.reward_as(inputs[0]),)

    class Lua(Reinforce.Lua):
        scalars = {**Reinforce.Lua.scalars, "epsilon": "epsilon"}
        defaults = {**Reinforce.Lua.defaults, "epsilon": 1e-8}
        before_2016 = {"epsilon": 0}
