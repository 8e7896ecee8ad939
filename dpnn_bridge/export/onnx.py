"""``.onnx``, checked with onnxruntime against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import parity
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import need_example, run, same_outputs


def _libraries() -> Any:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as e:
        raise ConversionError(f"{e.name} is not installed: pip install 'dpnn-bridge[onnx]'") from e
    return onnx, onnxruntime


def write(module: nn.Module, path: Path, job: Job) -> None:
    need_example(job.example, ".onnx")
    _libraries()
    try:
        program = torch.onnx.export(module, (job.example,), dynamo=True, verbose=False)
    except Exception as e:
        raise ConversionError(f"torch.onnx cannot export this model: {e}") from e
    assert program is not None
    program.save(str(path), external_data=False)


def verify(module: nn.Module, path: Path, job: Job) -> None:
    onnx, onnxruntime = _libraries()
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = [v for v in parity.leaves(job.example) if isinstance(v, Tensor)]
    feed = {i.name: v.cpu().numpy() for i, v in zip(session.get_inputs(), values, strict=True)}
    outputs = [torch.from_numpy(o) for o in session.run(None, feed)]
    same_outputs(path, outputs, run(module, job.example), "onnxruntime")
