"""Check each case: only errors of dpnn_bridge, one second, bounded memory, printable messages, no remaining files."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dpnn_bridge
from dpnn_bridge.errors import DpnnBridgeError

#: seconds of CPU time that a case may take, and after which it is stopped
SECONDS, ENDED = 1.0, 20.0
#: additional memory that a case may use: a conversion has a budget of 64 MiB, and outputs are read back
BYTES = 320 << 20

_PACKAGE = os.path.dirname(dpnn_bridge.__file__)


class BrokenPromiseError(Exception):
    """A promise that a case broke.

    Attributes:
        kind: description that is equal for all cases with the same cause.
    """

    def __init__(self, kind: str, message: str = "") -> None:
        self.kind = kind
        super().__init__(f"{kind}: {message}" if message else kind)


class Endless(BaseException):
    """Ends a case that takes too long. No code of the package catches it."""


@dataclass
class Figures:
    """Numbers of cases and results.

    Attributes:
        cases: number of cases.
        done: name of an action -> number of runs without an error.
        errors: name of an error class of dpnn_bridge -> number.
        wrapped: line that raised another exception, which was converted to an error of dpnn_bridge -> number.
        seconds, bytes: maximum time and memory of a case.
        flaky: kind of a finding that could not be reproduced -> its messages.
        found: kind of a finding -> its message.
    """

    cases: int = 0
    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrapped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    bytes: int = 0
    flaky: dict[str, list[str]] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{self.cases:,} cases; most: {self.seconds:.2f} s, {self.bytes / 2**20:.0f} MiB",
            "done: " + ", ".join(f"{name} {count:,}" for name, count in self.done.most_common()),
            "errors: " + ", ".join(f"{name} {count:,}" for name, count in self.errors.most_common()),
            *(f"  wrapped {count:,}: {line}" for line, count in self.wrapped.most_common(40)),
            f"{len(self.found)} findings, and {sum(map(len, self.flaky.values()))} that could not be reproduced",
            *(f"  {kind}: {message}" for kind, message in self.found.items()),
            *(f"  once: {message}" for messages in self.flaky.values() for message in messages),
        ]
        return "\n".join(lines)


class Watch:
    """Runner for actions in a temporary folder.

    Args:
        figures: the numbers to update.
    """

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self._home = tempfile.TemporaryDirectory(prefix="dpnn-fuzz-", ignore_cleanup_errors=True)
        self.folder = Path(self._home.name, "work")
        self._temporary = Path(self._home.name, "temporary")
        self.folder.mkdir()
        self._temporary.mkdir()

    @contextmanager
    def working(self) -> Iterator[Watch]:
        """Change to the folder for the ``with`` block, and use another folder for temporary files."""
        before = os.getcwd(), tempfile.tempdir, signal.signal(signal.SIGVTALRM, _end)
        os.chdir(self.folder)
        tempfile.tempdir = str(self._temporary)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield self
        finally:
            os.chdir(before[0])
            tempfile.tempdir = before[1]
            signal.signal(signal.SIGVTALRM, before[2])
            self._home.cleanup()

    def run(self, name: str, action: Callable[[], object], *outputs: str) -> bool:
        """Run an action; return False if it raises an error of dpnn_bridge.

        Args:
            name: name of the action.
            action: the action.
            *outputs: files that the action may write. Existing files may remain in any case.

        Raises:
            BrokenPromiseError: the action broke a promise.
        """
        before = set(os.listdir(self.folder))
        succeeded, seconds, taken = self._once(name, action)
        if seconds > SECONDS or taken > BYTES:  # the first run may have imported a library or collected garbage
            for output in outputs:
                Path(self.folder, output).unlink(missing_ok=True)
            gc.collect()
            again = self._once(name, action)
            succeeded, seconds, taken = again[0], min(seconds, again[1]), min(taken, again[2])
        self.figures.seconds = max(self.figures.seconds, seconds)
        self.figures.bytes = max(self.figures.bytes, taken)
        if seconds > SECONDS:
            raise BrokenPromiseError(f"{name} is slow", f"{seconds:.1f} s")
        if taken > BYTES:
            raise BrokenPromiseError(f"{name} takes memory", f"{taken >> 20} MiB")
        allowed = before | set(outputs) if succeeded else before
        left = [*set(os.listdir(self.folder)) - allowed, *os.listdir(self._temporary)]
        left = [name for name in left if not name.startswith("torchinductor_")]  # PyTorch's own cache
        if left:
            self.clear(*before)
            raise BrokenPromiseError(f"{name} leaves files", ", ".join(left))
        if succeeded:
            self.figures.done[name] += 1
        return succeeded

    def _once(self, name: str, action: Callable[[], object]) -> tuple[bool, float, int]:
        held = _peak(reset=True)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, ENDED)
        succeeded = False
        try:
            action()
            succeeded = True
        except DpnnBridgeError as error:
            self._check_error(name, error)
        except Endless:
            raise BrokenPromiseError(f"{name} does not end") from None
        except (BrokenPromiseError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise BrokenPromiseError(
                f"{name} raises {type(error).__name__} at {line_of(error)}", str(error)[:300]
            ) from error
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return succeeded, time.process_time() - start, _peak() - held

    def _check_error(self, name: str, error: DpnnBridgeError) -> None:
        self.figures.errors[type(error).__name__] += 1
        check_message(name, str(error))
        cause = error.__cause__
        if cause is not None and f": {type(cause).__name__}" in str(error):  # the message of base/boundary.py
            line = f"{name}: {type(cause).__name__} at {line_of(cause)}"
            self.figures.wrapped[line] += 1
            if name in ("read", "describe"):
                raise BrokenPromiseError(
                    f"{name} converts {type(cause).__name__} at {line_of(cause)}", str(error)[:300]
                )

    def clear(self, *kept: str) -> None:
        """Remove everything from both folders except the files in ``kept``."""
        for folder in (self.folder, self._temporary):
            for path in sorted(folder.rglob("*"), reverse=True):
                if path.relative_to(folder).parts[0] not in kept:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def check_message(name: str, text: str) -> None:
    """Raise a :class:`BrokenPromiseError` if a message has control characters or more than 50,000 characters."""
    if not all(line.isprintable() for line in text.split("\n")):
        raise BrokenPromiseError(f"{name} returns control characters", ascii(text)[:300])
    if len(text) > 50_000:
        raise BrokenPromiseError(f"{name} returns {len(text)} characters")


def line_of(error: BaseException) -> str:
    """Return the innermost line of the package in the traceback of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(_PACKAGE) and not f.filename.endswith("boundary.py")]
    frame = (own or frames)[-1]
    return f"{os.path.relpath(frame.filename, os.path.dirname(_PACKAGE))}:{frame.lineno}"


def _end(*_: object) -> None:
    raise Endless


def _peak(*, reset: bool = False) -> int:
    """Return the peak memory of the process since the last reset in bytes; at a reset, its present memory."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    except OSError:  # not Linux, or not permitted: only the limit of the process applies
        return 0
