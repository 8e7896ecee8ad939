"""Containers: modules that run other modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, empty_sizes, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import leaf
from dpnn_bridge.loaders.reader import MAX_DIMENSIONS
from dpnn_bridge.modules.nn.arithmetic import joined
from dpnn_bridge.modules.nn.decorator import Decorator
from dpnn_bridge.modules.nn.members import Members, SlicedWithArguments
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor, element_dtype

fx.wrap("joined")


@lua_class("nn.Sequential", "nn.Maxout")
class Sequential(LuaClass):
    torch_type = nn.Sequential
    container = True


@lua_class("nn.ConcatTable")
class ConcatTable(nn.Sequential):
    """Applies every member to the same input and returns the list of results.

    Args:
        *modules: the members.

    Shape:
        - Input: anything that every member takes.
        - Output: list with one result per member.

    Lua:
        ``nn.ConcatTable()``, ConcatTable.lua
    """

    def forward(self, input: Any) -> list[Any]:  # type: ignore[override]
        return [module(input) for module in self]

    class Lua(LuaClass):
        container = True
        constants = {"output": empty_table}


@lua_class("nn.ParallelTable")
class ParallelTable(nn.Sequential):
    """Applies the i-th member to the i-th element of a list.

    Args:
        *modules: the members.

    Shape:
        - Input: list with at least as many elements as there are members.
        - Output: list with one result per member.

    Lua:
        ``nn.ParallelTable()``, ParallelTable.lua
    """

    def forward(self, input: list[Any]) -> list[Any]:  # type: ignore[override]
        return [module(input[i]) for i, module in enumerate(self)]

    class Lua(LuaClass):
        container = True
        constants = {"output": empty_table, "gradInput": empty_table}


@lua_class("nn.Concat")
class Concat(SlicedWithArguments):
    """Applies every member to the same input and joins the results along one dimension.

    Args:
        *modules: the members.
        dimension: where the results are joined, counted from 1.

    Shape:
        - Input: :math:`(*)`, whatever every member takes.
        - Output: the members' outputs, joined as by :class:`~dpnn_bridge.modules.nn.table.JoinTable`.

    Lua:
        ``nn.Concat(dim)``, Concat.lua
    """

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, input: Any) -> Tensor:  # type: ignore[override]
        return joined([module(input) for module in self], self.dimension - 1)

    def extra_repr(self) -> str:
        return f"dimension={self.dimension}"

    class Lua(LuaClass):
        container = True
        scalars = ("dimension",)
        constants = {"outputSize": empty_sizes}
        scratch = ("size", "outputSize")


@lua_class("nn.DepthConcat")
class DepthConcat(Concat):
    """Like :class:`Concat`, with smaller outputs centred in zeros of the largest size of every other dimension.

    Args:
        *modules: the members.
        dimension: where the results are joined, counted from 1.

    Shape:
        - Input: :math:`(*)`, whatever every member takes.
        - Output: the members' outputs, padded before by ``floor((largest - size) / 2)`` and joined.

    Lua:
        ``nn.DepthConcat(dim)``, DepthConcat.lua
    """

    @leaf
    def forward(self, input: Any) -> Tensor:
        outputs = [module(input) for module in self]
        dims = outputs[0].dim()
        outputs = [o if o.dim() == dims else o.reshape(o.shape[:dims]) for o in outputs]
        sizes = [max(sizes) for sizes in zip(*(o.shape for o in outputs), strict=True)]
        return joined([self._padded(o, sizes) for o in outputs], self.dimension - 1)

    def _padded(self, output: Tensor, sizes: list[int]) -> Tensor:
        pad: list[int] = []
        for d in reversed(range(output.dim())):
            missing = 0 if d == self.dimension - 1 else sizes[d] - output.shape[d]
            pad += [missing // 2, missing - missing // 2]
        return F.pad(output, pad) if any(pad) else output

    class Lua(Concat.Lua):
        scratch = ("size", "outputSize", "windows")


@lua_class("nn.Parallel")
class Parallel(SlicedWithArguments):
    """Applies the i-th member to the i-th slice of a tensor and joins the results.

    Args:
        *modules: the members.
        input_dimension: where the input is sliced, counted from 1.
        output_dimension: where the results are joined, counted from 1.

    Shape:
        - Input: :math:`(*)` with at most as many slices as there are members.
        - Output: the members' outputs, joined.

    Lua:
        ``nn.Parallel(inputDimension, outputDimension)``, Parallel.lua

    Raises:
        ValueError: there are more slices than members.
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, input_dimension: int, output_dimension: int) -> None:
        super().__init__(*modules)
        self.input_dimension, self.output_dimension = input_dimension, output_dimension

    def forward(self, input: Tensor) -> Tensor:
        slices = input.unbind(self.input_dimension - 1)
        if len(slices) > len(self):
            raise ValueError(f"{len(slices)} slices along dimension {self.input_dimension} for {len(self)} members")
        outputs = [module(x) for module, x in zip(self, slices, strict=False)]
        return joined(outputs, self.output_dimension - 1)

    def extra_repr(self) -> str:
        return f"input_dimension={self.input_dimension}, output_dimension={self.output_dimension}"

    class Lua(LuaClass):
        container = True
        scalars = {"inputDimension": "input_dimension", "outputDimension": "output_dimension"}
        scratch = ("totalOutputSize",)


