"""Modules of torch-autograd. Each is a Lua function, which never runs. Those of its README are known by name."""

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
    """A function of torch-autograd's README. It becomes, and is written back as, the modules of nn that compute it."""

    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Return the object of nn that computes what ``obj`` does."""
        raise NotImplementedError

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        ctx.report.notes.append(f"{cls.names[0]} is taken for the function of that name in torch-autograd's README")
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
    """``nn.Linear``, of one sample in Torch7."""

    torch_type = nn.Linear


@lua_class("autograd.nn.module.AutoLinearReLU")
class AutoLinearReLU(DocumentedLinear):
    """``nn.Linear``, of one sample in Torch7, and ``nn.ReLU``, whose gradient at 0 is 1/2 in Torch7."""

    torch_type = nn.Sequential

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        modules = LuaTable.from_list([super().upgrade(obj), fresh("nn.ReLU", obj, threshold=0, val=0, inplace=False)])
        return fresh("nn.Sequential", obj, modules=modules)


@lua_class("autograd.nn.criterion.AutoMSE")
class AutoMSE(Documented):
    """``nn.MSECriterion``; of more than two dimensions Torch7 divides by the first size only."""

    torch_type = nn.MSELoss

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        return fresh("nn.MSECriterion", obj, sizeAverage=True, output=0)


def fresh(class_name: str, obj: LuaObject, **fields: Any) -> LuaObject:
    """Return an object of nn in place of ``obj``, of the same type and mode."""
    kind, train = tensor_type(obj) or "torch.DoubleTensor", obj.get("train") is not False
    buffers = {"output": LuaTensor.empty(kind), "gradInput": LuaTensor.empty(kind)}
    return LuaObject(class_name, LuaTable({"_type": kind, "train": train, **buffers, **fields}))
