"""Run random cases; minimize and save those that break a promise."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from . import actions, beside, commands, pytorch, t7
from .watch import BrokenPromiseError, Figures, Watch

TARGETS = ("t7", "pt", "safetensors", "commands", *beside.TARGETS)
#: number of cases after which a process reports its figures
BATCH = 500
#: seconds to minimize a case
MINIMIZE = 60
#: address space in addition to the initial size of the process
ADDRESS_SPACE = 3 << 30


class Choices(Random):
    """Random numbers of ``randrange`` and ``choice`` that are recorded, to repeat a case with fewer and smaller ones.

    Args:
        seed: the seed; None to return ``given`` and then zeros.
        given: earlier recorded numbers.
    """

    def __init__(self, seed: str | None, given: Sequence[int] = ()) -> None:
        super().__init__(seed)
        self.made: list[int] = []
        self._given = given if seed is None else None

    def getrandbits(self, k: int, /) -> int:
        if self._given is None:
            number = super().getrandbits(k)
        elif len(self.made) < len(self._given):
            number = self._given[len(self.made)] & ((1 << k) - 1)
        else:
            number = 0
        self.made.append(number)
        return number


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
        self._running = None
        if found is not None:
            self._running = open(found / f"running-{os.getpid()}", "wb", buffering=0)  # noqa: SIM115

    def run(self, seed: int, cases: int | None = None, until: float | None = None, first: int = 0) -> Figures:
        """Run until the number of ``cases`` or the time ``until`` of the monotonic clock is reached.

        Args:
            seed: the seed.
            cases: number of cases.
            until: end time.
            first: number of the first case. The seed and the number determine the case.
        """
        number = first
        with Watch(self.figures).working() as watch:
            while (cases is None or number < first + cases) and (until is None or time.monotonic() < until):
                self.figures.cases += 1
                choices = Choices(f"{seed}/{number}")
                number += 1
                finding = self._broken(watch, choices)
                if finding is not None and finding.kind not in self.figures.found:
                    self._minimize(watch, finding, choices.made)
        return self.figures

    def _broken(self, watch: Watch, choices: Choices) -> BrokenPromiseError | None:
        """Run a case; return the promise that it broke."""
        try:
            self._one(watch, choices)
        except BrokenPromiseError as finding:
            return finding
        finally:
            watch.clear()
        return None

    def _minimize(self, watch: Watch, finding: BrokenPromiseError, choices: list[int]) -> None:
        """Save the file of a case, and of the simplest case found that breaks the same promise."""
        kind, once = finding.kind, self._saved("once-")

        def again(choices: list[int]) -> bool:
            nonlocal finding
            repeated = self._broken(watch, Choices(None, choices))
            if repeated is None or repeated.kind != kind:
                return False
            finding = repeated
            return True

        if not again(choices):  # caused by the first call of a library, or by a busy machine
            self.figures.flaky.setdefault(kind, []).append(f"{finding}{once}")
            return
        again(minimized(choices, again))
        self.figures.found[kind] = f"{finding}{self._saved()}"

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
        """Store the case, because it may kill the process.

        The file stays open, because some file systems wait for the disk if a file is emptied and closed.
        """
        if self._running is not None:
            self._running.seek(0)
            self._running.truncate(self._running.write(self._current[1]))

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


def minimized(choices: list[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """Remove numbers, or replace them by zero, while the case fails; for at most :data:`MINIMIZE` seconds."""
    until, size = time.monotonic() + MINIMIZE, len(choices)
    while size:
        for at in range(len(choices) - size, -1, -size):
            before, part, after = choices[:at], choices[at : at + size], choices[at + size :]
            if time.monotonic() > until:
                return choices
            if fails(before + after):
                choices = before + after
            elif any(part) and fails(before + [0] * size + after):
                choices = before + [0] * size + after
        size //= 2
    return choices


def in_a_process(target: str, seed: int, seconds: float | None, cases: int | None, found: Path) -> list[Figures]:
    """Run a target in a process; if a case kills it, save the case and continue in a new process.

    Returns:
        The figures of each process; for a killed process, without its last batches.
    """
    found.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    until = None if seconds is None else time.monotonic() + seconds
    results: list[Figures] = []
    first = 0
    while True:
        receive, send = context.Pipe(duplex=False)
        left = None if cases is None else cases - first
        process = context.Process(target=_work, args=(send, target, seed, until, left, first, found))
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
        first += latest.cases + BATCH
        running.unlink(missing_ok=True)
        results.append(latest)
        if not process.exitcode or (until is not None and time.monotonic() > until) or len(results) > 50:
            return results


def _work(
    send: object, target: str, seed: int, until: float | None, cases: int | None, first: int, found: Path
) -> None:
    import torch

    torch.set_num_threads(1)
    limit_memory()
    gc.freeze()  # collections do not traverse the libraries
    fuzzer = Fuzzer(target, found)
    tell: Callable[[Figures], None] = send.send  # type: ignore[attr-defined]
    while (cases is None or fuzzer.figures.cases < cases) and (until is None or time.monotonic() < until):
        done = fuzzer.figures.cases
        fuzzer.run(seed, BATCH if cases is None else min(BATCH, cases - done), until, first + done)
        tell(fuzzer.figures)
