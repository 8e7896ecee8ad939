"""``.t7``: back to Torch7."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import same_tensors
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import write_t7


def write(module: nn.Module, path: Path, job: Job) -> None:
    options = dict(job.options)
    write_t7(path, to_lua(module, tensor_type=options.pop("tensor_type", None)), **options)


def verify(module: nn.Module, path: Path, job: Job) -> None:
    if job.options.get("tensor_type") is None:
        same_tensors(path, to_torch(read_t7(path)).state_dict(), module.state_dict())
