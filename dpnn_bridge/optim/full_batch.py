"""Implement Torch7's optimizers that evaluate the loss several times per step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dpnn_bridge.conversion.distributed import local
from dpnn_bridge.optim.exact import WithDefaults, WithFixedOptions, evaluated


class _FullBatch(WithFixedOptions):
    """Base class of LBFGS and CG, which treat all parameters as one vector."""

    @property
    def _all_params(self) -> list[Tensor]:
        if len(self.param_groups) != 1:
            raise ValueError(f"{type(self).__name__} supports one parameter group, found {len(self.param_groups)}")
        return self.param_groups[0]["params"]

    def _move(self, length: float, direction: Tensor) -> None:
        """Add ``length * direction`` to the parameters."""
        sizes = [p.numel() for p in self._all_params]
        for p, part in zip(self._all_params, direction.split(sizes), strict=True):
            p.add_(part.view_as(p), alpha=length)

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[float, Tensor]:
        """Return the loss and the gradient as one vector."""
        loss = evaluated(closure)
        loss = float(loss.detach() if isinstance(loss, Tensor) else loss)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._all_params]
        return loss, torch.cat([g.reshape(-1) for g in grads])


class Rprop(torch.optim.Rprop, WithDefaults):
    """Resilient backpropagation with several iterations in one step, as in ``optim.rprop``.

    Args:
        params, lr, etas, step_sizes: as in :class:`torch.optim.Rprop`.
        niter: number of iterations in one step; each evaluates the loss.

    Lua:
        ``optim.rprop(opfunc, x, config, state)``, rprop.lua, with ``niter``

    Differs from PyTorch:
        ``niter``; parameters may be distributed (DTensor).

    Raises:
        ValueError: ``step`` is called without a closure and ``niter`` is greater than 1.
    """

    own_defaults: ClassVar[dict[str, Any]] = {"niter": 1}
    fixed_options: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        niter: int = 1,
    ) -> None:
        super().__init__(params, lr, etas, step_sizes)
        self.set_default("niter", niter)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Run ``niter`` iterations.

        Returns:
            The loss before the first iteration.
        """
        iterations = int(self.param_groups[0]["niter"])
        if closure is None and iterations > 1:
            raise ValueError(
                f"Rprop with niter={iterations} evaluates the loss in each iteration: pass step() a closure that "
                "clears the gradients, computes the loss, calls backward() and returns the loss"
            )
        losses = [super(Rprop, self).step(closure) for _ in range(iterations)]
        return losses[0] if losses else None

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        """Replace DTensors by the shard of this process, because PyTorch's update does not support DTensors."""
        has_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = map(local, tensors)
        return has_complex


def rprop(parameters: list[Any], niter: int, **arguments: Any) -> torch.optim.Rprop:
    """Create PyTorch's optimizer if it supports the options and parameters, else this package's."""
    if niter == 1 and all(local(p) is p for p in parameters):
        return torch.optim.Rprop(parameters, **arguments)
    return Rprop(parameters, **arguments, niter=niter)


