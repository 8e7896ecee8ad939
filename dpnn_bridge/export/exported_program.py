"""``.pt2``: ``torch.export``, which runs without dpnn_bridge."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import need_example, run, same_outputs


def write(module: nn.Module, path: Path, job: Job) -> None:
    need_example(job.example, ".pt2")
    try:
        program = torch.export.export(module, (job.example,))
    except Exception as e:
        raise ConversionError(f"torch.export cannot trace this model: {e}") from e
    torch.export.save(program, path)


def verify(module: nn.Module, path: Path, job: Job) -> None:
    loaded = torch.export.load(path).module()
    same_outputs(path, run(loaded, job.example), run(module, job.example), "the exported program")
