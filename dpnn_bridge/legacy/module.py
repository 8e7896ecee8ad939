"""Implement the methods of all modules and criterions of PyTorch 0.4's ``torch.legacy.nn``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.legacy import running
from dpnn_bridge.legacy.casting import cast
from dpnn_bridge.legacy.encoding import Encoder
from dpnn_bridge.legacy.flat import flattened
from dpnn_bridge.legacy.legacy_object import LegacyObject
from dpnn_bridge.legacy.user_modules import is_user_module, overrides
from dpnn_bridge.objects import LuaObject

#: gradient field -> parameter field
_PARAMETER_OF = {"gradWeight": "weight", "gradBias": "bias"}


class _Shared(LegacyObject):
    """The common methods of modules and criterions."""

    def __init__(self, output: Any, fields: dict[str, Any]) -> None:
        self.gradInput: Any = torch.Tensor()
        self.output = output
        self._type = self.gradInput.type()
        for name, value in fields.items():
            setattr(self, name, value)

    def to_torch(self, **options: Any) -> torch.nn.Module:
        """Convert the object to a ``torch.nn`` module, which does not share parameters with the object.

        Args:
            **options: fields of :class:`~dpnn_bridge.conversion.options.Options`; ``index_base`` is 0 by default.

        Raises:
            ConversionError: a class is not supported, or a field is missing.
        """
        return running.converted(self, **options)

    def to_lua(self, memo: dict[str, Any] | None = None) -> LuaObject:
        """Convert the object to a Lua object for Torch7. Tensors share memory with the object.

        Args:
            memo: cache of other calls, so that shared objects and memory stay shared.

        Raises:
            ConversionError: the object contains a module of the user, which computes in Python.
        """
        encoder = ({} if memo is None else memo).setdefault("legacy", Encoder())
        obj = encoder.value(self)
        for module in encoder.user_modules.values():
            raise ConversionError(
                "the class is defined in Python and Torch7 does not have it; "
                "save a model without it, or save the module of to_torch() as .pt",
                class_name=type(module).__name__,
            )
        return obj

    def type(self, type: Any = None, tensorCache: Any = None) -> Any:
        """Cast all tensors in place; without an argument, return the name of the type."""
        if type is None:
            return self.__dict__.get("_type", torch.Tensor().type())
        return cast(self, type, {} if tensorCache is None else tensorCache)

    def float(self, *args: Any) -> Any:
        return self.type("torch.FloatTensor", *args)

    def double(self, *args: Any) -> Any:
        return self.type("torch.DoubleTensor", *args)

    def cuda(self, *args: Any) -> Any:
        return self.type("torch.cuda.FloatTensor", *args)

    def clone(self, *names: str) -> Any:
        """Return a deep copy; tensors in fields with these names share memory with the original."""
        copied = copy.deepcopy(self)
        if names:
            copied.share(self, *names)
        return copied


class Module(_Shared):
    """The base of all modules."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(torch.Tensor(), fields)

    def __repr__(self) -> str:
        is_user_class = is_user_module(self) or not self._legacy_class
        return f"nn.{type(self).__name__}" if is_user_class else self._lua_class

    # ------------------------------------------------------------------ computing
    def forward(self, input: Any) -> Any:
        return self.updateOutput(input)

    def updateOutput(self, input: Any) -> Any:
        return running.forward(self, (input,)) if self._legacy_class != "Module" else self.output

    def backward(self, input: Any, gradOutput: Any, scale: float = 1) -> Any:
        if is_user_module(self):
            self.updateGradInput(input, gradOutput)
            self.accGradParameters(input, gradOutput, scale)
            return self.gradInput
        return running.backward(self, (input,), gradOutput, scale=scale)

    def updateGradInput(self, input: Any, gradOutput: Any) -> Any:
        return running.backward(self, (input,), gradOutput) if self._legacy_class != "Module" else self.gradInput

    def accGradParameters(self, input: Any, gradOutput: Any, scale: float = 1) -> None:
        if self._legacy_class != "Module":
            running.backward(self, (input,), gradOutput, scale=scale, input_too=False)

    def backwardUpdate(self, input: Any, gradOutput: Any, lr: float) -> Any:
        self.updateGradInput(input, gradOutput)
        self.accUpdateGradParameters(input, gradOutput, lr)
        return self.gradInput

    def accUpdateGradParameters(self, input: Any, gradOutput: Any, lr: float) -> None:
        if not overrides(self, "accGradParameters"):
            if self._legacy_class != "Module":
                running.backward(self, (input,), gradOutput, scale=-lr, input_too=False, into_parameters=True)
            return
        gradients = {name: self.__dict__[name] for name in ("gradWeight", "gradBias") if name in self.__dict__}
        try:  # the gradients are added to the parameters
            self.__dict__.update({name: self.__dict__[_PARAMETER_OF[name]] for name in gradients})
            self.accGradParameters(input, gradOutput, -lr)
        finally:
            self.__dict__.update(gradients)

    def sharedAccUpdateGradParameters(self, input: Any, gradOutput: Any, lr: float) -> None:
        if self.parameters():
            self.zeroGradParameters()
            self.accGradParameters(input, gradOutput, 1)
            self.updateParameters(lr)

    # ------------------------------------------------------------------ parameters
    def parameters(self) -> tuple[list[Tensor], list[Tensor]] | None:
        """Return ``(weights, gradients)``, or None without parameters."""
        names = [name for name in ("weight", "bias") if self._fields.get(name) is not None]
        return self._listed(names)

    def _listed(self, names: list[str]) -> tuple[list[Tensor], list[Tensor]] | None:
        if not names:
            return None
        return [self._fields[n] for n in names], [running.gradient_of(self, n) for n in names]

    def zeroGradParameters(self) -> None:
        for grad in (self.parameters() or ((), ()))[1]:
            grad.zero_()

    def updateParameters(self, learningRate: float) -> None:
        for value, grad in zip(*(self.parameters() or ((), ())), strict=True):
            value.add_(grad.reshape(value.shape), alpha=-learningRate)

    def flattenParameters(self) -> tuple[Tensor, Tensor] | None:
        """Move all parameters into one vector and all gradients into another; return both vectors."""
        found = self.parameters()
        return None if found is None else (flattened(found[0]), flattened(found[1]))

    def share(self, mlp: Any, *names: str) -> Any:
        """Make tensors in fields with these names share memory with those of another module."""
        for name in names:
            own, other = self._fields.get(name), mlp._fields.get(name)
            if isinstance(own, Tensor) and isinstance(other, Tensor):
                own.set_(other)  # type: ignore[call-overload]
        for own, other in zip((self._fields.get("modules") or ()), (mlp._fields.get("modules") or ()), strict=True):
            own.share(other, *names)
        return self

    def _new_parameters(self, **shapes: Any) -> None:
        """Create parameters of these shapes and gradients, filled with zeros; None as a shape creates None."""
        for name, shape in shapes.items():
            self.__dict__[name] = None if shape is None else torch.zeros(shape)
            self.__dict__[f"grad{name[:1].upper()}{name[1:]}"] = None if shape is None else torch.zeros(shape)

    def _fan_in(self) -> float:
        """Return the fan-in; new parameters are uniform with bound ``1 / sqrt(fan_in)``. 0 if there are none."""
        return 0

    def reset(self, stdv: Any = None) -> Any:
        """Reinitialize the parameters with random numbers."""
        fan_in = self._fan_in()
        if fan_in:
            bound = stdv * math.sqrt(3) if stdv is not None else 1 / math.sqrt(fan_in)
            for name in ("weight", "bias"):
                if self.__dict__.get(name) is not None:
                    self.__dict__[name].uniform_(-bound, bound)
        return self

    # ------------------------------------------------------------------ modes, states, structure
    def training(self) -> None:
        self.train = True

    def evaluate(self) -> None:
        self.train = False

    def clearState(self) -> Any:
        """Empty ``output``, ``gradInput`` and other buffers."""
        return running.cleared(self)

    def apply(self, callback: Callable[[Any], Any]) -> None:
        callback(self)
        for module in self._fields.get("modules") or ():
            module.apply(callback)

    def findModules(self, cls: Any, container: Any = None) -> tuple[list[Any], list[Any]]:
        """Return the modules of a class, and the container of each module."""
        nodes, containers = ([self], [container]) if isinstance(self, cls) else ([], [])
        for child in self._fields.get("modules") or ():
            found, owners = child.findModules(cls, self)
            nodes, containers = nodes + found, containers + owners
        return nodes, containers

    def listModules(self) -> list[Any]:
        return [self, *(m for child in (self._fields.get("modules") or ()) for m in child.listModules())]

    def replace(self, callback: Callable[[Any], Any]) -> Any:
        """Replace every module by the result of ``callback`` for it."""
        out = callback(self)
        modules = self._fields.get("modules") or []
        replaced: dict[int, Any] = {}
        for i, module in enumerate(modules):
            modules[i] = replaced[id(module)] = module.replace(callback)
        for node in self._fields.get("forwardnodes") or []:  # of nngraph's nn.gModule
            data = node["data"]
            if id(data.get("module")) in replaced:
                data["module"] = replaced[id(data["module"])]
        return out


