"""Implement dpnn's training step as an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dpnn_bridge.training import renormed
from dpnn_bridge.training.lua_parameters import LuaParameter, changed_parameters, children, own_parameters, setting

#: options of a parameter group and the fields with which a module sets its own
_FIELDS = {
    "momentum": "momFactor",
    "dampening": "momDamp",
    "nesterov": "momNesterov",
    "weight_decay": "wdFactor",
    "wd_min_dim": "wdMinDim",
    "max_out_norm": "maxOutNorm",
    "max_in_norm": "maxInNorm",
}

#: for parameters of a Lua container (the lengths and directions of WeightNorm), which dpnn only ever steps
_STEP_ONLY = {"momentum": 0, "weight_decay": 0, "max_out_norm": None, "max_in_norm": None}


class MomentumSGD(torch.optim.Optimizer):
    r"""dpnn's ``weightDecay``, ``updateGradParameters``, ``updateParameters`` and ``maxParamNorm`` in one step.

    It gives the numbers of the functions of :mod:`dpnn_bridge.training` and leaves ``.grad`` alone. For clipping call
    :func:`~dpnn_bridge.training.grad_param_clip` first.

    Args:
        module: whose parameters to train. Fields ``momFactor`` and the like of its submodules take the place of the
            arguments and become parameter groups of their own.
        lr: learning rate.
        momentum: factor :math:`\mu` of the momentum; 0: none.
        dampening: :math:`d`; default: ``momentum``.
        nesterov: use Nesterov's momentum.
        weight_decay: factor of the parameters that is added to the gradients.
        wd_min_dim: parameters with fewer dimensions do not decay.
        max_out_norm: bound of the norms along the first dimension; None: none.
        max_in_norm: bound of the norms along the last dimension; None: none.

    Examples:
        >>> net = nn.Linear(4, 2)
        >>> sgd = MomentumSGD(net, lr=0.1, momentum=0.9, max_out_norm=2)
        >>> schedule = torch.optim.lr_scheduler.StepLR(sgd, 10)
        >>> net(torch.zeros(3, 4)).sum().backward()
        >>> sgd.step()
        >>> schedule.step()

    Differs from PyTorch:
        :class:`torch.optim.SGD` starts the momentum with the first gradient itself; here the first step already is
        :math:`v = \mu g + (1 - d) g`. A parameter without gradient is left alone, and one that occurs twice is
        trained once.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        momentum: float = 0,
        dampening: float | None = None,
        nesterov: bool = False,
        weight_decay: float = 0,
        wd_min_dim: int = 2,
        max_out_norm: float | None = None,
        max_in_norm: float | None = None,
    ) -> None:
        options = {
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "wd_min_dim": wd_min_dim,
            "max_out_norm": max_out_norm,
            "max_in_norm": max_in_norm,
        }
        self._entries: dict[int, LuaParameter] = {}
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        for entry, own in _with_options(module, options):
            parameter = entry.parameter
            if id(parameter) not in self._entries and parameter.requires_grad:
                self._entries[id(parameter)] = entry
                groups.setdefault(tuple(own.values()), {"params": [], **own})["params"].append(parameter)
        super().__init__(list(groups.values()), {"lr": lr, **options})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state over; a group of another optimizer, as of :class:`torch.optim.SGD`, keeps the other options.

        Raises:
            ValueError: a group maximizes.
        """
        if any(group.get("maximize") for group in state["param_groups"]):
            raise ValueError("MomentumSGD minimizes; a state_dict with maximize=True does not fit")
        own = self.__dict__.get("param_groups", [])
        super().__setstate__(state)
        for group, before in zip(self.param_groups, own, strict=False):
            for name in before.keys() - group.keys():
                group[name] = before[name]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step.

        Args:
            closure: recomputes the loss and the gradients; optional.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(self._entries[id(parameter)], self.state[parameter], group)
        return loss

    def _update(self, entry: LuaParameter, state: dict[str, Any], group: dict[str, Any]) -> None:
        value, gradient, mu = entry.read(), entry.read_gradient(), group["momentum"]
        if group["weight_decay"] > 0 and value.dim() >= group["wd_min_dim"]:
            gradient = gradient + group["weight_decay"] * value
        if mu > 0:
            dampening = mu if group["dampening"] is None else group["dampening"]
            momentum = state.get("momentum_buffer")
            momentum = mu * (gradient if momentum is None else momentum) + (1 - dampening) * gradient
            state["momentum_buffer"] = momentum
            gradient = gradient + mu * momentum if group["nesterov"] else momentum
        value = value - group["lr"] * gradient
        if value.dim() > 1:
            dims = (1, 0) if isinstance(entry.module, nn.Embedding) else (0, -1)
            value = renormed(value, group["max_out_norm"], group["max_in_norm"], dims)
        entry.write(value)


def _with_options(
    module: nn.Module, options: dict[str, Any], off: frozenset[str] = frozenset()
) -> Iterator[tuple[LuaParameter, dict[str, Any]]]:
    """Yield every parameter with the options that hold for its module: its own, or else those of the module around it.

    What is ``off`` in a module stays so in all of its submodules, as in Torch7.
    """
    own = {
        name: options[name] if name in off else setting(module, field, options[name]) for name, field in _FIELDS.items()
    }
    if own["momentum"] <= 0:
        off = off | {"momentum", "dampening", "nesterov"}
    elif own["dampening"] is None:
        own["dampening"] = own["momentum"]
    if own["weight_decay"] <= 0:
        off = off | {"weight_decay", "wd_min_dim"}
    if own["max_out_norm"] is None and own["max_in_norm"] is None:
        off = off | {"max_out_norm", "max_in_norm"}
    for child in children(module):
        yield from _with_options(child, own, off)
    if isinstance(module, nn.Embedding):
        out = own["max_in_norm"] if own["max_out_norm"] is None else own["max_out_norm"]
        own = {**own, "max_out_norm": out, "max_in_norm": options["max_in_norm"]}
    changed = {entry.name for entry in changed_parameters(module)}
    for entry in own_parameters(module):
        yield entry, own if entry.name in changed else {**own, **_STEP_ONLY}
