"""Wrappers that distribute a module over several GPUs. Here they run the module on one device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.fields import submodules
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.memory import decorated_memory, joined_branches_memory, new_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.indices import from_one
from dpnn_bridge.objects import LuaObject, LuaTable


@lua_class("nn.DataParallelTable")
class DataParallelTable(nn.Sequential):
    """Container of one module, which Torch7 replicates on several GPUs for each batch.

    Args:
        module: the module.

    Shape:
        - Input, output: the module's input and output.

    Differs from Torch7:
        Runs on one device. To use several, wrap the module in :class:`torch.nn.parallel.DistributedDataParallel`.

    Lua:
        ``nn.DataParallelTable(dimension, flattenParams, usenccl)``, cunn DataParallelTable.lua; ``nn.DataParallel()``,
        fbcunn DataParallel.lua
    """

    class Lua(LuaClass):
        output_memory = decorated_memory
        container = True
        is_identity = True
        version = 2
        checked_by = "structure"
        test = "test_data_parallel_table_is_its_first_replica"
        scratch = ("inputGpu", "gradOutputGpu", "outputGpu", "gradInputGpu")
        constants = {
            **dict.fromkeys(scratch, empty_table),
            "dimension": 1,
            "flattenParams": False,
            "usenccl": False,
            "needsSync": False,
            "typeStr": "torch.CudaTensor",
            "gpuAssignments": lambda tensor_class: LuaTable.from_list([1]),
        }

        @classmethod
        def header(cls, obj: LuaObject) -> tuple[Any, ...]:
            return obj.header or (obj["gpuAssignments"],)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Keep only the first replica, without derived fields; Torch7 writes the GPU numbers before the fields."""
            gpus = obj.get("gpuAssignments") or LuaTable.from_list([1])
            modules = LuaTable.from_list(obj["modules"].as_list()[:1])
            copy = obj.changed(impl=None, flattenedParams=None, buffer=None, gpuAssignments=gpus, modules=modules)
            copy.version, copy.header = cls.version, (gpus,)
            return copy


@lua_class("nn.DataParallel")
class DataParallel(LuaClass):
    """All replicas contain the same parameters, so only the first is converted."""

    import_only = True  # nn.DataParallelTable has more settings
    torch_type = DataParallelTable
    container = True
    output_memory = decorated_memory
    is_identity = True
    scratch = ("input_gpu", "gradOutput_gpu", "gradInput_gpu")
    checked_by = "structure"
    test = "test_data_parallel_of_fbcunn_keeps_one_replica"

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        changes = {"modules": LuaTable.from_list(obj["modules"].as_list()[:1])}
        if isinstance(gpus := obj.get("gpu_assignments"), LuaTable):
            changes["gpu_assignments"] = LuaTable.from_list(gpus.as_list()[:1])
        return obj.changed(changes)


@lua_class("nn.ModelParallelTable", "nn.ModelParallel")
class ModelParallelTable(nn.Sequential):
    """Applies every module to the same input and concatenates their outputs along one dimension.

    Args:
        *modules: the modules, which Torch7 keeps on different GPUs.
        dimension: dimension of the concatenation, counted from 1.

    Shape:
        - Input: an input that every module accepts.
        - Output: a tensor, or nested lists of tensors if the modules return nested lists; corresponding tensors are
          concatenated.

    Lua:
        ``nn.ModelParallelTable(dimension)``, multipathnet modules/ModelParallelTable.lua; fbcunn's
        ``nn.ModelParallel(dimension)``, ModelParallel.lua
    """

    fx_leaf = True

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        return self._joined([module(input) for module in self])

    def _joined(self, outputs: list[Any]) -> Any:
        if isinstance(outputs[0], Tensor):
            return torch.cat(outputs, from_one(self.dimension))
        return [self._joined(list(parts)) for parts in zip(*outputs, strict=True)]

    class Lua(LuaClass):
        output_memory = joined_branches_memory
        container = True
        version = 2
        scalars = ("dimension",)
        scratch = (*DataParallelTable.Lua.scratch, *DataParallel.scratch, "gradInputAddBuffer")
        checked_by = "structure"
        test = "test_model_parallel_table_joins_nested_outputs"


@lua_class("nn.ModelParallelTable")
class ParallelBranches(nn.Sequential):
    """Sum of the branches of a container, which Torch7 computes on two GPUs.

    Args:
        branches: a container; each of its modules is a branch.

    Shape:
        - Input, output: the input and output of every branch.

    Lua:
        ``nn.ModelParallelTable(nGpus, nResFunc)``, a copy of cunn's DataParallelTable.lua
    """

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        outputs = [branch(input) for branch in submodules(self[0])]
        return torch.stack(outputs).sum(0)

    class Lua(DataParallelTable.Lua):
        output_memory = new_memory
        is_identity = False
        version = 3
        checked_by = "structure"
        test = "test_parallel_branches_are_summed"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "nResFunc" in obj
