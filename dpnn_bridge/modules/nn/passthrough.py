"""Layers that return their input, or their module's output, with at most another gradient, dtype or memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare.nested import map_tensors
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import is_true
from dpnn_bridge.conversion.memory import Trace, same_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import add_gradient, block_gradient, scale_gradient


@lua_class("nn.Identity", "nn.IdentityTable")
class Identity(LuaClass):
    torch_type = nn.Identity
    output_memory = same_memory

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        return True


@lua_class("nn.Contiguous")
class Contiguous(nn.Module):
    """Returns a contiguous copy of its input, or the input itself if it is contiguous.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Contiguous()``, Contiguous.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.contiguous()

    class Lua(LuaClass):
        output_memory = same_memory  # of a contiguous input


@lua_class("nn.Copy")
class Copy(nn.Module):
    """Casts its input to a fixed dtype, and the gradient back.

    Args:
        dtype: dtype of the output.
        dont_cast: do not change ``dtype`` when the module is cast (``model.half()``).

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.Copy(intype, outtype, forceCopy, dontCast)``, Copy.lua

    Differs from Torch7:
        Torch7 also uses this layer to copy between devices; here, use ``model.to()``.
    """

    like: Tensor
    _shares = True  # whether Torch7's object returns its input; False with forceCopy

    def __init__(self, dtype: torch.dtype, dont_cast: bool = False) -> None:
        super().__init__()
        self.dont_cast = dont_cast
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the output."""
        return self.like.dtype

    def forward(self, input: Tensor) -> Tensor:
        return input.to(self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Copy:
        dtype = self.dtype
        super()._apply(fn, recurse)
        if self.dont_cast:
            self.like = self.like.to(dtype)
        return self

    class Lua(LuaClass):
        is_identity = True
        computed_fields = ("updateOutput", "updateGradInput")  # functions that share memory if the types are equal

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> Copy:
            output = obj.get("output")
            assert isinstance(output, LuaTensor), "the field 'output', whose type is the output type, is missing"
            module = Copy(torch.from_numpy(output.numpy()[:0]).dtype, is_true(obj.get("dontCast")))
            module._shares = obj.get("updateOutput") is not None
            return module

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            return trace.computed(input) if obj.get("updateOutput") is None else input

        @classmethod
        def to_lua(cls, module: Copy, ctx: LuaContext) -> dict[str, Any]:
            fields: dict[str, Any] = {"output": LuaTensor.empty(ctx.class_of(module.like, module))}
            if module.dont_cast:
                fields["dontCast"] = True
                record = record_of(module)
                original = record.scratch.get("gradInput") if record else None
                if isinstance(original, LuaTensor):  # a cast does not change the type of gradInput either
                    fields["gradInput"] = LuaTensor.empty(original.class_name)
            return fields


@lua_class("nn.GPU")
class GPU(Decorator):
    """Returns the output of its module. Torch7 runs the module on a fixed device; here, move the model with ``.to()``.

    Args:
        module: the decorated module.

    Shape:
        - Input, output: the decorated module's.

    Lua:
        ``nn.GPU(module, device, outdevice)``, GPU.lua
    """

    class Lua(Decorator.Lua):
        is_identity = True
        constants = {"device": 1, "outdevice": 1}

        @classmethod
        def header(cls, obj: LuaObject) -> tuple[Any, ...]:
            return obj.header or (LuaTable.from_list([obj["_type"], obj["device"]]),)


@lua_class("nn.Profile")
class Profile(Decorator):
    """Returns the output of its module. Torch7 also prints the run time; use :mod:`torch.profiler` instead.

    Args:
        module: the decorated module.

    Shape:
        - Input, output: the decorated module's.

    Lua:
        ``nn.Profile(module, print_interval, name)``, Profile.lua
    """

    class Lua(Decorator.Lua):
        is_identity = True
        constants = {
            "name": "",
            "print_interval": 100,
            **dict.fromkeys(("numFwds", "numBwds", "summedFwdTime", "summedBwdTime"), 0),
            "timer": lambda tensor_class: LuaObject("torch.Timer", None),
        }


@lua_class("nn.GradientReversal")
class GradientReversal(nn.Module):
    r"""Returns its input and multiplies the gradient by ``-lambd``.

    Args:
        lambd: the gradient is multiplied by ``-lambd``.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.GradientReversal(lambda)``, GradientReversal.lua
    """

    def __init__(self, lambd: float = 1) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        return scale_gradient(input, -self.lambd)

    class Lua(LuaClass):
        output_memory = same_memory
        version = 2
        scalars = {"lambda": "lambd"}

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            return obj if obj.version >= 2 else obj.changed({"lambda": 1})


@lua_class("nn.ZeroGrad")
class ZeroGrad(nn.Module):
    """Returns its input and gives it a gradient of zeros.

    Shape:
        - Input, output: tensor or nested list of tensors.

    Lua:
        ``nn.ZeroGrad()``, ZeroGrad.lua

    Differs from PyTorch:
        Parameters of layers before :meth:`torch.Tensor.detach` have no gradient; of layers
        before this one, the gradient is zero.
    """

    def forward(self, input: Any) -> Any:
        return map_tensors(block_gradient, input)

    class Lua(LuaClass):
        output_memory = same_memory


@lua_class("nn.L1Penalty")
class L1Penalty(nn.Module):
    """Returns its input and adds the gradient of an L1 penalty in the backward pass.

    Args:
        weight: factor of the L1 norm.
        size_average: divide the norm by the number of elements.
        provide_output: the input gradient includes the gradient of the output; False: it is that of the penalty only.

    Shape:
        - Input, output: :math:`(*)`.

    Attributes:
        loss: the penalty of the last call, detached; None before the first call.

    Lua:
        ``nn.L1Penalty(l1weight, sizeAverage, provideOutput)``, L1Penalty.lua
    """

    loss: Tensor | None

    def __init__(self, weight: float, size_average: bool = False, provide_output: bool = True) -> None:
        super().__init__()
        self.weight, self.size_average, self.provide_output = weight, size_average, provide_output
        self.loss = None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight / input.numel() if self.size_average else self.weight
        self.loss = weight * input.detach().abs().sum()
        output = add_gradient(input, weight * input.detach().sign())
        return output if self.provide_output else block_gradient(output)

    class Lua(LuaClass):
        output_memory = same_memory
        scalars = {"l1weight": "weight", "sizeAverage": "size_average", "provideOutput": "provide_output"}
        defaults = {"sizeAverage": False, "provideOutput": False}
        scratch = ("loss",)

        @classmethod
        def scalar(cls, obj: LuaObject, name: str) -> Any:
            value = super().scalar(obj, name)
            return value if name == "l1weight" else value is True  # Torch7 compares the flags with true
