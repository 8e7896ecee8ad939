"""For tests of ``.onnx`` files: run a file in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


def run(path: Path, x: Tensor) -> Tensor:
    """The output of a file with one input and one output."""
    runtime: Any = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = runtime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
