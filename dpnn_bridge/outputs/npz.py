"""``.npz``: the weights as numpy arrays under their ``state_dict`` names."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.display import shortened
from dpnn_bridge.compare.bits import same_tensors
from dpnn_bridge.errors import T7FormatError
from dpnn_bridge.outputs import Job
from dpnn_bridge.outputs.npy import ArrayHeader
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
    """The weights, those of another shape than the model's without their elements: a few bytes may unfold to many."""
    expected = module.state_dict()
    tensors: dict[str, Tensor] = {}
    with ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # numpy writes no others
                raise T7FormatError(f"{shortened(entry.filename)} is compressed in a way that numpy does not use")
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as file:
                header = ArrayHeader(file)
                if name in expected and header.shape == tuple(expected[name].shape):
                    tensors[name] = torch.from_numpy(header.elements(file))
                else:
                    tensors[name] = torch.from_numpy(np.zeros((), header.dtype)).expand(header.shape)
    return Written(tensors, note="holds weights and no layers")
