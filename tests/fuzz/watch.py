"""What every case must keep: errors of ours alone, a second of time, bounded memory, plain messages, nothing left."""

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

from hypothesis.errors import StopTest

import dpnn_bridge
from dpnn_bridge.errors import DpnnBridgeError

#: seconds of processor time that a case may take, and after which it is ended
SECONDS, ENDED = 1.0, 20.0
#: bytes that a case may take beside what the process holds already: converting has a budget of 64 MiB, and what is
#: written is read back
BYTES = 320 << 20

_PACKAGE = os.path.dirname(dpnn_bridge.__file__)


class BrokenPromiseError(Exception):
    """A promise that a case broke.

    Attributes:
        kind: what is the same for all cases of one cause.
    """

    def __init__(self, kind: str, message: str = "") -> None:
        self.kind = kind
        super().__init__(f"{kind}: {message}" if message else kind)


class Endless(BaseException):
    """Ends a case that takes too long; nothing in the package catches it."""


@dataclass
class Figures:
    """What was run, and what was found.

    Attributes:
        cases: number of them.
        done: name of an action -> how often it ended well.
        errors: name of an error of ours -> how often.
        wrapped: place where a foreign error was raised that became one of ours -> how often.
        seconds, bytes: the most that a case took.
        flaky: kind of a finding that did not come again -> its messages.
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
            *(f"  wrapped {count:,}: {place}" for place, count in self.wrapped.most_common(40)),
            f"{len(self.found)} findings, and {sum(map(len, self.flaky.values()))} that did not come again",
            *(f"  {kind}: {message}" for kind, message in self.found.items()),
            *(f"  once: {message}" for messages in self.flaky.values() for message in messages),
        ]
        return "\n".join(lines)


class Watch:
    """Runs actions in a folder of their own.

    Args:
        figures: where they are counted.
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
        """While it lasts the folder is the current one, and temporary files go to one beside it."""
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
        """Whether an action ended well; it may end with an error of ours.

        Args:
            name: of the action.
            outputs: files that may be there when it ended well. Those that were there before may stay in any case.

        Raises:
            BrokenPromiseError: it broke a promise.
        """
        before = set(os.listdir(self.folder))
        well, seconds, taken = self._once(name, action)
        if seconds > SECONDS or taken > BYTES:  # the first time may have imported a library, or collected garbage
            for output in outputs:
                Path(self.folder, output).unlink(missing_ok=True)
            gc.collect()
            again = self._once(name, action)
            well, seconds, taken = again[0], min(seconds, again[1]), min(taken, again[2])
        self.figures.seconds = max(self.figures.seconds, seconds)
        self.figures.bytes = max(self.figures.bytes, taken)
        if seconds > SECONDS:
            raise BrokenPromiseError(f"{name} is slow", f"{seconds:.1f} s")
        if taken > BYTES:
            raise BrokenPromiseError(f"{name} takes memory", f"{taken >> 20} MiB")
        allowed = before | set(outputs) if well else before
        left = [*set(os.listdir(self.folder)) - allowed, *os.listdir(self._temporary)]
        left = [name for name in left if not name.startswith("torchinductor_")]  # PyTorch's own cache
        if left:
            self.clear(*before)
            raise BrokenPromiseError(f"{name} leaves files", ", ".join(left))
        if well:
            self.figures.done[name] += 1
        return well

    def _once(self, name: str, action: Callable[[], object]) -> tuple[bool, float, int]:
        held = _peak(reset=True)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, ENDED)
        well = False
        try:
            action()
            well = True
        except DpnnBridgeError as error:
            self._ours(name, error)
        except Endless:
            raise BrokenPromiseError(f"{name} does not end") from None
        except (BrokenPromiseError, KeyboardInterrupt, StopTest):  # StopTest: Hypothesis has no more random data
            raise
        except BaseException as error:
            raise BrokenPromiseError(
                f"{name} raises {type(error).__name__} at {place_of(error)}", str(error)[:300]
            ) from error
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return well, time.process_time() - start, _peak() - held

    def _ours(self, name: str, error: DpnnBridgeError) -> None:
        self.figures.errors[type(error).__name__] += 1
        check_message(name, str(error))
        cause = error.__cause__
        if cause is not None and f": {type(cause).__name__}" in str(error):  # the boundary says it with these words
            place = f"{name}: {type(cause).__name__} at {place_of(cause)}"
            self.figures.wrapped[place] += 1
            if name in ("read", "describe"):
                raise BrokenPromiseError(f"{name} meets {type(cause).__name__} at {place_of(cause)}", str(error)[:300])

    def clear(self, *kept: str) -> None:
        """Removes everything from the folders but the files that are named."""
        for folder in (self.folder, self._temporary):
            for path in sorted(folder.rglob("*"), reverse=True):
                if path.relative_to(folder).parts[0] not in kept:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def check_message(name: str, text: str) -> None:
    """Raises a :class:`BrokenPromiseError` unless a message can be shown on a terminal, and is no book."""
    if not all(line.isprintable() for line in text.split("\n")):
        raise BrokenPromiseError(f"{name} gives control characters", ascii(text)[:300])
    if len(text) > 50_000:
        raise BrokenPromiseError(f"{name} gives {len(text)} characters")


def place_of(error: BaseException) -> str:
    """The innermost line of the package that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(_PACKAGE) and not f.filename.endswith("boundary.py")]
    frame = (own or frames)[-1]
    return f"{os.path.relpath(frame.filename, os.path.dirname(_PACKAGE))}:{frame.lineno}"


def _end(*_: object) -> None:
    raise Endless


def _peak(*, reset: bool = False) -> int:
    """The most memory that the process held since the last reset, in bytes; what it holds at a reset."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    except OSError:  # no Linux, or not permitted: memory is bounded by the limit of the process alone
        return 0
