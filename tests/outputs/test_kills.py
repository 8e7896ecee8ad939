"""Programs that a signal ends at a random time while they write: each output is complete, or not there.

``DPNN_KILLS=50`` kills each of the outputs fifty times, and ``-rP`` shows what they were doing when it hit them.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from forkserver import FORKSERVER
from torch import nn

import dpnn_bridge
from dpnn_bridge.base import writing
from dpnn_bridge.base.atomic import write_text
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.outputs import format_of, safetensors_file

KILLS = int(os.environ.get("DPNN_KILLS", 1))
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
ROOT = Path(dpnn_bridge.__file__).parents[1]
#: layers of so many units: enough for writing to take most of the time
LAYERS, UNITS = 40, 150


@dataclass
class Run:
    """A command that writes.

    Attributes:
        arguments: ``{in}`` and ``{out}`` are folders.
        outputs: what it leaves in ``{out}``.
        programs: whether it runs as a program of its own, with workers, and not in a fork of this one.
    """

    arguments: str
    outputs: list[str] = field(default_factory=list)
    programs: bool = False


MODELS = [f"{name}.pt" for name in "abcdef"]
PLACES = [f"m.{name}.pt" for name in "abcdef"]
RUNS = {
    **{s: Run(f"convert {{in}}/a.t7 {{out}}/m.{s}", [f"m.{s}"]) for s in ("pt", "safetensors", "npz", "py", "t7")},
    **{f"data {s}": Run(f"convert {{in}}/data.t7 {{out}}/m.{s}", [f"m.{s}"]) for s in ("json", "npz", "pt", "t7")},
    **{s: Run(f"convert {{in}}/small.t7 {{out}}/m.{s} --input 1x8", [f"m.{s}"]) for s in ("onnx", "pt2")},
    "shards": Run("convert {in}/a.t7 {out}/m.safetensors --max-shard-size 500KB", ["m.safetensors.index.json"]),
    "report": Run("convert {in}/a.t7 {in}/../m.pt --force --report {out}/m.json", ["m.json"]),
    "html": Run("verify {in}/small.t7 --input 1x8 --html {out}/m.html", ["m.html"]),
    "page": Run("inspect {in}/a.t7 --html {out}/m.html", ["m.html"]),
    "all": Run("convert {in}/all.t7 {out}/m.pt --all", PLACES),
    "out-dir": Run("convert {in}/[a-f].t7 --out-dir {out}", MODELS),
    "jobs": Run("convert {in}/[a-f].t7 --out-dir {out} --jobs 2", MODELS, programs=True),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, one file with several of them, and a table of data."""
    home = tmp_path_factory.mktemp("kills") / "in"
    home.mkdir()
    torch.manual_seed(0)
    model = dpnn_bridge.to_lua(nn.Sequential(*(nn.Linear(UNITS, UNITS) for _ in range(LAYERS))))
    for name in "abcdef":
        dpnn_bridge.write_t7(home / f"{name}.t7", model)
    dpnn_bridge.write_t7(home / "small.t7", nn.Sequential(nn.Linear(8, 8), nn.Tanh()))
    small = [nn.Sequential(*(nn.Linear(UNITS, UNITS) for _ in range(LAYERS))) for _ in range(6)]
    dpnn_bridge.write_t7(home / "all.t7", LuaTable(zip("abcdef", map(dpnn_bridge.to_lua, small), strict=True)))
    rows = {f"row{i}": LuaTensor.from_numpy(torch.rand(1000).numpy()) for i in range(300)}
    dpnn_bridge.write_t7(home / "data.t7", LuaTable(rows))
    return home


_write = writing._OutputFile.write


def write_slowly(file: Any, data: Any) -> int:
    """Write pages and reports as a slow disk does, fifty parts in 0.2 s, so that a signal meets them."""
    if os.fspath(file.name).endswith((".html", ".json")):
        file.part = getattr(file, "part", len(data) // 50 + 1)
        data = memoryview(data)[: file.part]
        time.sleep(0.004)
    return _write(file, data)


def command(arguments: list[str], temporary: Path) -> None:
    """Runs a command in a fork of this program."""
    writing._OutputFile.write = write_slowly  # type: ignore[method-assign]
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(silent, descriptor)
    tempfile.tempdir = str(temporary)
    from dpnn_bridge.__main__ import main

    main(arguments)


class Program:
    """A command that runs, in a session of its own."""

    def __init__(self, run: Run, home: Path, out: Path) -> None:
        self.temporary = out.with_name(f"{out.name}-temporary")
        self.temporary.mkdir()
        arguments = [
            str(path)
            for text in run.arguments.format(**{"in": home, "out": out}).split()
            for path in (sorted(home.glob("[a-f].t7")) if "[" in text else [text])
        ]
        if run.programs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dpnn_bridge", *arguments],
                env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        else:
            self._process = FORKSERVER.Process(target=command, args=(arguments, self.temporary))
            self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    def runs(self) -> bool:
        """Whether it has not ended."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return self._process.is_alive()

    def left(self) -> list[int]:
        """Processes of its session that live."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = entry.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.pid and state != "Z":
                found.append(int(entry.parent.name))
        return found


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.001)
    return bool(met)


