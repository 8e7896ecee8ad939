"""Containers: modules that run other modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from dpnn_bridge.base.steps import spend_steps
from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, empty_sizes, empty_table
from dpnn_bridge.conversion.memory import (
    Each,
    Trace,
    branches_memory,
    joined_branches_memory,
    modules_of,
    sequence_memory,
    view_of,
)
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.arithmetic import joined
from dpnn_bridge.modules.nn.indices import from_one
from dpnn_bridge.modules.nn.members import Members, SlicedWithArguments
from dpnn_bridge.modules.nn.overwriting import note_shortcuts
from dpnn_bridge.objects import LuaObject, LuaTable

fx.wrap("joined")


@lua_class("nn.Sequential", "nn.Maxout")
class Sequential(LuaClass):
    torch_type = nn.Sequential
    container = True
    output_memory = sequence_memory

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        note_shortcuts(obj, ctx)
        return super().build(obj, ctx)


@lua_class("nn.ConcatTable")
class ConcatTable(nn.Sequential):
    """Applies every module to the same input and returns the list of outputs.

    Args:
        *modules: the modules.

    Shape:
        - Input: an input that every module accepts.
        - Output: list with the output of each module.

    Lua:
        ``nn.ConcatTable()``, ConcatTable.lua
    """

    def forward(self, input: Any) -> list[Any]:  # type: ignore[override]
        return [module(input) for module in self]

    class Lua(LuaClass):
        container = True
        constants = {"output": empty_table}
        output_memory = branches_memory


@lua_class("nn.ParallelTable")
class ParallelTable(nn.Sequential):
    """Applies the i-th module to the i-th element of a list.

    Args:
        *modules: the modules.

    Shape:
        - Input: list with at least one element per module; further elements are ignored.
        - Output: list with the output of each module.

    Lua:
        ``nn.ParallelTable()``, ParallelTable.lua
    """

    def forward(self, input: list[Any]) -> list[Any]:  # type: ignore[override]
        return [module(input[i]) for i, module in enumerate(self)]

    class Lua(LuaClass):
        container = True
        constants = {"output": empty_table, "gradInput": empty_table}

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            modules = modules_of(obj)
            return [trace.run(module, trace.element(input, i), "modules", i) for i, module in modules]


@lua_class("nn.Concat")
class Concat(SlicedWithArguments):
    """Applies every module to the same input and concatenates the outputs along one dimension.

    Args:
        *modules: the modules.
        dimension: dimension of the concatenation, counted from 1.

    Shape:
        - Input: :math:`(*)`, an input that every module accepts.
        - Output: the outputs, concatenated as by :class:`~dpnn_bridge.modules.nn.table.JoinTable`.

    Lua:
        ``nn.Concat(dim)``, Concat.lua
    """

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, input: Any) -> Tensor:  # type: ignore[override]
        return joined([module(input) for module in self], self.dimension - 1)

    class Lua(LuaClass):
        container = True
        output_memory = joined_branches_memory
        scalars = ("dimension",)
        constants = {"outputSize": empty_sizes}
        scratch = ("size", "outputSize")


@lua_class("nn.DepthConcat")
class DepthConcat(Concat):
    """Like :class:`Concat`, but pads smaller outputs with zeros to the largest size in every other dimension.

    Args:
        *modules: the modules.
        dimension: dimension of the concatenation, counted from 1.

    Shape:
        - Input: :math:`(*)`, an input that every module accepts.
        - Output: the outputs, centered and concatenated: ``floor((largest - size) / 2)`` zeros precede an output.

    Lua:
        ``nn.DepthConcat(dim)``, DepthConcat.lua
    """

    fx_leaf = True

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
    """Applies the i-th module to the i-th slice of a tensor and concatenates the outputs.

    Args:
        *modules: the modules.
        input_dimension: dimension along which the input is sliced, counted from 1.
        output_dimension: dimension of the concatenation, counted from 1.

    Shape:
        - Input: :math:`(*)` with at most one slice per module.
        - Output: the outputs, concatenated.

    Lua:
        ``nn.Parallel(inputDimension, outputDimension)``, Parallel.lua

    Raises:
        ValueError: there are more slices than modules.
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, input_dimension: int, output_dimension: int) -> None:
        super().__init__(*modules)
        self.input_dimension, self.output_dimension = input_dimension, output_dimension

    def forward(self, input: Tensor) -> Tensor:
        slices = input.unbind(from_one(self.input_dimension))
        if len(slices) > len(self):
            raise ValueError(
                f"expected at most {len(self)} slices along dimension {self.input_dimension}, one per module, "
                f"found {len(slices)}"
            )
        outputs = [module(x) for module, x in zip(self, slices, strict=False)]
        return joined(outputs, self.output_dimension - 1)

    class Lua(LuaClass):
        container = True
        scalars = {"inputDimension": "input_dimension", "outputDimension": "output_dimension"}
        scratch = ("totalOutputSize",)

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            slices = view_of(input, obj)
            for i, module in modules_of(obj):
                trace.read(trace.run(module, trace.element(slices, i), "modules", i))
            return trace.new()


