"""Parts of compositions: Lua objects in the state after their constructors."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from torch import nn

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.errors import EXPORT_GUIDE, ConversionError
from dpnn_bridge.modules.nn.reshape import product
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: larger than the values of a tensor, but representable in single precision
LARGEST = 3e38


def refuse(module: nn.Module, what: str, instead: str) -> NoReturn:
    """Raise the error for a layer that Torch7 cannot express.

    Args:
        module: the layer.
        what: the option that has no counterpart.
        instead: the supported options.
    """
    message = f"Torch7 has no layer for {what}; {instead}; see {EXPORT_GUIDE}"
    raise ConversionError(message, class_name=type(module).__name__)


class Parts:
    """Creates the objects that one layer is composed of."""

    def __init__(self, module: nn.Module, ctx: LuaContext) -> None:
        self.module, self.ctx, self.kind = module, ctx, ctx.type_of(module)

    def __call__(self, name: str, *modules: LuaObject, **fields: Any) -> LuaObject:
        """Return an object of a class of nn; a field that is None is left out."""
        given = {key: value for key, value in fields.items() if value is not None}
        return fresh(f"nn.{name}", self.kind, *modules, train=self.module.training, **given)

    # ------------------------------------------------------------------ one after the other, side by side
    def chain(self, *modules: LuaObject) -> LuaObject:
        """Return the modules as one that runs them one after the other."""
        return modules[0] if len(modules) == 1 else self("Sequential", *modules)

    def join(self, how: str, *branches: LuaObject, **fields: Any) -> LuaObject:
        """Return branches of one input, whose outputs a table layer such as ``CMulTable`` combines."""
        both = self("ConcatTable", *branches, output=LuaTable())
        inner = {"CAddTable": {"inplace": False}, "JoinTable": {"size": size_storage()}}.get(how, {})
        gradient = LuaTable.from_list(LuaTensor.empty(self.kind) for _ in range(2)) if how == "MM" else LuaTable()
        return self("Sequential", both, self(how, gradInput=gradient, **inner, **fields))

    # ------------------------------------------------------------------ values
    def identity(self) -> LuaObject:
        return self("Identity")

    def times(self, constant: float) -> LuaObject:
        return self("MulConstant", constant_scalar=constant, inplace=False)

    def plus(self, constant: float) -> LuaObject:
        return self("AddConstant", constant_scalar=constant, inplace=False)

    def always(self, value: float) -> LuaObject:
        """Return ``value`` in the shape of the input, through which no gradient flows."""
        return self("Threshold", threshold=LARGEST, val=value, inplace=False)

    def mean(self, dimension: int) -> LuaObject:
        """Compute the mean over a dimension, counted from 1, which goes away."""
        return self("Mean", dimension=dimension, sizeAverage=True, squeeze=True)

    # ------------------------------------------------------------------ shapes
    def view(self, *sizes: int, sample: int | None = None) -> LuaObject:
        """Change the shape: of the whole input, or of each sample of ``sample`` dimensions."""
        return self("View", size=size_storage(sizes), numElements=product(sizes), numInputDims=sample)

    def narrow(self, dimension: int, index: int, length: int) -> LuaObject:
        return self("Narrow", dimension=dimension, index=index, length=length)

    def swap(self, first: int, second: int, *, from_end: bool = False) -> LuaObject:
        """Swap two dimensions, counted from 1; ``from_end``: -1 is the last."""
        first, second = (first + 1, second + 1) if from_end else (first, second)
        pairs = LuaTable.from_list([LuaTable.from_list([first, second])])
        return self("Transpose", permutations=pairs, numInputDims=0 if from_end else None)

    def rows(self) -> LuaObject:
        """Join all dimensions after the first."""
        return self("Collapse", nInputDim=0)

    def shaped_as_input(self, *modules: LuaObject) -> LuaObject:
        """Return ``modules`` with the shape of their input restored."""
        return self.join("CAddTable", self.always(0), self.chain(*modules))

    def spread(self, *modules: LuaObject) -> LuaObject:
        """Repeat a statistic over the last dimension of :math:`(N, G, W)` over that dimension."""
        ones = self.chain(self.narrow(2, 1, 1), self.always(1))
        return self.join("MM", self.chain(*modules, self("Unsqueeze", pos=3)), ones, transA=False, transB=False)

    def bottled(self, module: LuaObject, inputs: int = 2, outputs: int | None = None) -> LuaObject:
        """Apply ``module`` to the last dimensions of tensors with any number of dimensions before them.

        Args:
            module: takes ``inputs`` dimensions, the first of which is the batch, and gives ``outputs``.
            inputs: number of dimensions.
            outputs: default: ``inputs``.
        """
        outputs = outputs or inputs
        shapes = {
            name: LuaTensor.from_numpy(np.zeros(n), "torch.DoubleTensor")
            for name, n in (("inShape", inputs), ("outShape", outputs))
        }
        return self("Bottle", module, nInputDim=inputs, nOutputDim=outputs, dimDelta=inputs - outputs, **shapes)

    def lifted(self, *modules: LuaObject) -> LuaObject:
        """Apply layers of images to :math:`(N, C, L)` or :math:`(C, L)`, as images with one row."""
        unsqueeze, squeeze = self("Unsqueeze", pos=2, numInputDims=2), self("Squeeze", dim=2, numInputDims=3)
        return self("Sequential", unsqueeze, *modules, squeeze)

    # ------------------------------------------------------------------ parameters
    def tensors(self, name: str, shape: tuple[int, ...], offset: int = 0, field: str = "") -> dict[str, LuaTensor]:
        """Return a part of a parameter and of its gradient, as fields; both share the parameter's storage.

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

    def affine(self, *size: int) -> list[LuaObject]:
        """Return the factors and summands of a normalization; ``size`` is the shape that is broadcast."""
        made = []
        if getattr(self.module, "weight", None) is not None:
            made.append(self("CMul", size=size_storage(size), **self.tensors("weight", size)))
        if getattr(self.module, "bias", None) is not None:
            made.append(self("CAdd", size=size_storage(size), **self.tensors("bias", size)))
        return made
