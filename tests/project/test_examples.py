"""The examples run and do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import dpnn_bridge

ROOT = Path(__file__).parents[2]


def test_finetune(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "finetune.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    accuracy = run.stdout.splitlines()[0].split()
    assert int(accuracy[3].rstrip("%")) >= 90 > int(accuracy[1].rstrip("%"))
    x = torch.randn(2, 1, 32, 32)
    tuned, written = dpnn_bridge.load(tmp_path / "tuned.pt"), dpnn_bridge.load(tmp_path / "tuned.t7")
    assert tuned(x).shape == (2, 4)
    assert torch.equal(tuned(x), written(x))
    original = dpnn_bridge.load(ROOT / "fixtures" / "samples" / "torch-demos__mnist_convnet" / "model.t7")
    assert torch.equal(tuned.get_parameter("0.weight"), original.get_parameter("0.weight"))
