"""dpnn's examples learn: shortened runs beat chance, and perplexity falls."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(example: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / example, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_attention_model_learns_where_to_look() -> None:
    pytest.importorskip("sklearn")
    accuracies = [int(n) for n in re.findall(r"(\d+)%", run("recurrent_attention.py", "--epochs", "8"))]
    assert accuracies[0] < 20
    assert accuracies[-1] > 40


def test_the_language_model_learns() -> None:
    output = run("nce_language_model.py", "--epochs", "1", "--places", "10000", "--words", "500")
    before, after = (int(n) for n in re.findall(r"perplexity(?: before:)? (\d+)", output))
    assert after < before / 3
