"""Criterions that reward REINFORCE modules: VRClassReward, BinaryClassReward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion import Criterion, elementwise
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of
from dpnn_bridge.training.methods import reinforce


class _Broadcast(torch.autograd.Function):
    """Returns the loss; the backward pass sets the network's reward and gives the prediction a zero gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, prediction: Tensor, criterion: ClassReward, reward: Tensor) -> Tensor:
        ctx.criterion = criterion
        ctx.save_for_backward(prediction, reward)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        prediction, reward = ctx.saved_tensors
        reinforce(ctx.criterion.module, reward)
        return grads[0], torch.zeros_like(prediction), None, None


class ClassReward(Criterion):
    r"""Base class of the reward criterions: the reward R is ``scale`` for a correct prediction, and 0 for a wrong one.

    The loss is minus the mean reward. Its backward pass

    * sets the reward of the REINFORCE modules in ``module`` to :math:`(R - b) / N`, with the baseline b, before the
      backward pass reaches these modules;
    * gives the prediction a zero gradient;
    * gives the baseline the gradient of ``criterion(baseline, reward)``.

    Args:
        module: the network with the REINFORCE modules. It is not a submodule of the criterion: it is not in
            ``parameters()`` or ``state_dict()``, and casts and moves of the criterion do not change it.
        scale: reward of a correct prediction.
        criterion: compares the baseline with the reward; default: mean squared error.
        size_average: divide loss and reward by the batch size.

    Attributes:
        reward: rewards :math:`R` of the last batch, of shape :math:`(N)`.
        vr_reward: rewards of the REINFORCE modules, :math:`(R - b) / N`.
    """

    module: nn.Module
    reward: Tensor
    vr_reward: Tensor

    def __init__(
        self, module: nn.Module, scale: float = 1, criterion: nn.Module | None = None, *, size_average: bool = True
    ) -> None:
        super().__init__()
        self.__dict__["module"] = module
        self.scale, self.size_average = scale, size_average
        self.criterion = nn.MSELoss() if criterion is None else criterion

    def correct(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return whether each prediction is correct, as a tensor of shape :math:`(N)`."""
        raise NotImplementedError

    def forward(self, input: list[Tensor], target: Any) -> Tensor:
        prediction, baseline = input[0], input[1]
        reward = self.correct(prediction.detach(), torch.as_tensor(target, device=prediction.device))
        reward = reward.to(prediction.dtype) * self.scale
        n = len(reward) if self.size_average else 1
        return self.rewarded(-reward.sum() / n, reward, prediction, baseline)

    def rewarded(self, loss: Tensor, reward: Tensor, prediction: Tensor, baseline: Tensor) -> Tensor:
        """Return ``loss`` with the backward pass that the class describes.

        Args:
            loss: value of the loss.
            reward: rewards R, of shape :math:`(N)`.
            prediction: predictions, which get a zero gradient.
            baseline: expected reward of each prediction, N numbers.
        """
        self.reward = reward
        if baseline.numel() != len(self.reward):
            raise ValueError(
                f"expected a baseline with {len(self.reward)} elements, one per prediction, found shape "
                f"{tuple(baseline.shape)}"
            )
        n = len(self.reward) if self.size_average else 1
        self.vr_reward = (self.reward - baseline.detach().reshape(-1)) / n
        baseline_loss = self.criterion(baseline, self.reward.reshape(baseline.shape))
        return _Broadcast.apply(with_gradient_of(loss, baseline_loss), prediction, self, self.vr_reward)

    class Lua(Criterion.Lua):
        scalars = {"scale": "scale", "sizeAverage": "size_average"}
        computed_fields = ("module", "criterion")
        scratch = ("reward", "vrReward")

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            return {
                **super().arguments(obj, ctx),
                "module": ctx.to_torch(obj["module"], "module"),
                "criterion": ctx.to_torch(obj["criterion"], "criterion"),
            }

        @classmethod
        def children(cls, module: nn.Module) -> list[nn.Module]:
            return []  # a criterion has no parameters in Torch7

        @classmethod
        def to_lua(cls, module: ClassReward, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                fields["gradInput"] = LuaTable.from_list([LuaTensor.empty(ctx.type_of(module.module))])
            return {**fields, "module": ctx.to_lua(module.module), "criterion": ctx.to_lua(module.criterion)}


@lua_class("nn.VRClassReward")
class VRClassReward(ClassReward):
    r"""Rewards REINFORCE modules for correct classes, minus a baseline; see :class:`ClassReward`.

    Args:
        module: the network with the REINFORCE modules.
        scale: reward of a correct prediction.
        criterion: compares the baseline with the reward; default: mean squared error.
        size_average: divide loss and reward by the batch size.
        index_base: index of the first class.

    Shape:
        - Input: ``[prediction, baseline]`` of shapes :math:`(N, C)` and :math:`(N, 1)`; or :math:`(C)` and :math:`(1)`.
          The class with the largest value is predicted.
        - Target: :math:`(N)`, class indices from ``index_base``.
        - Output: the loss, a number.

    Examples:
        >>> from dpnn_bridge.modules.dpnn import ReinforceNormal
        >>> net = nn.Sequential(nn.Linear(4, 3), ReinforceNormal(0.1))
        >>> criterion, baseline = VRClassReward(net), torch.zeros(5, 1, requires_grad=True)
        >>> criterion([net(torch.randn(5, 4)), baseline], torch.tensor([1, 2, 3, 1, 2])).backward()
        >>> net[0].weight.grad is not None
        True

    Lua:
        ``nn.VRClassReward(module, scale, criterion)``, VRClassReward.lua
    """

    def __init__(
        self,
        module: nn.Module,
        scale: float = 1,
        criterion: nn.Module | None = None,
        *,
        size_average: bool = True,
        index_base: int = 1,
    ) -> None:
        super().__init__(module, scale, criterion, size_average=size_average)
        self.index_base = index_base

    def correct(self, prediction: Tensor, target: Tensor) -> Tensor:
        predicted = prediction.argmax(-1).reshape(-1) + self.index_base
        return predicted == elementwise(target, predicted)

    class Lua(ClassReward.Lua):
        indexed = True


@lua_class("nn.BinaryClassReward")
class BinaryClassReward(ClassReward):
    r"""Rewards REINFORCE modules for correct binary predictions, minus a baseline; see :class:`ClassReward`.

    Args:
        module: the network with the REINFORCE modules.
        scale: reward of a correct prediction.
        criterion: compares the baseline with the reward; default: mean squared error.
        size_average: divide loss and reward by the batch size.

    Shape:
        - Input: ``[prediction, baseline]``, both :math:`(N)`. A prediction above 0.5 means 1.
        - Target: :math:`(N)`, 0 or 1.
        - Output: the loss, a number.

    Lua:
        ``nn.BinaryClassReward(module, scale, criterion)``, BinaryClassReward.lua
    """

    def correct(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.dim() != 1 or target.dim() != 1:
            shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            raise ValueError(f"BinaryClassReward: expected predictions and targets of shape (N), found {shapes}")
        return (prediction > 0.5) == (elementwise(target, prediction) == 1)

    class Lua(ClassReward.Lua):
        pass
