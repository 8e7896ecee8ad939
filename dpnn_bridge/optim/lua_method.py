"""Define the mapping of an ``optim`` method to an optimizer: names of hyperparameters and state in Lua and PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaFunction, LuaTable, LuaTensor, tensor_class
from dpnn_bridge.optim.exact import double
from dpnn_bridge.optim.full_batch import curvatures, rprop
from dpnn_bridge.training.flat_vector import FlatField, as_vector, count_elements, split_flat


@dataclass(frozen=True)
class Method:
    """The mapping of one function of the ``optim`` package to an optimizer, in both directions.

    Attributes:
        optimizer: class of the optimizer that is created from a Lua table.
        stock: PyTorch's optimizers with the same state; the export accepts them too.
        settings: Lua field -> (argument, Torch7's default). ``"betas.1"`` is the second element of a tuple.
        constant_kwargs: argument that Torch7 lacks -> the only value for which Torch7's formula is the same.
        buffers: Lua field with a flat vector -> name in the optimizer's state.
        factors: Lua field of the configuration with an optional flat vector -> name in the state.
        numbers: Lua field with a number -> name in the state.
        fill: Lua field with a number -> name in the state of a tensor that is initialized with this number.
        scratch: Lua field with a temporary tensor, which Torch7 requires if there are buffers -> Lua class, or None for
            the class of the buffers.
        without_buffers: whether a state can have a number of steps but no buffers.
        unstepped: name in the state -> function of a parameter and its group that returns the value for a parameter
            without a step; default: zeros.
    """

    optimizer: type[Optimizer]
    stock: tuple[type[Optimizer], ...] = ()
    settings: dict[str, tuple[str, Any]] = field(default_factory=dict)
    constant_kwargs: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, str] = field(default_factory=dict)
    factors: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    fill: dict[str, str] = field(default_factory=dict)
    scratch: dict[str, str | None] = field(default_factory=dict)
    without_buffers: bool = False
    unstepped: dict[str, Callable[[Tensor, dict[str, Any]], Tensor]] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Return the Lua fields of configuration and state."""
        return {*self.settings, *self.buffers, *self.factors, *self.numbers, *self.fill, *self.scratch}

    # ------------------------------------------------------------------ Lua -> torch
    def arguments(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of the optimizer.

        Raises:
            ConversionError: a setting is not a number.
        """
        arguments: dict[str, Any] = {}
        for name, (argument, default) in self.settings.items():
            value = None if name in self.buffers and is_vector(config.get(name)) else config.get(name)
            value = number(value, name) if is_given(value) else default
            argument, _, index = argument.partition(".")
            if not index:
                arguments[argument] = value
            else:
                arguments.setdefault(argument, {})[int(index)] = value
        return {k: (v[0], v[1]) if isinstance(v, dict) else v for k, v in arguments.items()}

    def load(
        self,
        optimizer: Optimizer,
        fields: list[FlatField],
        config: Mapping[str, Any],
        state: Mapping[str, Any],
        of_dpnn: list[FlatField],
    ) -> None:
        """Set the optimizer's state.

        Args:
            optimizer: the optimizer.
            fields: position of each parameter in the flat vectors.
            config, state: the Lua tables.
            of_dpnn: the same for vectors of dpnn's ``getParameters()``, which may have additional elements.

        Raises:
            ConversionError: the state does not fit the parameters or the method.
        """
        vectors = {
            **{n: (state, to) for n, to in self.buffers.items()},
            **{n: (config, to) for n, to in self.factors.items()},
        }
        for name, (table, attribute) in vectors.items():
            if not is_vector(table.get(name)):
                continue
            parts = split_flat(fields, table[name], f"the field {name!r}", of_dpnn)
            for f, value in zip(fields, parts, strict=True):
                optimizer.state[f.parameter][attribute] = value.clone()
        found = [name for name in self.buffers if is_vector(state.get(name))]
        if found and len(found) < len(self.buffers):
            missing = sorted(set(self.buffers) - set(found))
            raise ConversionError(
                f"the state has {found} but not {missing}: it is incomplete or belongs to another method"
            )
        if not found:
            for name, attribute in self.fill.items():
                for f in fields if config.get(name) else ():
                    initial = torch.full_like(f.parameter, number(config[name], name), requires_grad=False)
                    optimizer.state[f.parameter].update({attribute: initial, "step": double(0)})
        if found or self.without_buffers:
            for f in fields:
                optimizer.state[f.parameter].update(self._numbers(state))

    def _numbers(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the number of steps and the other numbers in a Lua state as tensors."""
        found = {name: to for name, to in self.numbers.items() if is_given(state.get(name))}
        return {"step": double(0), **{to: double(number(state[name], name)) for name, to in found.items()}}

    def create(self, parameters: list[nn.Parameter], config: Mapping[str, Any]) -> Optimizer:
        """Return the optimizer, without state."""
        return self.optimizer(parameters, **self.arguments(config))

    # ------------------------------------------------------------------ torch -> Lua
    def save(self, optimizer: Optimizer, fields: list[FlatField], hidden: int) -> LuaTable:
        """Return the Lua table of configuration and state; the last ``hidden`` elements are only in dpnn's vectors."""
        table = self.configuration(optimizer)
        states = [optimizer.state.get(f.parameter, {}) for f in fields]
        for name, attribute in {**self.buffers, **self.factors}.items():
            if any(s.get(attribute) is not None for s in states):  # stock SGD without momentum has None
                initial = self.unstepped.get(attribute, lambda p, _: torch.zeros_like(p))
                group = optimizer.param_groups[0]
                values = [
                    initial(f.parameter.detach(), group) if s.get(attribute) is None else s[attribute]
                    for f, s in zip(fields, states, strict=True)
                ]
                parts = [f.to_lua(value) for f, value in zip(fields, values, strict=True)]
                table[name] = lua_vector(torch.cat(parts))
        for name, attribute in self.numbers.items():
            values = [float(s[attribute]) for s in states if attribute in s]
            if values:
                table[name] = integral(max(values) if attribute == "step" else values[0])
        buffers = [table[name] for name in self.buffers if is_vector(table.get(name))]
        for name, class_name in self.scratch.items() if buffers else ():
            table[name] = LuaTensor.empty(class_name or buffers[0].class_name)
        return table

    def configuration(self, optimizer: Optimizer) -> LuaTable:
        """Return the hyperparameters.

        Raises:
            ConversionError: the groups differ, or Torch7 does not support a hyperparameter.
        """
        first, *others = optimizer.param_groups
        for group in others:
            different = sorted(k for k in first if k != "params" and group.get(k) != first[k])
            if different:
                raise ConversionError(
                    f"Torch7 has one set of hyperparameters, but the parameter groups differ in {different}"
                )
        for argument, value in self.constant_kwargs.items():
            if first.get(argument, value) != value:
                raise ConversionError(f"Torch7 does not support {argument}={first[argument]}, only {value}")
        table = LuaTable()
        for name, (argument, default) in self.settings.items():
            argument, _, index = argument.partition(".")
            value = first.get(argument, default)
            value = value[int(index)] if index and isinstance(value, (tuple, list)) else value
            table[name] = value if isinstance(value, bool) else integral(float(value))
        return table


class RpropMethod(Method):
    """``optim.rprop``, as PyTorch's optimizer if it supports the options."""

    def create(self, parameters: list[nn.Parameter], config: Mapping[str, Any]) -> Optimizer:
        niter, arguments = config.get("niter") or 1, self.arguments(config)
        del arguments["niter"]
        return rprop(parameters, niter, **arguments)


class LBFGSMethod(Method):
    """``optim.lbfgs``, whose state consists of vectors of all parameters.

    Attributes:
        vectors, lists, scalars: Lua field -> name in the state, for vectors, lists of vectors, and numbers.
    """

    vectors = {"d": "d", "g_old": "prev_flat_grad"}
    # `old_dirs` contains the steps in Torch7 and the differences of gradients in PyTorch, and `old_stps` the other ones
    lists = {"old_dirs": "old_stps", "old_stps": "old_dirs"}
    scalars = {"t": "t", "Hdiag": "H_diag", "f_old": "prev_loss", "nIter": "n_iter", "funcEval": "func_evals"}

    def names(self) -> set[str]:
        return super().names() | {*self.vectors, *self.lists, *self.scalars}

    def load(
        self,
        optimizer: Optimizer,
        fields: list[FlatField],
        config: Mapping[str, Any],
        state: Mapping[str, Any],
        of_dpnn: list[FlatField],
    ) -> None:
        if isinstance(config.get("lineSearch"), LuaFunction):
            raise ConversionError(
                "lineSearch is a Lua function, which is never run; remove the field to continue without a line search"
            )

        def vector(value: Any, name: str) -> Tensor:
            hidden = count_elements(of_dpnn) - count_elements(fields)
            if hidden > 0 and as_vector(value).numel() == count_elements(of_dpnn):
                raise ConversionError(
                    f"{name} is a vector of dpnn's getParameters(), whose {hidden} additional elements affect "
                    "the step; remove the state from the table to continue with the hyperparameters alone"
                )
            return torch.cat([part.reshape(-1) for part in split_flat(fields, value, name)])

        values: dict[str, Any] = {
            to: number(state[name], name) for name, to in self.scalars.items() if is_given(state.get(name))
        }
        for name, to in self.vectors.items():
            if is_given(state.get(name)):
                values[to] = vector(state[name], name)
        for name, to in self.lists.items():
            if is_given(state.get(name)):
                values[to] = [vector(v, name) for v in LuaTable(state[name]).as_list()]
        values["ro"] = curvatures(values.get("old_dirs", []), values.get("old_stps", []))
        optimizer.state[fields[0].parameter].update(values)

    def save(self, optimizer: Optimizer, fields: list[FlatField], hidden: int) -> LuaTable:
        if hidden and optimizer.state:
            raise ConversionError(
                "a state of LBFGS has no values for the additional elements of dpnn's getParameters(), which affect "
                'the step; use package="nn" for a script that does not load dpnn'
            )
        table = self.configuration(optimizer)
        order = optimizer.param_groups[0]["params"]
        state = optimizer.state.get(order[0], {})

        def vector(value: Tensor) -> LuaTensor:
            parts = dict(zip(map(id, order), value.split([p.numel() for p in order]), strict=True))
            zeros = torch.zeros_like  # for parameters that the optimizer does not train
            lua = [f.to_lua(parts.get(id(p := f.parameter), zeros(p.detach())).view_as(p)) for f in fields]
            return lua_vector(torch.cat(lua))

        for name, to in self.scalars.items():
            if to in state:
                table[name] = integral(float(state[to]))
        for name, to in self.vectors.items():
            if state.get(to) is not None:
                table[name] = vector(state[to])
        for name, to in self.lists.items():
            if state.get(to) is not None:
                table[name] = LuaTable.from_list(vector(v) for v in state[to])
        return table


def is_vector(value: Any) -> bool:
    """Return whether a field is a tensor. ``stepsize`` is a number before the first step, then a tensor."""
    return isinstance(value, (LuaTensor, Tensor))


def is_given(value: Any) -> bool:
    """Return whether Torch7 takes a value, in ``value or default``."""
    return value is not None and value is not False


def number(value: Any, name: str) -> bool | int | float:
    """Return the value of a setting as a Python number.

    Raises:
        ConversionError: the value is neither a number nor a tensor without dimensions.
    """
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Real) or (isinstance(value, Tensor) and value.dim() == 0):
        return float(value)
    raise ConversionError(f"the field {name!r} is of type {type(value).__name__}, expected a number")


def lua_vector(value: Tensor) -> LuaTensor:
    """Return a PyTorch vector as a Lua tensor of the same precision (float32 for bfloat16)."""
    host = value.detach().cpu()
    array = (host.float() if host.dtype == torch.bfloat16 else host).numpy().copy()
    return LuaTensor.from_numpy(array, tensor_class(array.dtype))


def integral(value: float) -> int | float:
    """Return an int if a number is integral, as the ``.t7`` reader does."""
    return int(value) if float(value).is_integer() else value
