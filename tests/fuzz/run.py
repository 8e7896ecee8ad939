"""Run cases that Hypothesis draws; minimize and save those that break a promise."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from . import actions, beside, commands, pytorch, t7
from .watch import BrokenPromiseError, Figures, Watch

TARGETS = ("t7", "pt", "safetensors", "commands", *beside.TARGETS)
#: number of cases of one run of Hypothesis, which stores all of them
BATCH = 500
#: address space in addition to the initial size of the process
ADDRESS_SPACE = 3 << 30


class _TimeIsUp(KeyboardInterrupt):
    """Ends a batch. If the case returned instead, Hypothesis would report that its draws are not reproducible."""


class Fuzzer:
    """Runner for the cases of a target.

    Args:
        target: one of :data:`TARGETS`.
        found: folder for files that break a promise; None to save no files.
    """

    def __init__(self, target: str, found: Path | None = None) -> None:
        self.target, self.found = target, found
        self.figures = Figures()
        self._current: tuple[str, bytes] = ("", b"")
        self._wanted: BrokenPromiseError | None = None
        self._file = ""

    def run(self, seed_: int, cases: int | None = None, until: float | None = None) -> Figures:
        """Run until the number of ``cases`` or the time ``until`` of the monotonic clock is reached."""
        with Watch(self.figures).working() as watch:
            start = self.figures.cases
            while (cases is None or self.figures.cases - start < cases) and (until is None or time.monotonic() < until):
                count = BATCH if cases is None else min(BATCH, cases - (self.figures.cases - start))
                with suppress(_TimeIsUp):
                    self._batch(watch, seed_, count, until)
                seed_ += 1
        return self.figures

    def _batch(self, watch: Watch, seed_: int, count: int, until: float | None) -> None:
        self._wanted = None

        @seed(seed_)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
            print_blob=False,
            report_multiple_bugs=False,
        )
        @given(st.randoms(use_true_random=False))
        def batch(random: Random) -> None:
            if not self._wanted and until and time.monotonic() > until:
                raise _TimeIsUp
            self._case(watch, random)

        try:
            batch()
        except BrokenPromiseError as finding:
            self.figures.found[finding.kind] = f"{finding}{self._saved()}"
        except Flaky as error:  # caused by the first call of a library, or by a busy machine
            kind, message = "the cases", f"are not reproducible: {error}"
            if self._wanted is not None:
                kind, message = self._wanted.kind, f"{self._wanted}{self._file}"
            self.figures.flaky.setdefault(kind, []).append(message)

    def _case(self, watch: Watch, random: Random) -> None:
        if not self._wanted:
            self.figures.cases += 1
        try:
            self._one(watch, random)
        except BrokenPromiseError as finding:
            if finding.kind in self.figures.found or (self._wanted and finding.kind != self._wanted.kind):
                return
            if self._wanted is None:
                self._wanted, self._file = finding, self._saved("once-")
            raise
        finally:
            watch.clear()

    def _one(self, watch: Watch, random: Random) -> None:
        if self.target == "commands":
            name, data = commands.file(random)
            self._current = name, data
            self._note()
            (watch.folder / name).write_bytes(data)
            commands.one(watch, watch.folder / name, random)
            return
        if self.target in beside.TARGETS:
            make, act = beside.TARGETS[self.target]
            files = make(random)
            self._current = next((name, data) for name, data in files.items() if name.startswith("x"))
            self._note()
            beside.case(watch, files, act, random)
            return
        suffix = f".{self.target}"
        data = t7.mutated(random) if self.target == "t7" else pytorch.mutated(suffix, random)
        self._current = f"x{suffix}", data
        self._note()
        actions.case(watch, suffix, data, random)

    def _note(self) -> None:
        """Store the case, because it may kill the process."""
        if self.found is not None:
            (self.found / f"running-{os.getpid()}").write_bytes(self._current[1])

    def _saved(self, prefix: str = "") -> str:
        """Save the case; return its path for a message."""
        name, data = self._current
        if self.found is None or not data:
            return ""
        path = self.found / f"{prefix}{hashlib.sha256(data).hexdigest()[:12]}{Path(name).suffix}"
        path.write_bytes(data)
        return f" ({path})"


def limit_memory() -> None:
    """Limit the address space, so that an excessive allocation raises a MemoryError."""
    with suppress(OSError, ValueError), open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + ADDRESS_SPACE, held + ADDRESS_SPACE))


def in_a_process(target: str, seed_: int, seconds: float | None, cases: int | None, found: Path) -> list[Figures]:
    """Run a target in a process; if a case kills it, save the case and continue in a new process.

    Returns:
        The figures of each process; for a killed process, without its last batches.
    """
    found.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    until = None if seconds is None else time.monotonic() + seconds
    results: list[Figures] = []
    while True:
        receive, send = context.Pipe(duplex=False)
        left = None if cases is None else cases - sum(f.cases for f in results)
        process = context.Process(target=_work, args=(send, target, seed_, until, left, found))
        process.start()
        send.close()
        latest = Figures()
        with suppress(EOFError):
            while True:
                latest = receive.recv()
        process.join()
        running = found / f"running-{process.pid}"
        if process.exitcode:
            crash = found / f"crash-{process.pid}.{target}"
            running.rename(crash) if running.exists() else None
            latest.found[f"the process ends with {process.exitcode}"] = str(crash)
            seed_ += latest.cases // BATCH + 1
        running.unlink(missing_ok=True)
        results.append(latest)
        if not process.exitcode or (until is not None and time.monotonic() > until) or len(results) > 50:
            return results


def _work(send: object, target: str, seed_: int, until: float | None, cases: int | None, found: Path) -> None:
    import torch

    torch.set_num_threads(1)
    limit_memory()
    fuzzer = Fuzzer(target, found)
    tell: Callable[[Figures], None] = send.send  # type: ignore[attr-defined]
    while (cases is None or fuzzer.figures.cases < cases) and (until is None or time.monotonic() < until):
        part = 10 * BATCH if cases is None else min(10 * BATCH, cases - fuzzer.figures.cases)
        fuzzer.run(seed_, part, until)
        seed_ += part // BATCH + 1
        tell(fuzzer.figures)
