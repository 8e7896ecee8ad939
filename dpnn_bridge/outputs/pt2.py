"""``.pt2``: ``torch.export``, which runs without dpnn_bridge."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import torch
from torch import nn

from dpnn_bridge.atomic import PatientFile
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.outputs import Job
from dpnn_bridge.outputs.verification import check_traced, need_tracing, need_whole_zip, run, traceable

ORIGIN = "dpnn_bridge_origin"


def write(module: nn.Module, path: Path, job: Job) -> None:
    need_tracing(job.example, ".pt2")
    run(traceable(module), job.example)  # the model's own complaint about the example is clearer than the tracer's
    try:
        with torch.no_grad():  # torch.export.load refuses programs that switch gradients off in between
            # not strict is the default since PyTorch 2.8; strict mode refuses modules that remember a state
            program = torch.export.export(traceable(module), (job.example,), strict=False)
            with PatientFile(path) as file:
                torch.export.save(program, file, extra_files={ORIGIN: job.metadata.get("origin", "")})  # type: ignore[arg-type]
    except Exception as e:
        raise ConversionError(f"torch.export cannot hold this model: {e}") from e


def verify(module: nn.Module, path: Path, job: Job) -> None:
    loaded = torch.export.load(path).module()
    check_traced(path, run(loaded, job.example), module, job.example, "the exported program")


def origin(path: Path) -> str | None:
    need_whole_zip(path)
    with ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith(f"/{ORIGIN}"))
        return archive.read(name).decode()
