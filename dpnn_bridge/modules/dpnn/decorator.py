"""Wrappers of one module: Decorator, DontCast, Serial, NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import cast, has_nan, map_tensors
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import numpy_dtype
from dpnn_bridge.conversion.memory import Trace, run_decorated
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor, element_dtype, tensor_class
from dpnn_bridge.torch7.gradient import notice_gradient


@lua_class("nn.DontCast")
class DontCast(Decorator):
    """Keeps the dtype of its module when the surrounding model is cast; ``.to(device)`` still moves the module.

    Args:
        module: the decorated module.
        castin: cast the input to the decorated module's dtype.
        castout: cast the output to the dtype of the surrounding model; default: ``castin``.
        outer_dtype: dtype of the surrounding model; ``.double()`` and similar casts change it. Default: dtype of the
            module's first floating-point tensor.
        inner_dtype: dtype that ``castin`` casts to. Default: dtype of the module's first floating-point tensor.

    Shape:
        - Input, output: the decorated module's.

    Examples:
        >>> linear = DontCast(nn.Linear(3, 4)).double()
        >>> linear.module.weight.dtype
        torch.float32

    Lua:
        ``nn.DontCast(module, castin, castout, moduleType)``, DontCast.lua

    Differs from Torch7:
        In Torch7 a device is part of the tensor type, so the decorated module also stays on its device.
    """

    fx_leaf = True  # the casts depend on the dtypes of the input
    outer: Tensor

    def __init__(
        self,
        module: nn.Module,
        castin: bool | None = None,
        castout: bool | None = None,
        *,
        outer_dtype: torch.dtype | None = None,
        inner_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(module)
        tensors = [t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()]
        default = tensors[0].dtype if tensors else torch.get_default_dtype()
        self.castin, self.castout = castin, castin if castout is None else castout
        self.inner_dtype = inner_dtype or default
        self.register_buffer("outer", torch.empty(0, dtype=outer_dtype or default), persistent=False)

    def forward(self, input: Any) -> Any:
        output = self.module(cast(input, self.inner_dtype) if self.castin else input)
        return cast(output, self.outer.dtype) if self.castout else output

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DontCast:
        def without_cast(tensor: Tensor) -> Tensor:
            probe = fn(tensor.new_empty(0))
            return fn(tensor) if probe.dtype == tensor.dtype else tensor.to(probe.device)

        if recurse:
            self.module._apply(without_cast)
        return super()._apply(fn, recurse=False)

    class Lua(Decorator.Lua):
        keeps_types = True
        scalars = ("castin", "castout")
        defaults = {"castin": None, "castout": None}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            outer = next((t for name in ("output", "gradInput") for t in _tensors(obj.get(name))), None)
            return {
                **super().arguments(obj, ctx),
                "outer_dtype": torch_dtype(outer.class_name if outer else obj.get("_type")),
                "inner_dtype": torch_dtype(obj.get("moduleType")),
            }

        @classmethod
        def to_lua(cls, module: DontCast, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            outer = ctx.class_of(module.outer, module)
            fields.update(output=LuaTensor.empty(outer), gradInput=LuaTensor.empty(outer))
            if (module.castin or module.castout) and record_of(module) is None:
                fields["moduleType"] = tensor_class(numpy_dtype(torch.empty(0, dtype=module.inner_dtype)))
            return fields

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            castin, castout = (obj.get(name) not in (None, False) for name in ("castin", "castout"))
            if castin:
                trace.read(input)
            output = run_decorated(obj, trace.new() if castin else input, trace)
            return trace.computed(output) if castout else output


@lua_class("nn.Serial")
class Serial(Decorator):
    """Marks a module whose ``.t7`` file Torch7 writes without buffers (medium) or also without gradients (light).

    Args:
        module: the decorated module.
        tensortype: Lua tensor type of the written file, such as ``torch.FloatTensor``; None: the module's type.

    Shape:
        - Input, output: the decorated module's.

    Lua:
        ``nn.Serial(module, tensortype)``, Serial.lua
    """

    def __init__(self, module: nn.Module, tensortype: str | None = None) -> None:
        super().__init__(module)
        self.tensortype = tensortype

    class Lua(Decorator.Lua):
        scalars = ("tensortype",)
        defaults = {"tensortype": None}


@lua_class("nn.NaN")
class NaN(Decorator):
    """Raises an error if the output, the input gradient or a parameter gradient contains NaN.

    Args:
        module: the decorated module.
        id: name of this module in error messages; default: 1, 2, 3, … in order of construction.

    Shape:
        - Input, output: the decorated module's.

    Raises:
        FloatingPointError: a tensor contains NaN; the message names the tensor. As in Torch7, the test is whether the
            sum of the tensor is NaN.

    Lua:
        ``nn.NaN(module, id)``, NaN.lua
    """

    _ids = count(1)

    def __init__(self, module: nn.Module, id: int | str | None = None) -> None:
        super().__init__(module)
        self.id = next(NaN._ids) if id is None else id

    def forward(self, input: Any) -> Any:
        output = self.module(self._watched(input))
        if has_nan(output):
            if has_nan(input):
                raise self.found("input")
            raise self.found("parameters" if has_nan(list(self.parameters())) else "output")
        return self._observed(output)

    def found(self, what: str) -> FloatingPointError:
        """Return the error for NaN in ``what``, such as "output", of the decorated module."""
        module = str(self.module) if not list(self.module.children()) else type(self.module).__name__
        return FloatingPointError(f"NaN found in {what} of module: NaN({self.id}) @ {module}")

    def _watched(self, value: Any) -> Any:
        """Return ``value`` with a gradient check, also if it requires no gradient: Torch7 always computes gradInput."""
        if not torch.is_grad_enabled():
            return value
        return map_tensors(lambda t: notice_gradient(_with_grad(t), self._check) if t.is_floating_point() else t, value)

    def _check(self, gradient: Tensor) -> None:
        """Raise an error if the input gradient or a parameter gradient contains NaN."""
        if has_nan(gradient):
            raise self.found("gradOutput" if self._grad_output_has_nan else "gradInput")
        if has_nan([p.grad for p in self.module.parameters()]):
            raise self.found("gradParameters")

    def _observed(self, value: Any) -> Any:
        """Return ``value`` with a hook that sets ``_grad_output_has_nan`` if the gradient contains NaN."""
        self._grad_output_has_nan = False
        return map_tensors(lambda t: notice_gradient(t, self._note) if t.requires_grad else t, value)

    def _note(self, gradient: Tensor) -> None:
        self._grad_output_has_nan |= has_nan(gradient)

    class Lua(Decorator.Lua):
        scalars = ("id",)


def _with_grad(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


# ---------------------------------------------------------------------- shared
def torch_dtype(tensor_class_name: str | None) -> torch.dtype | None:
    """Return the torch dtype of a Lua tensor class, None for None."""
    dtype = element_dtype(tensor_class_name) if tensor_class_name else None
    return None if dtype is None else getattr(torch, dtype.name)


def result_dtype(obj: LuaObject) -> torch.dtype | None:
    """Return the torch dtype of a Lua module's last output, or its tensor type's dtype if it has no output."""
    output = obj.get("output")
    return torch_dtype(output.class_name if isinstance(output, LuaTensor) else obj.get("_type"))


def result_fields(module: Any, ctx: LuaContext) -> dict[str, Any]:
    """Return the Lua fields with the dtype of ``module.like``, which may have changed since the module was read."""
    if module.like.dtype == torch.bfloat16:  # Lua has no such type
        return {}
    name = ctx.class_of(module.like, module)
    return {"_type": name, "output": LuaTensor.empty(name)}


def _tensors(value: Any) -> Iterator[LuaTensor]:
    if isinstance(value, LuaTensor):
        yield value
    elif isinstance(value, LuaTable):
        for v in value.values():
            yield from _tensors(v)
