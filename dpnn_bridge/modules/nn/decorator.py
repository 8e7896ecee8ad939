"""``nn.Decorator``, the base class of wrappers that change the behavior of one module."""

from __future__ import annotations

from typing import Any

from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.memory import decorated_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable


@lua_class("nn.Decorator")
class Decorator(nn.Module):
    """Runs its module; base class of wrappers that change the behavior of one module.

    Args:
        module: the decorated module.

    Shape:
        - Input, output: the decorated module's.

    Lua:
        ``nn.Decorator(module)``, Decorator.lua
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Any) -> Any:
        return self.module(input)

    class Lua(LuaClass):
        """The decorated module is ``modules[1]``, in files from before 2017 also the field ``module``."""

        computed_fields = ("modules",)
        output_memory = decorated_memory

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            return cls.torch_type(cls.decorated(obj, ctx), **cls.arguments(obj, ctx))

        @classmethod
        def decorated(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
            """Convert and return the module that ``obj`` decorates."""
            children = ctx.children(obj)
            return children[0] if children else ctx.to_torch(obj["module"], "module")

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            child, record = ctx.to_lua(module.get_submodule("module")), record_of(module)
            if record is None or "module" in record.fields:
                fields["module"] = child
            return {**fields, "modules": LuaTable.from_list([child])}
