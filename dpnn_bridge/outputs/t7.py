"""``.t7``: back to Torch7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.conversion import to_lua
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.outputs import Job


def write(module: nn.Module, path: Path, job: Job) -> None:
    obj = job.written = to_lua(module, tensor_type=job.options.get("tensor_type"), example=job.example)
    write_t7(path, obj, verify=False, **_encoding(job))


def verify(module: nn.Module, path: Path, job: Job) -> None:
    encoding = _encoding(job)
    binary, shared = encoding.get("mode") != "ascii", encoding.get("referenced", True)
    found = difference(job.written, read_t7(path), exact_nan=binary, shared=shared)
    if found:
        raise VerificationError(f"{path}: reading it back gave something else: {found}")


def _encoding(job: Job) -> dict[str, Any]:
    """The options of the writer: mode, long_size, …"""
    return {k: v for k, v in job.options.items() if k != "tensor_type"}


def origin(path: Path) -> str | None:
    """None: Torch7 would not read a file with anything beside the object."""
    return None
