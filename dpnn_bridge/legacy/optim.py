"""Implement PyTorch 0.4's ``torch.legacy.optim``; each call is one step of the optimizer in :mod:`dpnn_bridge.optim`.

All functions take ``(opfunc, x, config, state=None)``. ``opfunc(x)`` returns the value and the gradient at ``x``, a
vector that the step changes in place. ``config`` contains hyperparameters with Torch7's names. ``state`` (by default
``config``) contains the state for the next step.

>>> params, gradients = net.flattenParameters()                          # doctest: +SKIP
>>> optim.sgd(lambda x: (loss(), gradients), params, {"learningRate": 0.1})    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.optim.full_batch import CG
from dpnn_bridge.optim.methods import METHODS, from_lua, to_lua

__all__ = ["adadelta", "adagrad", "adam", "adamax", "asgd", "cg", "lbfgs", "nag", "rmsprop", "rprop", "sgd"]

Evaluate = Callable[[Tensor], tuple[Any, Tensor]]

#: method -> settings of Torch7 that the function of PyTorch 0.4 ignored
_IGNORED = {"adam": ("learningRateDecay",)}


def _step(
    method: str, opfunc: Evaluate, x: Tensor, config: dict[str, Any] | None, state: dict[str, Any] | None
) -> tuple[list[Any], Any]:
    """Make one step of a method. The state in ``state`` or ``config`` has Torch7's names.

    Returns:
        The values of all evaluations in order, and the optimizer.

    Raises:
        ValueError: both ``config`` and ``state`` are None, so that the state cannot be stored.
    """
    state = config if state is None else state
    if state is None:
        raise ValueError(f"{method} requires a dictionary to retain state between iterations")
    config = {k: v for k, v in (config or {}).items() if k not in _IGNORED.get(method, ())}
    if config.get("lineSearch") is not None:
        raise ConversionError("lbfgs does not support a line search; remove lineSearch from its configuration")
    parameter = nn.Parameter(x.detach(), requires_grad=False)
    tables = {k: LuaTable.from_list(v) if isinstance(v, list) else v for k, v in state.items()}
    optimizer = from_lua(method, config, [parameter], tables)
    values: list[Any] = []

    def closure() -> Any:
        value, gradient = opfunc(x)
        values.append(value)
        parameter.grad = gradient.detach().reshape(parameter.shape)
        return value

    optimizer.step(closure)
    for name, value in to_lua(optimizer).items():
        if name not in METHODS[method].settings or isinstance(value, LuaTensor):
            state[name] = _python(value)
    return values, optimizer


def _python(value: Any) -> Any:
    if isinstance(value, LuaTable):
        return [_python(v) for v in value.as_list()]
    return value.torch() if isinstance(value, LuaTensor) else value


def _single_evaluation(name: str) -> Callable[..., tuple[Tensor, Any]]:
    """Return the function of a method that evaluates ``opfunc`` once per step."""

    def method(opfunc: Evaluate, x: Tensor, config: Any, state: Any = None) -> tuple[Tensor, Any]:
        values, _ = _step(name, opfunc, x, config, state)
        return x, values[0]

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Make one step of ``optim.{name}``; return ``(x, value before the step)``."
    return method


adadelta = _single_evaluation("adadelta")
adagrad = _single_evaluation("adagrad")
adam = _single_evaluation("adam")
adamax = _single_evaluation("adamax")
nag = _single_evaluation("nag")
rmsprop = _single_evaluation("rmsprop")
sgd = _single_evaluation("sgd")


def asgd(opfunc: Evaluate, x: Tensor, config: Any, state: Any = None) -> tuple[Tensor, Any, Tensor]:
    """Make one step of ``optim.asgd``; return ``(x, value before the step, averaged x)``."""
    state = config if state is None else state
    values, _ = _step("asgd", opfunc, x, config, state)
    return x, values[0], state["ax"]


def rprop(opfunc: Evaluate, x: Tensor, config: Any, state: Any = None) -> tuple[Tensor, list[Any]]:
    """Make ``niter`` steps of ``optim.rprop``; return ``(x, values before each step)``."""
    values, _ = _step("rprop", opfunc, x, config, state)
    return x, values


def lbfgs(opfunc: Evaluate, x: Tensor, config: Any, state: Any = None) -> tuple[Tensor, list[Any], int]:
    """Make ``maxIter`` steps of ``optim.lbfgs`` without line search; return ``(x, values, number of evaluations)``."""
    values, _ = _step("lbfgs", opfunc, x, config, state)
    return x, values, len(values)


def cg(opfunc: Evaluate, x: Tensor, config: Any, state: Any = None) -> tuple[Tensor, list[Any], int]:
    """Run ``optim.cg``; return ``(x, values before and after each line search, number of evaluations)``."""
    values, optimizer = _step("cg", opfunc, x, config, state)
    assert isinstance(optimizer, CG)
    return x, optimizer.losses, len(values)
