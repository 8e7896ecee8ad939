"""``.pt``: the project's own format, see :mod:`dpnn_bridge.checkpoint`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import checkpoint
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import same_bits, same_tensors

#: bytes that are mapped at once while the file is compared
MAPPED = 128 << 20


def write(module: nn.Module, path: Path, job: Job) -> None:
    job.options["content"] = checkpoint.pack(module, job.metadata)
    torch.save(job.options["content"], path)


def verify(module: nn.Module, path: Path, job: Job) -> None:
    written, read = job.options["content"], _read(path)
    if not _same(read["graph"], written["graph"]) or not _same(read["metadata"], written["metadata"]):
        raise VerificationError(f"{path}: the object graph differs after reading back")
    if read["state_dict"].keys() != written["state_dict"].keys():
        raise VerificationError(f"{path}: read back other names than were written")
    for group in _groups(written["state_dict"]):
        del read  # pages of a mapping stay in memory as long as it does
        read = _read(path)
        same_tensors(path, {name: read["state_dict"][name] for name in group}, group)


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _groups(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors in groups of about :data:`MAPPED` bytes."""
    group: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if group and size + tensor.nbytes > MAPPED:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += tensor.nbytes
    yield group


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same_bits(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a == b or a != a)
