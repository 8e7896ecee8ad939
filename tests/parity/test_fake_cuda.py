"""What runs on a GPU, shown without one: no tensor is left on another device, and what waits for the GPU is known."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import manifest
from generate_devices import row  # pyright: ignore[reportMissingImports]

#: PyTorch without CUDA has nothing that selects a CUDA device, and with CUDA what it has looks for a driver; nothing
#: needs to be selected for fake tensors
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
"""

#: layers that need elements on the host, and why they cannot do without
WAITS = {
    "nn.Bigrams": "an unknown word is an error",
    "nn.ChannelDropout": "it draws again while nothing is kept",
    "nn.MaskZeroCriterion": "the number of rows that are kept",
    "nn.MaskedSelect": "the size of its output",
    "nn.NaN": "nan is an error",
    "nn.TemporalDynamicKMaxPooling": "equal values are sorted as Torch7's quicksort leaves them, on the host",
}
#: layers that send small tables made on the host
COPIES = {
    "nn.IndexLinear": "the lengths of its samples",
    "nn.L1HingeEmbeddingCriterion": "a target that is a number",
    "nn.Scale": "the places of Torch7's scaling",
    "nn.SparseLinear": "the lengths of its samples",
}


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and g++")
    folder, root = tmp_path_factory.mktemp("guard"), Path(torch.__file__).parent
    (folder / "guard.cpp").write_text(GUARD)
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", f"-L{root / 'lib'}", "-lc10"]
    command = [compiler, *options[:4], folder / "guard.cpp", *options[4:], "-o", folder / "guard.so"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the compiler does not know PyTorch's headers: {done.stderr[-300:]}")
    return folder / "guard.so"


def test_every_class_on_a_device_that_is_not_there(guard: Path) -> None:
    program = Path(__file__).parent / "fake_cuda.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, program, guard], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert {name: text for name, text in found.items() if text.startswith("error")} == {}
    assert {name for name, text in found.items() if text.startswith("waits")} == WAITS.keys()
    assert {name: text for name, text in found.items() if text.startswith("copies from")} == {}
    assert {name for name, text in found.items() if text == "copies to the device"} == COPIES.keys()
    assert sum(text == "ok" for text in found.values()) > 400


def test_the_table_of_devices() -> None:
    text = row("cpu", manifest(**{"class": "nn.Linear", "kind": "module"})[:8])
    cells = [cell.strip() for cell in text.strip().strip("|").split("|")]
    passed, of, worst = cells[3:6]
    assert (passed, of) == ("8", "8")
    assert float(worst.split()[0]) < 1e-10
