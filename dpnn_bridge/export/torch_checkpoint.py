"""``.pt``: the project's own format, see :mod:`dpnn_bridge.checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpnn_bridge import checkpoint
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import same_bits, same_tensors


def write(module: nn.Module, path: Path, job: Job) -> None:
    job.options["content"] = checkpoint.pack(module, job.metadata)
    torch.save(job.options["content"], path)


def verify(module: nn.Module, path: Path, job: Job) -> None:
    written, read = job.options["content"], torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    same_tensors(path, read["state_dict"], written["state_dict"])
    if not _same(read["graph"], written["graph"]) or not _same(read["metadata"], written["metadata"]):
        raise VerificationError(f"{path}: the object graph differs after reading back")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same_bits(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a == b or a != a)
