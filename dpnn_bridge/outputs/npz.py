"""``.npz``: the weights as numpy arrays under their ``state_dict`` names."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.compare.bits import same_tensors
from dpnn_bridge.outputs import Job
from dpnn_bridge.outputs.verification import need_whole_zip
from dpnn_bridge.outputs.written import Written


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """numpy has no bfloat16: such tensors become float32, which holds them exactly."""
    return {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().cpu() for k, v in module.state_dict().items()}


def write(module: nn.Module, path: Path, job: Job) -> None:
    arrays = {k: v.numpy() for k, v in _weights(module).items()}
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    if "origin" in job.metadata:
        with ZipFile(path, "a") as archive:
            archive.comment = job.metadata["origin"].encode()


def verify(module: nn.Module, path: Path, job: Job) -> None:
    with np.load(path, allow_pickle=False) as archive:
        same_tensors(path, {k: torch.from_numpy(archive[k]) for k in archive.files}, _weights(module))


def origin(path: Path) -> str | None:
    need_whole_zip(path)
    with ZipFile(path) as archive:
        return archive.comment.decode()


def opened(path: Path, module: nn.Module) -> Written:
    """The weights."""
    with np.load(path, allow_pickle=False) as archive:
        return Written({k: torch.from_numpy(archive[k]) for k in archive.files}, note="holds weights and no layers")