class LBFGS(torch.optim.LBFGS, _FullBatch):
    r"""Limited-memory BFGS with steps of a fixed length, as in ``optim.lbfgs``.

    Args:
        params: parameters.
        lr: ``learningRate``.
        max_iter: ``maxIter``, maximum number of iterations in one step.
        max_eval: ``maxEval``, maximum number of evaluations in one step; default: ``1.25 * max_iter``.
        tolerance_grad: ``tolFun``; a step ends if the sum of the gradient's absolute values is not larger.
        tolerance_change: ``tolX``; a step ends if the slope, or the change of the parameters or loss, is not larger.
        history_size: ``nCorrection``.

    Attributes:
        state: as in :class:`torch.optim.LBFGS`.

    Lua:
        ``optim.lbfgs(opfunc, x, config, state)``, lbfgs.lua, without ``lineSearch``

    Differs from PyTorch:
        PyTorch compares ``tolerance_grad`` with the largest element of the gradient instead of the sum.
    """

    fixed_options: ClassVar[dict[str, Any]] = {"line_search_fn": None}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: float = 20,
        max_eval: float | None = None,
        tolerance_grad: float = 1e-5,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
    ) -> None:
        max_eval = 1.25 * max_iter if max_eval is None else max_eval
        super().__init__(params, lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size)  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
        """Run up to ``max_iter`` iterations.

        Returns:
            The loss before the step.
        """
        group, state = self.param_groups[0], self.state[self._all_params[0]]
        loss, gradient = first, _ = self._evaluate(closure)
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        state["func_evals"] += 1
        evaluations = 1
        if gradient.abs().sum() <= group["tolerance_grad"]:
            return first
        iteration = 0
        while iteration < group["max_iter"]:  # any number, also infinity
            iteration += 1
            state["n_iter"] += 1
            self._update_direction(state, gradient, group["history_size"])
            state["prev_flat_grad"], state["prev_loss"] = gradient, loss
            direction = state["d"]
            if gradient.dot(direction) > -group["tolerance_change"]:
                break
            scale = float(min(1.0, 1 / gradient.abs().sum())) if state["n_iter"] == 1 else 1.0
            state["t"] = length = scale * group["lr"]
            self._move(length, direction)
            if iteration == group["max_iter"]:
                break
            loss, gradient = self._evaluate(closure)
            state["func_evals"] += 1
            evaluations += 1
            if (
                evaluations >= group["max_eval"]
                or gradient.abs().sum() <= group["tolerance_grad"]
                or (direction * length).abs().sum() <= group["tolerance_change"]
                or abs(loss - state["prev_loss"]) < group["tolerance_change"]
            ):
                break
        return first

    @staticmethod
    def _update_direction(state: dict[str, Any], gradient: Tensor, history: int) -> None:
        """Update the history of gradient differences and steps, and the direction ``d``."""
        if state["n_iter"] == 1:
            state["d"], state["H_diag"] = -gradient, 1.0
            state["old_dirs"], state["old_stps"], state["ro"] = [], [], []
            return
        difference, moved = gradient - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = float(difference.dot(moved))
        if curvature > 1e-10:
            if len(state["old_dirs"]) == history:
                del state["old_dirs"][0], state["old_stps"][0]
            state["old_dirs"].append(difference)
            state["old_stps"].append(moved)
            state["H_diag"] = curvature / float(difference.dot(difference))
        pairs = list(zip(state["old_dirs"], state["old_stps"], strict=True))
        state["ro"] = ratios = curvatures(state["old_dirs"], state["old_stps"])
        direction, weights = -gradient, [0.0] * len(pairs)
        for i in reversed(range(len(pairs))):
            y, s = pairs[i]
            weights[i] = float(s.dot(direction)) * ratios[i]
            direction = direction - weights[i] * y
        direction = direction * state["H_diag"]
        for i, (y, s) in enumerate(pairs):
            direction = direction + (weights[i] - float(y.dot(direction)) * ratios[i]) * s
        state["d"] = direction


def curvatures(differences: list[Tensor], steps: list[Tensor]) -> list[float]:
    """Return the reciprocals of the products of gradient differences and steps, which PyTorch's state contains."""
    return [1 / float(y.dot(s)) for y, s in zip(differences, steps, strict=True)]


class CG(_FullBatch):
    r"""Conjugate gradients with a line search, as in ``optim.cg``. Each step starts with the direction of the gradient.

    Args:
        params: parameters.
        max_iter: ``maxIter``, maximum number of evaluations in one line search.
        max_eval: ``maxEval``, maximum number of evaluations in one step; default: ``1.25 * max_iter``.
        rho, sig: constants of the Wolfe-Powell conditions.
        int, ext: limits of interpolation and extrapolation.
        ratio: maximum growth of the initial length from one line search to the next.

    Attributes:
        losses: in the last step, the loss before the step and after each line search.

    Lua:
        ``optim.cg(opfunc, x, config, state)``, cg.lua
    """

    def __init__(
        self,
        params: Any,
        max_iter: int = 20,
        max_eval: float | None = None,
        rho: float = 0.01,
        sig: float = 0.5,
        int: float = 0.1,
        ext: float = 3.0,
        ratio: float = 100,
    ) -> None:
        max_eval = 1.25 * max_iter if max_eval is None else max_eval
        defaults = {"max_iter": max_iter, "max_eval": max_eval, "rho": rho, "sig": sig, "int": int, "ext": ext}
        defaults["ratio"] = ratio
        super().__init__(params, defaults)
        self.losses: list[float] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
        """Run line searches until ``max_eval`` evaluations are reached or a line search fails.

        Returns:
            The loss before the step.
        """
        limit = abs(self.param_groups[0]["max_eval"])
        first, gradient = self._evaluate(closure)
        evaluations, loss, self.losses = 1, first, [first]
        direction = -gradient
        slope = -float(direction.dot(direction))
        length = 1 / (1 - slope)
        while evaluations < limit:
            start = [p.clone() for p in self._all_params]
            try:
                search = _LineSearch(self, closure, direction, loss, slope, length, limit - evaluations - 1)
            except BaseException:  # raised by the closure
                self._restore(start)
                raise
            evaluations += search.evaluations
            if not search.success:
                self._restore(start)
                break
            previous, gradient, loss, length = gradient, search.gradient, search.loss, search.length
            self.losses.append(loss)
            polak = float((gradient.dot(gradient) - gradient.dot(previous)) / previous.dot(previous))
            direction = polak * direction - gradient
            next_slope = float(gradient.dot(direction))
            if next_slope > 0:
                direction = -gradient
                next_slope = -float(direction.dot(direction))
            length *= min(self.param_groups[0]["ratio"], slope / (next_slope - 1e-320))
            slope = next_slope
        return first

    def _restore(self, values: list[Tensor]) -> None:
        for p, value in zip(self._all_params, values, strict=True):
            p.copy_(value)


