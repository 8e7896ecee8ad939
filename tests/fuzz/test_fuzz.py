"""Run a fixed set of fuzz cases, and all files that broke a promise earlier."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path
from random import Random

import pytest

from dpnn_bridge.errors import ConversionError

from . import actions, beside
from .run import Fuzzer
from .watch import BrokenPromiseError, Figures, Watch

CORPUS = sorted(Path(__file__).parent.joinpath("corpus").glob("*.*"))
#: number of cases of each target; the nightly workflow uses other seeds
CASES = {"t7": 400, "pt": 300, "safetensors": 300, "commands": 200, "manifest": 100, "index": 200, "reference": 100}
CASES |= {"npz": 100, "wire": 1000}


@pytest.mark.parametrize("target", CASES)
def test_changed_files_break_no_promise(target: str) -> None:
    figures = Fuzzer(target).run(2_016_000, CASES[target])
    assert figures.cases >= CASES[target]
    assert figures.found == {}
    assert sum(figures.done.values()) > CASES[target] / 10


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.name)
def test_what_broke_a_promise_once(path: Path) -> None:
    with Watch(Figures()).working() as watch:
        if path.suffix[1:] in beside.TARGETS:
            beside.again(watch, path.suffix[1:], path.read_bytes())
            return
        file = watch.folder / f"x{path.suffix}"
        shutil.copy(path, file)
        actions.everything(watch, file)


def fails(error: BaseException) -> object:
    raise error


def busy() -> None:
    start = time.process_time()
    while time.process_time() < start + 1.2:
        pass


def test_what_the_watch_notices() -> None:
    with Watch(Figures()).working() as watch:
        assert not watch.run("x", lambda: fails(ConversionError("ours")))
        assert watch.run("x", lambda: Path("out").touch(), "out")
        for action, kind in (
            (lambda: fails(ValueError()), "x raises ValueError at .*test_fuzz.py"),
            (lambda: fails(SystemExit()), "x raises SystemExit"),
            (lambda: Path("left").touch(), "x leaves files: left"),
            (lambda: bytearray(400 << 20), "x takes memory"),
            (busy, "x is slow"),
        ):
            with pytest.raises(BrokenPromiseError, match=kind):
                watch.run("x", action)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(BrokenPromiseError, match="x returns 90000 characters"):
                watch.run("x", lambda: fails(ConversionError("x\n" * 30_000)))


def test_what_does_not_come_again_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzzer, calls = Fuzzer("pt", tmp_path), []

    def one(watch: Watch, random: Random) -> None:
        calls.append(random.randrange(9))
        fuzzer._current = "x.pt", b"the file"
        if len(calls) == 3:
            raise BrokenPromiseError("load is slow", "1.2 s")

    monkeypatch.setattr(fuzzer, "_one", one)
    figures = fuzzer.run(1, 20)
    (message,) = figures.flaky["load is slow"]
    assert message.startswith("load is slow: 1.2 s (")
    assert [path.read_bytes() for path in tmp_path.glob("once-*.pt")] == [b"the file"]
    assert "once: load is slow" in str(figures)


def test_a_case_is_minimized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzzer = Fuzzer("pt", tmp_path)

    def one(watch: Watch, random: Random) -> None:
        numbers = [random.randrange(100) for _ in range(random.randrange(20))]
        fuzzer._current = "x.pt", repr(numbers).encode()
        if any(number > 90 for number in numbers):
            raise BrokenPromiseError("load is slow")

    monkeypatch.setattr(fuzzer, "_one", one)
    figures = fuzzer.run(1, 100)
    (path,) = set(tmp_path.glob("*.pt")) - set(tmp_path.glob("once-*"))
    assert figures.found == {"load is slow": f"load is slow ({path})"}
    (number,) = filter(None, json.loads(path.read_bytes()))
    assert number > 90


def test_a_run_ends_when_its_time_is_up() -> None:
    figures = Fuzzer("pt").run(1, until=time.monotonic() + 0.5)
    assert figures.flaky == figures.found == {}
    assert figures.cases > 0
