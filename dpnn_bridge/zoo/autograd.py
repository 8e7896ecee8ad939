"""Modules of torch-autograd that its README defines.

Such a module contains a Lua function, which never runs. The module is recognized by its name and fields.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import tensor_type
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


class Documented(LuaClass):
    """Base of the functions of torch-autograd's README, which are imported and exported as modules of nn."""

    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Return the object of nn that computes the same as ``obj``."""
        raise NotImplementedError

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        ctx.report.notes.append(
            f"{cls.names[0]}: its Lua function never runs; assumed to be the function of this name in torch-autograd's "
            "README"
        )
        return ctx.to_torch(obj)

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        return registry.mapping_of(module).handled(module)


class DocumentedLinear(Documented):
    """``weight * input + bias``."""

    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        weight, bias = obj.get("weight"), obj.get("bias")
        if not isinstance(weight, LuaTensor) or not isinstance(bias, LuaTensor):
            return False
        return len(weight.shape) == 2 and bias.shape == weight.shape[:1]

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        return fresh("nn.Linear", obj, **{k: v for k, v in obj.items() if isinstance(v, LuaTensor)})


@lua_class("autograd.nn.module.AutoLinear")
class AutoLinear(DocumentedLinear):
    """``nn.Linear``; in Torch7, only for one sample."""

    torch_type = nn.Linear


@lua_class("autograd.nn.module.AutoLinearReLU")
class AutoLinearReLU(DocumentedLinear):
    """``nn.Linear`` and ``nn.ReLU``; in Torch7, only for one sample, and the gradient of the ReLU at 0 is 1/2."""

    torch_type = nn.Sequential

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        modules = LuaTable.from_list([super().upgrade(obj), fresh("nn.ReLU", obj, threshold=0, val=0, inplace=False)])
        return fresh("nn.Sequential", obj, modules=modules)


@lua_class("autograd.nn.criterion.AutoMSE")
class AutoMSE(Documented):
    """``nn.MSECriterion``. For more than two dimensions, Torch7 divides by the size of the first dimension only."""

    torch_type = nn.MSELoss

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        return fresh("nn.MSECriterion", obj, sizeAverage=True, output=0)


def fresh(class_name: str, obj: LuaObject, **fields: Any) -> LuaObject:
    """Return a new object of nn with the tensor type and the mode (training or evaluation) of ``obj``."""
    tensor_class, train = tensor_type(obj) or "torch.DoubleTensor", obj.get("train") is not False
    buffers = {"output": LuaTensor.empty(tensor_class), "gradInput": LuaTensor.empty(tensor_class)}
    return LuaObject(class_name, LuaTable({"_type": tensor_class, "train": train, **buffers, **fields}))
