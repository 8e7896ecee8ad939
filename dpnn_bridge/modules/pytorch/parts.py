"""Create the Lua objects of compositions, in the state after their Lua constructors."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from torch import nn

from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import constant_fields, empty_tensors, size_storage
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.registry import composition
from dpnn_bridge.errors import EXPORT_GUIDE, ConversionError
from dpnn_bridge.modules.nn.reshape import product
from dpnn_bridge.modules.pytorch.input_dimensions import dimensions
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: a threshold above all usual values, representable in float32
LARGEST = 3e38


def refuse(module: nn.Module, option: str, advice: str) -> NoReturn:
    """Raise the error for a layer without an equivalent in Torch7.

    Args:
        module: the layer.
        option: the layer or option that Torch7 lacks.
        advice: supported options or layers.

    Raises:
        ConversionError: always.
    """
    message = f"Torch7 has no layer for {option}; {advice}; see {EXPORT_GUIDE}"
    raise ConversionError(message, class_name=type(module).__name__)


def refuse_all(advice: dict[type[nn.Module], str]) -> None:
    """Register types of layers that cannot be exported.

    Args:
        advice: type → similar layers that can be exported.
    """

    @composition(*advice)
    def refused(module: nn.Module, ctx: LuaContext) -> LuaObject:
        return refuse(module, type(module).__name__, advice[type(module)])


class Parts:
    """Creates Lua objects of nn's classes, of which a layer is composed.

    Args:
        module: the layer of PyTorch; the objects get its tensor type and mode.
        ctx: context of the export.
    """

    def __init__(self, module: nn.Module, ctx: LuaContext) -> None:
        self.module, self.ctx, self.tensor_class = module, ctx, ctx.type_of(module)

    def __call__(self, name: str, *modules: LuaObject, **fields: Any) -> LuaObject:
        """Create an object of the class ``nn.<name>``; a field that is None is omitted.

        The fields that Torch7's constructor always sets to the same value need not be given.
        """
        fields = {"train": self.module.training, **{k: v for k, v in fields.items() if v is not None}}
        obj = fresh(f"nn.{name}", self.tensor_class, *modules, **fields)
        mapping = registry.find(obj)
        assert mapping is not None, obj.class_name
        obj.update({k: v for k, v in constant_fields(mapping, self.tensor_class).items() if k not in fields})
        return obj

    # ------------------------------------------------------------------ containers
    def chain(self, *modules: LuaObject) -> LuaObject:
        """Return a Sequential of the modules, or the module itself if there is only one."""
        return modules[0] if len(modules) == 1 else self("Sequential", *modules)

    def join(self, name: str, *branches: LuaObject, **fields: Any) -> LuaObject:
        """Return parallel branches whose outputs are combined by a table layer ``name``, such as ``CMulTable``."""
        pair = {"gradInput": empty_tensors(2)(self.tensor_class)} if name == "MM" else {}
        return self("Sequential", self("ConcatTable", *branches), self(name, **pair, **fields))

    # ------------------------------------------------------------------ values
    def identity(self) -> LuaObject:
        return self("Identity")

    def times(self, constant: float) -> LuaObject:
        return self("MulConstant", constant_scalar=constant)

    def plus(self, constant: float) -> LuaObject:
        return self("AddConstant", constant_scalar=constant)

    def always(self, value: float) -> LuaObject:
        """Fill the shape of the input with ``value``; the input gets no gradient."""
        return self("Threshold", threshold=LARGEST, val=value)

    def mean(self, dimension: int) -> LuaObject:
        """Compute the mean over a dimension, counted from 1, and remove the dimension."""
        return self("Mean", dimension=dimension, sizeAverage=True, squeeze=True)

    # ------------------------------------------------------------------ shapes
    def view(self, *sizes: int, sample: int | None = None) -> LuaObject:
        """Change the shape of the input, or of each sample if samples have ``sample`` dimensions."""
        return self("View", size=size_storage(sizes), numElements=product(sizes), numInputDims=sample)

    def narrow(self, dimension: int, index: int, length: int) -> LuaObject:
        return self("Narrow", dimension=dimension, index=index, length=length)

    def swap(self, first: int, second: int, *, from_end: bool = False) -> LuaObject:
        """Swap two dimensions, counted from 1; with ``from_end``, -1 is the last dimension."""
        first, second = (first + 1, second + 1) if from_end else (first, second)
        pairs = LuaTable.from_list([LuaTable.from_list([first, second])])
        return self("Transpose", permutations=pairs, numInputDims=0 if from_end else None)

    def rows(self) -> LuaObject:
        """Flatten all dimensions after the first."""
        return self("Collapse", nInputDim=0)

    def shaped_as_input(self, *modules: LuaObject) -> LuaObject:
        """Run ``modules`` and give the output the shape of the input."""
        return self.join("CAddTable", self.always(0), self.chain(*modules))

    def spread(self, *modules: LuaObject) -> LuaObject:
        """Compute a statistic over the last dimension of :math:`(N, G, W)` and expand it to :math:`(N, G, W)`."""
        ones = self.chain(self.narrow(2, 1, 1), self.always(1))
        return self.join("MM", self.chain(*modules, self("Unsqueeze", pos=3)), ones, transA=False, transB=False)

    def bottled(self, module: LuaObject, inputs: int = 2, outputs: int | None = None) -> LuaObject:
        """Apply ``module`` to the last dimensions of a tensor; the other dimensions are merged to one batch dimension.

        Args:
            module: the module.
            inputs: number of dimensions of the module's input, including the batch dimension.
            outputs: number of dimensions of the module's output; default: ``inputs``.
        """
        outputs = outputs or inputs
        shapes = {
            name: LuaTensor.from_numpy(np.zeros(n), "torch.DoubleTensor")
            for name, n in (("inShape", inputs), ("outShape", outputs))
        }
        return self("Bottle", module, nInputDim=inputs, nOutputDim=outputs, dimDelta=inputs - outputs, **shapes)

    def of_batch(self, dims: int, *modules: LuaObject, position: int = 1) -> LuaObject:
        """Apply layers that need a batch; if the example is one sample, it becomes a batch of one.

        Args:
            dims: number of dimensions of a batch.
            modules: the layers.
            position: dimension of the batch in the input and in the output, counted from 1.
        """
        if dimensions(self.module, self.ctx) != dims - 1:
            return self.chain(*modules)
        return self.chain(self("Unsqueeze", pos=position), *modules, self("Squeeze", dim=position))

    def lifted(self, *modules: LuaObject) -> LuaObject:
        """Apply layers for images to :math:`(N, C, L)` or :math:`(C, L)`, as images with one row."""
        unsqueeze, squeeze = self("Unsqueeze", pos=2, numInputDims=2), self("Squeeze", dim=2, numInputDims=3)
        return self("Sequential", unsqueeze, *modules, squeeze)

    # ------------------------------------------------------------------ parameters
    def tensors(self, name: str, shape: tuple[int, ...], offset: int = 0, field: str = "") -> dict[str, LuaTensor]:
        """Return fields with a view of a parameter and of its gradient.

        Args:
            name: name of the parameter.
            shape: shape of the view.
            offset: index of the view's first element in the parameter.
            field: name of the Lua field; default: ``name``.

        Returns:
            The fields; empty if the parameter is None.
        """
        if getattr(self.module, name) is None:
            return {}
        field = field or name
        tensors = {field: self.ctx.tensor(self.module, name, Field(name))}
        if self.ctx.gradients:
            tensors[f"grad{field[0].upper()}{field[1:]}"] = self.ctx.gradient(self.module, name, Field(name))
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        return {k: LuaTensor(t.class_name, shape, strides, offset, t.storage) for k, t in tensors.items()}

    def affine(self, *size: int) -> list[LuaObject]:
        """Return layers with the layer's weight and bias, if it has them, broadcast from the shape ``size``."""
        layers = []
        if getattr(self.module, "weight", None) is not None:
            layers.append(self("CMul", size=size_storage(size), **self.tensors("weight", size)))
        if getattr(self.module, "bias", None) is not None:
            layers.append(self("CAdd", size=size_storage(size), **self.tensors("bias", size)))
        return layers