@lua_class("nn.MapTable")
class MapTable(SlicedWithArguments):
    """Applies one module to every element of a list.

    Args:
        *modules: the module, and clones of it for the second element, the third, …. Missing ones are made from the
            first when a list is longer than all before it; :meth:`resize` makes them beforehand, for an optimiser.
        shared: the clones have the module's own parameters. Else they are independent.

    Shape:
        - Input: list of anything that the module takes.
        - Output: list of the results.

    Lua:
        ``nn.MapTable(module, shared)``, MapTable.lua
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, shared: bool = True) -> None:
        super().__init__(*modules)
        self.shared = shared

    def resize(self, length: int) -> None:
        """Make clones until lists of ``length`` elements can be processed."""
        while len(self) < length:
            shared = {id(p): p for p in self[0].parameters()} if self.shared else {}
            self.append(copy.deepcopy(self[0], shared))

    def forward(self, input: list[Any]) -> list[Any]:  # type: ignore[override]
        self.resize(len(input))
        return [module(x) for module, x in zip(self, input, strict=False)]

    def extra_repr(self) -> str:
        return "" if self.shared else "shared=False"

    class Lua(LuaClass):
        container = True
        scalars = ("shared",)
        constants = {
            "output": empty_table,
            "gradInput": empty_table,
            "sharedparams": lambda kind: LuaTable.from_list(["weight", "bias", "gradWeight", "gradBias"]),
        }

        @classmethod
        def stepped(
            cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            for child in cls.children(module)[: 1 if module.shared else None]:
                yield from inner(child)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Take the first of ``modules`` from the field ``module`` if the list is empty."""
            only = [] if obj.get("modules") else [m for m in [obj.get("module")] if m is not None]
            return super().upgrade(obj.changed(modules=LuaTable.from_list(only)) if only else obj)

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> None:
            """Make as many clones as Torch7 made, each of which has noise of its own."""
            assert isinstance(module, MapTable)
            if isinstance(clones := after.get("modules"), LuaTable):
                module.resize(len(clones.as_list()))

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields, first = super().to_lua(module, ctx), cls.children(module)[:1]
            return {**fields, "module": ctx.to_lua(first[0])} if first else fields


@lua_class("nn.Bottle")
class Bottle(Decorator):
    r"""Applies a module with one batch dimension to inputs with several, folded into one.

    Args:
        module: the module to apply.
        n_input_dims: number of dimensions that the module takes, the batch included.
        n_output_dims: number of dimensions that it returns; default: the same.

    Shape:
        - Input: :math:`(N_1, …, N_k, *)`.
        - Output: :math:`(N_1, …, N_k, *)` with what the module makes of the last ``n_input_dims - 1`` dimensions.

    Lua:
        ``nn.Bottle(module, nInputDim, nOutputDim)``, Bottle.lua

    Raises:
        ValueError: the module returns another number of dimensions than ``n_output_dims``.
    """

    def __init__(self, module: nn.Module, n_input_dims: int = 2, n_output_dims: int | None = None) -> None:
        super().__init__(module)
        self.n_input_dims = n_input_dims
        self.n_output_dims = n_input_dims if n_output_dims is None else n_output_dims

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        extra = input.dim() - self.n_input_dims
        if extra <= 0:
            return self.module(input)
        batch = input.shape[: extra + 1]
        output = self.module(input.reshape(batch.numel(), *input.shape[extra + 1 :]))
        if output.dim() != self.n_output_dims:
            raise ValueError(f"the module returned {tuple(output.shape)}, expected {self.n_output_dims} dimensions")
        return output.reshape(*batch[:-1], output.shape[0] // batch[:-1].numel(), *output.shape[1:])

    def extra_repr(self) -> str:
        return f"n_input_dims={self.n_input_dims}, n_output_dims={self.n_output_dims}"

    class Lua(Decorator.Lua):
        scalars = {"nInputDim": "n_input_dims", "nOutputDim": "n_output_dims"}
        scratch = ("dimDelta", "inShape", "outShape")

        @classmethod
        def to_lua(cls, module: Bottle, ctx: LuaContext) -> dict[str, Any]:
            kind = ctx.type_of(module)
            most = (
                min(n, MAX_DIMENSIONS) for n in (module.n_input_dims, module.n_output_dims)
            )  # they come from a file
            inputs, outputs = (np.zeros(n, element_dtype(kind)) for n in most)
            return {
                **super().to_lua(module, ctx),
                "dimDelta": module.n_input_dims - module.n_output_dims,
                "inShape": LuaTensor.from_numpy(inputs, kind),
                "outShape": LuaTensor.from_numpy(outputs, kind),
            }


# ---------------------------------------------------------------------- base classes
@lua_class("nn.Module")
class Module(nn.Module):
    """Torch7's abstract base, which returns its ``output``, whatever the input.

    Attributes:
        output: the tensor in the file, or None.

    Lua:
        ``nn.Module()``, Module.lua
    """

    output: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("output", None)

    def forward(self, input: Any) -> Tensor:
        return torch.empty(0) if self.output is None else self.output.clone()

    class Lua(LuaClass):
        tensors = ("output",)


@lua_class("nn.Container")
class Container(Members, Module):
    """Torch7's abstract base of containers: it contains members and runs none.

    Args:
        *modules: the members.

    Lua:
        ``nn.Container()``, Container.lua
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)

    class Lua(Module.Lua):
        container = True
