"""Implement Torch7's optimizers whose formulas differ from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """Call the closure with gradients enabled and return its result; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class WithFixedOptions(torch.optim.Optimizer):
    """Base class of optimizers whose formula does not support all options of PyTorch's optimizer.

    Attributes:
        fixed_options: name of each option that is not supported -> its only valid value.

    Raises:
        ValueError: a parameter group, or a group of a loaded ``state_dict``, has another value.
    """

    fixed_options: ClassVar[dict[str, Any]] = {"maximize": False}

    def _check_options(self, group: dict[str, Any]) -> None:
        for name, value in self.fixed_options.items():
            if group.get(name, value) != value:
                raise ValueError(f"{type(self).__name__} does not support {name}={group[name]}, only {value}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._check_options(param_group)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        for group in state["param_groups"]:
            self._check_options(group)
        super().__setstate__(state)


class WithDefaults(WithFixedOptions):
    """Base class of optimizers with hyperparameters that PyTorch's optimizer lacks.

    Attributes:
        own_defaults: name of each such hyperparameter -> its value if a loaded ``state_dict`` does not contain it.
    """

    own_defaults: ClassVar[dict[str, Any]] = {}

    def set_default(self, name: str, value: Any) -> None:
        """Add a hyperparameter to the defaults and to all groups that lack it."""
        self.defaults[name] = value
        for group in self.param_groups:
            group.setdefault(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name, value in self.own_defaults.items():
            self.set_default(name, self.defaults.get(name, value))


class _Stepper(WithDefaults):
    """Base class of the optimizers, with a decay of the learning rate."""

    own_defaults: ClassVar[dict[str, Any]] = {"lr_decay": 0.0}

    def _with_gradient(self) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
        """Yield the group, the parameter and the state of each parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield group, p, self.state[p]


def count(state: dict[str, Any]) -> float:
    """Increment the number of steps in a state and return the number before."""
    if "step" not in state:
        state["step"] = double(0)
    before = float(state["step"])
    state["step"] += 1
    return before


def decayed(group: dict[str, Any], steps: float) -> float:
    """Return Torch7's learning rate after a number of steps."""
    return group["lr"] / (1 + steps * group["lr_decay"])


class SGD(torch.optim.SGD, _Stepper):
    r"""Stochastic gradient descent with the formula of ``optim.sgd``.

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: ``learningRate``.
        momentum: ``momentum``.
        dampening: ``dampening``; default: the value of ``momentum``.
        weight_decay: ``weightDecay``.
        nesterov: ``nesterov``; requires a positive ``momentum`` and a ``dampening`` of 0.
        lr_decay: ``learningRateDecay``; the learning rate is :math:`lr / (1 + t \cdot lr\_decay)` after t steps.

    Attributes:
        state: ``momentum_buffer`` (``dfdx``), ``step`` (``evalCounter``), and, if the Lua table has them,
            ``learning_rates`` and ``weight_decays`` (``learningRates``, ``weightDecays``), factors for each element.

    Lua:
        ``optim.sgd(opfunc, x, config, state)``, sgd.lua

    Differs from PyTorch:
        the default dampening; ``lr_decay``; factors for each element.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float | None = None,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        lr_decay: float = 0.0,
    ) -> None:
        dampening = momentum if dampening is None else dampening
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
        self.set_default("lr_decay", lr_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = evaluated(closure)
        for group, p, state in self._with_gradient():
            rate = decayed(group, count(state))
            direction = _with_decay(group, p, state)
            if group["momentum"]:
                direction = _with_momentum(group, direction, state)
            if "learning_rates" in state:
                direction = direction * state["learning_rates"]
            p.add_(direction, alpha=-rate)
        return loss


def _with_decay(group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> Tensor:
    if group["weight_decay"]:
        return p.grad.add(p, alpha=group["weight_decay"])  # type: ignore[union-attr]
    if "weight_decays" in state:
        return p.grad + state["weight_decays"] * p  # type: ignore[operator]
    return p.grad  # type: ignore[return-value]


def _with_momentum(group: dict[str, Any], direction: Tensor, state: dict[str, Any]) -> Tensor:
    momentum = group["momentum"]
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = direction.clone()
    else:
        state["momentum_buffer"].mul_(momentum).add_(direction, alpha=1 - group["dampening"])
    buffer = state["momentum_buffer"]
    return direction.add(buffer, alpha=momentum) if group["nesterov"] else buffer


class Adam(torch.optim.Adam, _Stepper):
    r"""Adam with the formula of ``optim.adam``: :math:`\epsilon` is added before the bias correction of the variance.

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: ``learningRate``.
        betas: ``beta1`` and ``beta2``.
        eps: ``epsilon``.
        weight_decay: ``weightDecay``.
        lr_decay: ``learningRateDecay``.

    Attributes:
        state: ``exp_avg`` (``m``), ``exp_avg_sq`` (``v``), ``step`` (``t``).

    Lua:
        ``optim.adam(opfunc, x, config, state)``, adam.lua

    Differs from PyTorch:
        the step is :math:`lr \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \cdot m / (\sqrt{v} + \epsilon)`.
    """

    fixed_options: ClassVar[dict[str, Any]] = {"amsgrad": False, "maximize": False, "decoupled_weight_decay": False}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lr_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
        self.set_default("lr_decay", lr_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = evaluated(closure)
        for group, p, state in self._with_gradient():
            beta1, beta2 = group["betas"]
            if "exp_avg" not in state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            steps = count(state)
            gradient = _with_decay(group, p, state)
            mean = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
            square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            rate = decayed(group, steps) * math.sqrt(1 - beta2 ** (steps + 1)) / (1 - beta1 ** (steps + 1))
            p.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-rate)
        return loss


class ASGD(torch.optim.ASGD, _Stepper):
    r"""Averaged stochastic gradient descent with the formula of ``optim.asgd``.

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: ``eta0``.
        lambd: ``lambda``.
        alpha: ``alpha``.
        t0: ``t0``.

    Attributes:
        state: ``ax``, the averaged parameters; ``eta`` (``eta_t``), ``mu`` (``mu_t``), ``step`` (``t``).

    Lua:
        ``optim.asgd(opfunc, x, config, state)``, asgd.lua

    Differs from PyTorch:
        ``eta`` and ``mu`` have double precision; the default learning rate is 1e-4.
    """

    own_defaults: ClassVar[dict[str, Any]] = {}
    fixed_options: ClassVar[dict[str, Any]] = {"weight_decay": 0, "maximize": False}

    def __init__(
        self, params: Any, lr: float = 1e-4, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6
    ) -> None:
        super().__init__(params, lr, lambd, alpha, t0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = evaluated(closure)
        for group, p, state in self._with_gradient():
            if "ax" not in state:
                state["ax"] = torch.zeros_like(p)
                state["eta"], state["mu"] = double(group["lr"]), double(1)
            steps, eta, mu = count(state) + 1, float(state["eta"]), float(state["mu"])
            p.mul_(1 - group["lambd"] * eta).add_(p.grad, alpha=-eta)  # type: ignore[arg-type]
            if mu == 1:
                state["ax"].copy_(p)
            else:
                state["ax"].add_(p - state["ax"], alpha=mu)
            state["eta"] = double(group["lr"] / (1 + group["lambd"] * group["lr"] * steps) ** group["alpha"])
            state["mu"] = double(1 / max(1, steps - group["t0"]))
        return loss


def double(value: float) -> Tensor:
    """Return a number as a float64 tensor, the form in which optimizer states contain exact numbers."""
    return torch.tensor(float(value), dtype=torch.float64)


class NAG(_Stepper):
    r"""Nesterov's accelerated gradient with the formula of ``optim.nag``.

    A step adds :math:`\mu v` to the parameters, calls the closure for the gradient :math:`g` at this point, and adds
    :math:`-lr \cdot g`; then :math:`v \leftarrow \mu v - lr \cdot g`.

    Args:
        params: parameters, or dicts that define parameter groups.
        lr: ``learningRate``.
        momentum: ``momentum``, :math:`\mu`.
        weight_decay: ``weightDecay``.
        lr_decay: ``learningRateDecay``.

    Attributes:
        state: ``momentum_buffer`` (``dfdx``), ``step`` (``evalCounter``), and, if the Lua table has it,
            ``learning_rates`` (``learningRates``), factors for each element.

    Lua:
        ``optim.nag(opfunc, x, config, state)``, nag.lua

    Differs from PyTorch:
        :class:`torch.optim.SGD` with ``nesterov=True`` uses the gradient at the current parameters.

    Raises:
        ValueError: the momentum is not positive, or ``step`` is called without a closure.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        lr_decay: float = 0.0,
    ) -> None:
        if momentum <= 0:
            raise ValueError(f"momentum must be positive for NAG, found {momentum}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "lr_decay": lr_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        if closure is None:
            raise ValueError(
                "NAG evaluates the gradient after it has moved the parameters: pass step() a closure that clears the "
                "gradients, computes the loss, calls backward() and returns the loss"
            )
        self._move(1)
        try:
            loss = evaluated(closure)
        except BaseException:
            self._move(-1)
            raise
        for group in self.param_groups:
            for p in group["params"]:
                self._update(group, p, self.state[p])
        return loss

    def _move(self, sign: int) -> None:
        """Add the momentum to the parameters, or subtract it."""
        for group in self.param_groups:
            for p in group["params"]:
                if "momentum_buffer" in self.state[p]:
                    p.add_(self.state[p]["momentum_buffer"], alpha=sign * group["momentum"])

    def _update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        rate = decayed(group, count(state))
        velocity = state.setdefault("momentum_buffer", torch.zeros_like(p)).mul_(group["momentum"])
        if p.grad is None:
            return
        direction = _with_decay(group, p, {})
        if "learning_rates" in state:
            direction = direction * state["learning_rates"]
        p.add_(direction, alpha=-rate)
        velocity.add_(direction, alpha=-rate)