def hidden(out: Path) -> list[str]:
    """The folders in which outputs are being made."""
    return [entry.name for entry in os.scandir(out) if entry.name.startswith(".dpnn-")]


def left_in(temporary: Path) -> list[str]:
    """Temporary files, but for what PyTorch and libraries keep themselves."""
    return [p.name for p in temporary.iterdir() if not p.name.startswith(("torchinductor_", "torch_"))]


def whole(path: Path, like: Path) -> bool:
    """Whether a file is as complete as that of an undisturbed run."""
    if path.suffix == ".html":
        return path.read_text().rstrip().endswith("</html>")
    if path.suffix == ".json":
        return sorted(json.loads(path.read_text())) == sorted(json.loads(like.read_text()))
    if path.suffix in (".safetensors", ".onnx", ".pt2"):  # their bytes have another order, or say when they were made
        if path.suffix == ".safetensors":
            safetensors_file.read(path)
        else:
            assert format_of(path).origin(path) == format_of(like).origin(like)
        return abs(path.stat().st_size - like.stat().st_size) < 100
    return path.read_bytes() == like.read_bytes()


def without_generation(name: str) -> str:
    """The name of a shard without what tells those of one conversion from those of another."""
    return re.sub(r"-[0-9a-f]{8}(?=\.safetensors$)", "", name)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.timeout(600 + 60 * KILLS)  # "jobs" starts a program with two workers for each kill
@pytest.mark.parametrize("name", RUNS)
def test_a_signal_at_a_random_time_leaves_whole_files(name: str, inputs: Path, tmp_path: Path) -> None:
    run = RUNS[name]
    for library in {"onnx": ["onnxscript"], "safetensors": ["safetensors"], "shards": ["safetensors"]}.get(name, []):
        pytest.importorskip(library, reason="optional extra is not installed")
    like = tmp_path / "undisturbed"
    like.mkdir()
    program = Program(run, inputs, like)
    start = time.monotonic()
    assert until(lambda: any(like.iterdir()) or not program.runs())
    begins = ends = time.monotonic() - start
    while program.runs():
        ends = time.monotonic() - start if hidden(like) else ends
        time.sleep(0.001)
    expected = {without_generation(p.name): p for p in like.iterdir()}
    assert expected.keys() >= set(run.outputs)
    assert left_in(program.temporary) == []
    seen: Counter[str] = Counter()
    for number in range(KILLS):
        out = tmp_path / str(number)
        out.mkdir()
        by = random.choice(SIGNALS)
        program = Program(run, inputs, out)
        if random.random() < 0.1:
            time.sleep(random.uniform(0, begins))
        else:
            until(lambda: any(out.iterdir()) or not program.runs())  # noqa: B023 - called here
            time.sleep(random.uniform(0, ends - begins))
        moment = "while it wrote" if hidden(out) else "before" if not any(out.iterdir()) else "after a file"
        if program.runs():
            os.kill(program.pid, by)
        else:
            moment = "after its end"
        seen[moment] += 1
        assert until(lambda: not program.runs(), 120)  # noqa: B023
        assert until(lambda: not program.left(), 120), program.left()  # noqa: B023
        if by == signal.SIGKILL:  # nothing could be done any more: the next one that writes removes it
            write_text(out / "next", "", force=True)
            (out / "next").unlink()
        else:
            assert left_in(program.temporary) == [], by
        found = {without_generation(p.name): p for p in out.iterdir()}
        assert found.keys() <= expected.keys(), (by, found)
        if name == "shards" and by != signal.SIGKILL:
            assert found.keys() in (set(), expected.keys()), by
        for file, path in found.items():
            assert whole(path, expected[file]), (by, file)
    print(f"{name}: {KILLS} kills, of them {dict(seen)}")
    assert KILLS < 20 or seen["while it wrote"] >= KILLS / 4
