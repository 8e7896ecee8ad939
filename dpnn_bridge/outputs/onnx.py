"""``.onnx``, checked with onnxruntime against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.outputs import Job
from dpnn_bridge.outputs.verification import check_traced, need_tracing, run, traceable

ORIGIN = "dpnn_bridge_origin"


def _libraries() -> Any:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as e:
        raise ConversionError(f"{e.name} is not installed: pip install 'dpnn-bridge[onnx]'") from e
    return onnx, onnxruntime


def write(module: nn.Module, path: Path, job: Job) -> None:
    need_tracing(job.example, ".onnx")
    _libraries()
    run(traceable(module), job.example)  # the model's own complaint about the example is clearer than the tracer's
    try:
        program = torch.onnx.export(traceable(module), (job.example,), dynamo=True, verbose=False)
    except Exception as e:
        raise ConversionError(f"torch.onnx cannot export this model: {_first_cause(e)}") from e
    assert program is not None
    if "origin" in job.metadata:
        program.model.metadata_props[ORIGIN] = job.metadata["origin"]
    program.save(str(path), external_data=False)


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong at first; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def verify(module: nn.Module, path: Path, job: Job) -> None:
    onnx, onnxruntime = _libraries()
    onnx.checker.check_model(str(path))
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as e:
        raise ConversionError(
            f"onnxruntime cannot run this model; for most layers it has single precision only, so try "
            f"--dtype float32 (model.float()): {e}"
        ) from e
    values = [v for v in nested.leaves(job.example) if isinstance(v, Tensor)]
    feed = {i.name: v.cpu().numpy() for i, v in zip(session.get_inputs(), values, strict=True)}
    outputs = [torch.from_numpy(o) for o in session.run(None, feed)]
    check_traced(path, outputs, module, job.example, "onnxruntime")


def origin(path: Path) -> str | None:
    onnx, _ = _libraries()
    model = onnx.load(str(path), load_external_data=False)
    return next(p.value for p in model.metadata_props if p.key == ORIGIN)
