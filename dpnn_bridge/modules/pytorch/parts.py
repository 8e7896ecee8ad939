"""Parts of compositions: Lua objects as their constructors leave them."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from torch import nn

from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.lua_context import LuaContext
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def refuse(module: nn.Module, what: str, instead: str) -> NoReturn:
    """Raises the error for a layer that Torch7 cannot express.

    Args:
        module: the layer.
        what: the option that has no counterpart.
        instead: the nearest thing that works.
    """
    raise ConversionError(f"Torch7 has nothing for {what}; {instead}", class_name=type(module).__name__)


class Parts:
    """Makes the objects that one layer is composed of."""

    def __init__(self, module: nn.Module, ctx: LuaContext) -> None:
        self.module, self.ctx, self.kind = module, ctx, ctx.type_of(module)

    def __call__(self, name: str, *modules: LuaObject, **fields: Any) -> LuaObject:
        """An object of a class of nn."""
        return fresh(f"nn.{name}", self.kind, *modules, train=self.module.training, **fields)

    def chain(self, *modules: LuaObject) -> LuaObject:
        """One after the other."""
        return modules[0] if len(modules) == 1 else self("Sequential", *modules)

    def join(self, how: str, *branches: LuaObject) -> LuaObject:
        """Branches of one input, whose outputs a table layer such as ``CMulTable`` makes one."""
        both = self("ConcatTable", *branches, output=LuaTable())
        return self(
            "Sequential", both, self(how, gradInput=LuaTable(), **({"inplace": False} if how == "CAddTable" else {}))
        )

    def identity(self) -> LuaObject:
        return self("Identity")

    def times(self, constant: float) -> LuaObject:
        return self("MulConstant", constant_scalar=constant, inplace=False)

    def plus(self, constant: float) -> LuaObject:
        return self("AddConstant", constant_scalar=constant, inplace=False)

    def bottled(self, module: LuaObject) -> LuaObject:
        """``module`` on matrices, over the last dimension of tensors of any number of dimensions."""
        shapes = {n: LuaTensor.from_numpy(np.zeros(2), "torch.DoubleTensor") for n in ("inShape", "outShape")}
        return self("Bottle", module, nInputDim=2, nOutputDim=2, dimDelta=0, **shapes)

    def lifted(self, *modules: LuaObject) -> LuaObject:
        """Layers of images on :math:`(N, C, L)`, which they get as images of one row."""
        return self("Sequential", self("Unsqueeze", pos=3), *modules, self("Squeeze", dim=3))

    def tensors(self, name: str, shape: tuple[int, ...], offset: int = 0, field: str = "") -> dict[str, LuaTensor]:
        """A part of a parameter and of its gradient, as fields; both share the parameter's storage.

        Args:
            name: the parameter.
            shape: of the part.
            offset: of its first element.
            field: the Lua field; default: ``name``.
        """
        if getattr(self.module, name) is None:
            return {}
        field = field or name
        found = {field: self.ctx.tensor(self.module, name, Field(name))}
        if self.ctx.gradients:
            found[f"grad{field[0].upper()}{field[1:]}"] = self.ctx.gradient(self.module, name, Field(name))
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        return {k: LuaTensor(t.class_name, shape, strides, offset, t.storage) for k, t in found.items()}

    def affine(self, size: int) -> list[LuaObject]:
        """The factors and summands of a normalization over the last dimension."""
        made = []
        if getattr(self.module, "weight", None) is not None:
            made.append(self("CMul", size=size_storage([size]), **self.tensors("weight", (size,))))
        if getattr(self.module, "bias", None) is not None:
            made.append(self("CAdd", size=size_storage([size]), **self.tensors("bias", (size,))))
        return made