class _LineSearch:
    """Moves the parameters along a direction until the Wolfe-Powell conditions hold.

    Args:
        optimizer: the optimizer, which owns the parameters and the constants.
        closure: computes the loss and the gradients.
        direction: the direction.
        loss, slope: loss at the start, and its derivative in the direction.
        length: length of the first step.
        left: maximum number of further evaluations.

    Attributes:
        success: whether the conditions hold.
        evaluations: number of evaluations.
        length: distance of the parameters from the start, in units of the direction.
        loss, gradient: loss and gradient at the end.
    """

    def __init__(
        self,
        optimizer: CG,
        closure: Callable[[], Any],
        direction: Tensor,
        loss: float,
        slope: float,
        length: float,
        left: float,
    ) -> None:
        self._optimizer, self._closure, self._direction = optimizer, closure, direction
        self.success, self.evaluations, self.length = False, 0, 0.0
        group = optimizer.param_groups[0]
        rho, sig, inner, ext = group["rho"], group["sig"], group["int"], group["ext"]
        tries = min(group["max_iter"], left)
        self._advance(length)
        other_loss, other_slope, step = loss, slope, -length  # the other point of the cubic; `step` leads there
        bound = -1.0
        while True:
            while self._too_far(loss, slope, rho, sig) and tries > 0:
                bound = self.length
                if self.loss > loss:
                    move = step - ratio(0.5 * other_slope * step * step, other_slope * step + self.loss - other_loss)
                else:
                    a, b = self._cubic(other_loss, other_slope, step)
                    move = ratio(root(b * b - a * self.slope * step * step) - b, a)
                if not math.isfinite(move):
                    move = step / 2
                move = max(min(move, inner * step), (1 - inner) * step)
                self._advance(move)
                tries -= 1
                step -= move
            if self._too_far(loss, slope, rho, sig):
                return
            if self.slope > sig * slope:
                self.success = True
                return
            if tries == 0:
                return
            a, b = self._cubic(other_loss, other_slope, step)
            move = ratio(-self.slope * step * step, b + root(b * b - a * self.slope * step * step))
            bounded = bound > -0.5
            if not math.isfinite(move) or move < 0:
                move = (bound - self.length) / 2 if bounded else self.length * (ext - 1)
            elif bounded and move + self.length > bound:
                move = (bound - self.length) / 2
            elif not bounded and move + self.length > self.length * ext:
                move = self.length * (ext - 1)
            elif move < -step * inner:
                move = -step * inner
            elif bounded and move < (bound - self.length) * (1 - inner):
                move = (bound - self.length) * (1 - inner)
            other_loss, other_slope, step = self.loss, self.slope, -move
            self._advance(move)
            tries -= 1

    def _advance(self, length: float) -> None:
        self._optimizer._move(length, self._direction)
        self.loss, self.gradient = self._optimizer._evaluate(self._closure)
        self.slope = float(self.gradient.dot(self._direction))
        self.length += length
        self.evaluations += 1

    def _too_far(self, loss: float, slope: float, rho: float, sig: float) -> bool:
        return self.loss > loss + self.length * rho * slope or self.slope > -sig * slope

    def _cubic(self, other_loss: float, other_slope: float, step: float) -> tuple[float, float]:
        """Return the coefficients of the cubic through the current and the other point."""
        a = ratio(6 * (self.loss - other_loss), step) + 3 * (self.slope + other_slope)
        b = 3 * (other_loss - self.loss) - step * (other_slope + 2 * self.slope)
        return a, b


def root(x: float) -> float:
    """Return the square root; NaN for a negative number, as in Lua."""
    return math.sqrt(x) if x >= 0 else math.nan


def ratio(a: float, b: float) -> float:
    """Return the quotient; inf or NaN for a divisor of 0, as in Lua."""
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b
