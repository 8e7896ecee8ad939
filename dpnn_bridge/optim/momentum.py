"""Implement the training step of dpnn as an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dpnn_bridge.optim.exact import WithFixedOptions, evaluated
from dpnn_bridge.training.lua_parameters import LuaParameter, changed_parameters, children, own_parameters, setting
from dpnn_bridge.training.methods import in_rows, renormed, visited_rows

#: option of a parameter group -> field of a module that overrides the option
_FIELDS = {
    "momentum": "momFactor",
    "dampening": "momDamp",
    "nesterov": "momNesterov",
    "weight_decay": "wdFactor",
    "wd_min_dim": "wdMinDim",
    "max_out_norm": "maxOutNorm",
    "max_in_norm": "maxInNorm",
}

#: options of parameters of a Lua container, such as ``nn.WeightNorm``, to which dpnn applies only the learning rate
_STEP_ONLY = {"momentum": 0, "weight_decay": 0, "max_out_norm": None, "max_in_norm": None}


class MomentumSGD(WithFixedOptions):
    r"""dpnn's ``weightDecay``, ``updateGradParameters``, ``updateParameters`` and ``maxParamNorm`` in one step.

    A step changes the parameters like the functions of :mod:`dpnn_bridge.training`, but does not change ``.grad``. To
    clip gradients, call :func:`~dpnn_bridge.training.grad_param_clip` before the step.

    Args:
        module: the module to train. Fields of its submodules, such as ``momFactor``, override the arguments;
            parameters with different options are in different parameter groups.
        lr: learning rate.
        momentum: factor :math:`\mu` of the momentum; 0 disables it.
        dampening: :math:`d`; default: ``momentum``.
        nesterov: whether to use Nesterov's momentum.
        weight_decay: factor of the parameter that is added to its gradient.
        wd_min_dim: minimum number of dimensions of a parameter for weight decay.
        max_out_norm: maximum of the norms along the first dimension, or None.
        max_in_norm: maximum of the norms along the last dimension, or None.

    Examples:
        >>> net = nn.Linear(4, 2)
        >>> sgd = MomentumSGD(net, lr=0.1, momentum=0.9, max_out_norm=2)
        >>> schedule = torch.optim.lr_scheduler.StepLR(sgd, 10)
        >>> net(torch.zeros(3, 4)).sum().backward()
        >>> sgd.step()
        >>> schedule.step()

    Differs from PyTorch:
        In the first step, the momentum buffer is :math:`v = \mu g + (1 - d) g`; in :class:`torch.optim.SGD` it is
        :math:`v = g`. A parameter without a gradient does not change. A parameter that occurs twice is updated once.
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
        #: the entry of each parameter, and the dimensions along which its norms are bounded
        self._entries: dict[nn.Parameter, tuple[LuaParameter, tuple[int, int]]] = {}
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        chosen = ((part, dims, own) for entry, dims, own in _with_options(module, options) for part in entry.parts)
        for entry, dims, own in chosen:
            parameter = entry.parameter
            if parameter not in self._entries and parameter.requires_grad:
                self._entries[parameter] = entry, dims
                groups.setdefault(tuple(own.values()), {"params": [], **own})["params"].append(parameter)
        super().__init__(list(groups.values()), {"lr": lr, **options})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_entries": self._entries}  # type: ignore[misc]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load a state. Options that a group of another optimizer lacks, such as of ``torch.optim.SGD``, are kept."""
        own = self.__dict__.get("param_groups", [])
        super().__setstate__(state)
        for group, before in zip(self.param_groups, own, strict=False):
            for name in before.keys() - group.keys():
                group[name] = before[name]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step.

        Args:
            closure: function that computes the loss and the gradients, and returns the loss.
        """
        loss = evaluated(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(*self._entries[parameter], self.state[parameter], group)
        return loss

    def _update(self, entry: LuaParameter, dims: tuple[int, int], state: dict[str, Any], group: dict[str, Any]) -> None:
        value, gradient, mu = entry.read(), entry.read_gradient(), group["momentum"]
        before, rows = value, visited_rows(entry.module)
        if group["weight_decay"] > 0 and value.dim() >= group["wd_min_dim"]:
            gradient = gradient + group["weight_decay"] * value
        if mu > 0:
            dampening = mu if group["dampening"] is None else group["dampening"]
            first = gradient if rows is None else torch.zeros_like(gradient)
            old = state.get("momentum_buffer", first)
            momentum = in_rows(rows, mu * old + (1 - dampening) * gradient, old)
            state["momentum_buffer"] = momentum
            gradient = gradient + mu * momentum if group["nesterov"] else momentum
        value = value - group["lr"] * gradient
        if value.dim() > 1:
            value = renormed(value, group["max_out_norm"], group["max_in_norm"], dims)
        entry.write(in_rows(rows, value, before))


def _with_options(
    module: nn.Module, options: dict[str, Any], off: frozenset[str] = frozenset()
) -> Iterator[tuple[LuaParameter, tuple[int, int], dict[str, Any]]]:
    """Yield every parameter, the dimensions along which its norms are bounded (outer and inner), and its options.

    A module inherits the options that it does not set from its parent.

    Args:
        module: the module.
        options: options of the parent.
        off: options that a module disabled. As in Torch7, they remain disabled in all its submodules.
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
    dims = 0, -1
    if isinstance(module, nn.Embedding):
        dims = 1, 0
        out = own["max_in_norm"] if own["max_out_norm"] is None else own["max_out_norm"]
        own = {**own, "max_out_norm": out, "max_in_norm": options["max_in_norm"]}
    changed = {entry.name for entry in changed_parameters(module)}
    for entry in own_parameters(module):
        yield entry, dims, own if entry.name in changed else {**own, **_STEP_ONLY}