#: work of copying a module, in elements of a loop; about 60 us
_CLONE = 600


@lua_class("nn.MapTable")
class MapTable(SlicedWithArguments):
    """Applies one module to every element of a list.

    Args:
        *modules: the module, optionally followed by clones for the second, third, … element. ``forward`` adds missing
            clones. Call :meth:`resize` before creating an optimizer if the clones do not share parameters, and before
            ``torch.compile(fullgraph=True)``.
        shared: whether the clones share the module's parameters.

    Shape:
        - Input: list of inputs of the module.
        - Output: list of outputs.

    Lua:
        ``nn.MapTable(module, shared)``, MapTable.lua
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, shared: bool = True) -> None:
        super().__init__(*modules)
        self.shared = shared

    def resize(self, length: int) -> None:
        """Add clones of the first module until there are ``length`` modules."""
        while len(self) < length:
            spend_steps(_CLONE * sum(1 for _ in self[0].modules()))
            exporting = torch.compiler.is_exporting()  # no tensor can be copied, and the clones compute the same
            shared = [*self[0].parameters()] if self.shared or exporting else []
            shared += self[0].buffers() if exporting else []
            self.append(copy.deepcopy(self[0], {id(t): t for t in shared}))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Have as many clones as the model whose state is loaded."""
        numbers = {key[len(prefix) :].partition(".")[0] for key in state_dict if key.startswith(prefix)}
        if length := sum(map(str.isdigit, numbers)):
            del self[length:]
            self.resize(length)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, input: list[Any]) -> list[Any]:  # type: ignore[override]
        self.resize(len(input))
        return [module(x) for module, x in zip(self, input, strict=False)]

    class Lua(LuaClass):
        container = True
        repeats = True
        scalars = ("shared",)
        constants = {
            "output": empty_table,
            "gradInput": empty_table,
            "sharedparams": lambda tensor_class: LuaTable.from_list(["weight", "bias", "gradWeight", "gradBias"]),
        }

        @classmethod
        def stepped(
            cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            for child in cls.children(module)[: 1 if module.shared else None]:
                yield from inner(child)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Fill an empty list ``modules`` with the field ``module``."""
            if not obj.get("modules") and obj.get("module") is not None:
                obj = obj.changed(modules=LuaTable.from_list([obj["module"]]))
            return super().upgrade(obj)

        @classmethod
        def replay(cls, module: MapTable, after: LuaObject) -> None:
            """Create as many clones as Torch7 did, because each clone draws its own noise."""
            if isinstance(clones := after.get("modules"), LuaTable):
                module.resize(len(clones.as_list()))

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields, first = super().to_lua(module, ctx), cls.children(module)[:1]
            return {**fields, "module": ctx.to_lua(first[0])} if first else fields

        @classmethod
        def output_memory(cls, obj: LuaObject, input: Any, trace: Trace) -> Any:
            modules = dict(modules_of(obj)) or {1: obj["module"]}
            if not isinstance(input, list):
                return Each(trace.run(modules[1], trace.element(input, None), "modules", 1))
            numbers = [i if i in modules else 1 for i in range(1, len(input) + 1)]
            return [trace.run(modules[i], value, "modules", i) for i, value in zip(numbers, input, strict=True)]


# ---------------------------------------------------------------------- base classes
@lua_class("nn.Module")
class Module(nn.Module):
    """Torch7's abstract base class of layers; ignores its input and returns ``output``.

    Attributes:
        output: the field ``output`` of the file, or None.

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
    """Torch7's abstract base class of containers; does not run its modules.

    Args:
        *modules: the modules.

    Lua:
        ``nn.Container()``, Container.lua
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)

    class Lua(Module.Lua):
        container = True
