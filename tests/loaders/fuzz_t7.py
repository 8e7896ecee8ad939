"""Mutates .t7 files and reads them: ``python tests/loaders/fuzz_t7.py --minutes 10`` with the repository on PYTHONPATH.

Anything but a value or a :class:`T7Error` is a failure: another exception, more than a few seconds, or more memory than
the limit of the process. Each mutation follows from its number alone, so that ``--only NUMBER`` repeats one.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpnn_bridge.errors import T7Error
from dpnn_bridge.loaders import dumps, loads
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

INTERESTING = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -2, 32, 33, 255, 256, 2**31 - 1, -(2**31), 2**30, 65536]
SECONDS = 10


def walk(value: Any) -> Iterator[Any]:
    """Every value of a graph once."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, LuaTable):
            for pair in value.items():
                stack += pair
        elif isinstance(value, LuaObject):
            stack += [value.payload, *value.header]
        elif isinstance(value, LuaFunction):
            stack.append(value.upvalues)
        elif isinstance(value, LuaTensor):
            stack.append(value.storage)


def use(value: Any) -> None:
    """Touch everything in a graph: every storage, every view, its ends."""
    for part in walk(value):
        if isinstance(part, LuaStorage):
            assert len(part.numpy()) == part.size
        elif isinstance(part, LuaTensor):
            array = part.numpy()
            if array.size:
                array[(0,) * array.ndim]
                array[(-1,) * array.ndim]


def mutate(original: bytes, other: bytes, random: random.Random) -> bytes:
    """``original`` with one to four changes."""
    data = bytearray(original)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = random.randrange(256)
        elif kind == 2:
            data[at : at + 4] = struct.pack(random.choice("<>") + "i", random.choice(INTERESTING))
        elif kind == 3:
            data[at : at + 8] = struct.pack("<q", random.choice(INTERESTING) << random.choice([0, 0, 30, 32]))
        elif kind == 4:
            del data[at : at + random.choice([1, 4, 8, 12, 40])]
        elif kind == 5:
            data[at:at] = data[at : at + random.choice([1, 4, 8, 12, 40])]
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            start = random.randrange(len(other) + 1)
            data[at : at + random.choice([0, 4, 8, 64])] = other[start : start + random.choice([4, 8, 64, 256])]
        elif kind == 8:  # an int of the file itself, changed a little
            at &= ~3
            if at + 4 <= len(data):
                value = struct.unpack_from("<i", data, at)[0] + random.choice([-1, 1, 4, 8, 1000])
                struct.pack_into("<I", data, at, value & 0xFFFFFFFF)
    return bytes(data)


@dataclass
class Report:
    """What a run found."""

    count: int = 0
    read: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0


class Fuzzer:
    """Mutates files.

    Args:
        seed: mutation ``n`` follows from ``seed + n``.
        files: where mutations begin; files above 64 KiB are left out.
    """

    def __init__(self, seed: int, files: list[Path]) -> None:
        self.seed = seed
        self.corpus = [data for file in files if 0 < len(data := file.read_bytes()) <= 1 << 16]

    def mutation(self, number: int) -> bytes:
        """The mutation with this number."""
        source = random.Random(self.seed + number)
        return mutate(source.choice(self.corpus), source.choice(self.corpus), source)

    def run(self, count: int | None = None, seconds: float | None = None, first: int = 0) -> Report:
        """Read mutations until ``count`` or ``seconds`` are reached."""
        report, start = Report(), time.monotonic()
        previous = signal.signal(signal.SIGALRM, _too_slow)
        try:
            while report.count != count and (seconds is None or time.monotonic() - start < seconds):
                self._one(first + report.count, report)
                report.count += 1
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        report.seconds = time.monotonic() - start
        return report

    def _one(self, number: int, report: Report) -> None:
        data = self.mutation(number)
        start = time.monotonic()
        signal.alarm(SECONDS)
        try:
            value = loads(data)
            use(value)
            if number % 10 == 0:
                found = difference(value, loads(dumps(value)))
                assert found is None, found
            report.read += 1
        except T7Error as error:
            report.errors[type(error).__name__] += 1
            if not str(error).isprintable():
                report.failures.append(f"{number}: message with control characters: {str(error)!r}")
        except BaseException as error:
            report.failures.append(f"{number}: {type(error).__name__}: {error}")
            if isinstance(error, KeyboardInterrupt):
                raise
        signal.alarm(0)
        report.slowest = max(report.slowest, time.monotonic() - start)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main() -> None:
    """Fuzz from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, default=Path(__file__).parents[2] / "fixtures")
    parser.add_argument("--count", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="write this mutation to mutation.t7 instead of running")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="address space of the process")
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed, sorted(arguments.fixtures.rglob("*.t7")))
    if arguments.only is not None:
        Path("mutation.t7").write_bytes(fuzzer.mutation(arguments.only))
        return
    limit = int(arguments.gigabytes * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seconds = arguments.minutes * 60 if arguments.minutes else None
    report = fuzzer.run(arguments.count or (None if seconds else 10_000), seconds, arguments.first)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{report.count} mutations of {len(fuzzer.corpus)} files in {report.seconds:.0f} s: {report.read} read,")
    print(f"{dict(report.errors)}; slowest {report.slowest:.3f} s, peak memory {peak:.0f} MiB")
    print(f"{len(report.failures)} failures", *report.failures[:20], sep="\n")
    raise SystemExit(bool(report.failures))


if __name__ == "__main__":
    main()