class Container(Module):
    """The base of modules that contain others in ``modules``."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.modules: list[Any] = []

    def add(self, module: Any) -> Any:
        self.modules.append(module)
        return self

    def get(self, index: int) -> Any:
        return self.modules[index]

    def size(self) -> int:
        return len(self.modules)

    def accUpdateGradParameters(self, input: Any, gradOutput: Any, lr: float) -> None:
        running.backward(self, (input,), gradOutput, scale=-lr, input_too=False, into_parameters=True)

    def applyToModules(self, func: Callable[[Any], Any]) -> None:
        for module in self.modules:
            func(module)

    def zeroGradParameters(self) -> None:
        self.applyToModules(lambda m: m.zeroGradParameters())

    def updateParameters(self, learningRate: float) -> None:
        self.applyToModules(lambda m: m.updateParameters(learningRate))

    def training(self) -> None:
        self.applyToModules(lambda m: m.training())
        super().training()

    def evaluate(self) -> None:
        self.applyToModules(lambda m: m.evaluate())
        super().evaluate()

    def reset(self, stdv: Any = None) -> Any:
        self.applyToModules(lambda m: m.reset(stdv))
        return self

    def parameters(self) -> tuple[list[Tensor], list[Tensor]] | None:
        weights: list[Tensor] = []
        gradients: list[Tensor] = []
        for module in self.modules:
            found = module.parameters()
            if found is not None:
                weights += found[0]
                gradients += found[1]
        return (weights, gradients) if weights else None

    def clearState(self) -> Any:
        super().clearState()
        self.applyToModules(lambda m: m.clearState())
        return self

    def __repr__(self) -> str:
        lines = [f"  ({i}): {module!r}".replace("\n", "\n  ") for i, module in enumerate(self.modules)]
        return "\n".join([f"{super().__repr__()} {{", *lines, "}"])


class Criterion(_Shared):
    """The base of all criterions."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(0, fields)

    def __repr__(self) -> str:
        return self._lua_class

    def forward(self, input: Any, target: Any) -> Any:
        return self.updateOutput(input, target)

    def updateOutput(self, input: Any, target: Any) -> Any:
        return running.forward(self, (input, target))

    def backward(self, input: Any, target: Any) -> Any:
        return self.updateGradInput(input, target)

    def updateGradInput(self, input: Any, target: Any) -> Any:
        return running.backward(self, (input, target), None)
