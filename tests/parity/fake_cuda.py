"""Runs a fixture of each class on a CUDA device that is not there, and prints what it would wait for as JSON.

    python tests/parity/fake_cuda.py GUARD.so

PyTorch's fake tensors know shapes and devices, and no elements. What needs elements (``.item()``, ``bool()``, an output
whose size depends on values) would wait for the GPU; operations on tensors of two devices fail as they would there.
"""

from __future__ import annotations

import ctypes
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.loaders import read_t7

#: copies between devices
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Watch(TorchDispatchMode):
    """Notes where tensors go from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in COPIES:
            devices = {t.device.type for t in nested.leaves([*args, result]) if isinstance(t, Tensor)}
            if len(devices) > 1:
                back = func is torch.ops.aten._to_copy.default and result.device.type == "cpu"
                self.copies.add("copies from the device" if back else "copies to the device")
        return result


def on_cuda(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def move(module: nn.Module) -> None:
    """Replaces all tensors, tied ones by one."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    fake = on_cuda(tensor)
                    moved[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if table is part._parameters else fake
                table[name] = moved[id(tensor)]


def outcome(entry: dict[str, Any]) -> str:
    """What a forward pass does: ``"ok"``, what it waits for, or an error."""
    table = read_t7(FIXTURES / entry["file"])
    module = dpnn_bridge.to_torch(table["module"])
    inputs = [to_value(table[name]) for name in ("input", "target") if name in table]
    watch = Watch()
    try:
        with FakeTensorMode(), watch:
            move(module)
            output = module(*(nested.map_tensors(on_cuda, value) for value in inputs))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        return f"waits: {str(error).split('.')[1]}"
    except Exception as error:
        place = [f for f in traceback.extract_tb(error.__traceback__) if "/dpnn_bridge/" in f.filename]
        return f"error: {type(error).__name__}: {str(error).splitlines()[0]} {place[-1] if place else ''}"
    devices = {v.device.type for v in nested.leaves(output) if isinstance(v, Tensor)}
    if devices - {"cuda"}:
        return f"error: the output is on {devices}"
    return ", ".join(sorted(watch.copies)) or "ok"


def main() -> None:
    ctypes.CDLL(sys.argv[1])
    warnings.simplefilter("ignore")
    torch.backends.cudnn.enabled = False  # PyTorch with CUDA asks the driver what cuDNN can do
    chosen: dict[str, dict[str, Any]] = {}
    for entry in manifest(kind=("module", "criterion")):
        known = chosen.get(entry["class"])
        if known is None or ("batch" in entry["name"] and "batch" not in known["name"]):
            chosen[entry["class"]] = entry
    print(json.dumps({name: outcome(entry) for name, entry in chosen.items()}), file=sys.__stdout__)


if __name__ == "__main__":
    main()
