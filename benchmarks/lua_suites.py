"""Run the test suites of Torch7's packages, unmodified, on the bridge, and print how many tests pass.

    python benchmarks/lua_suites.py CHECKOUTS [SUITE ...]

CHECKOUTS is a folder with torch7/, nn/, dpnn/ … as in their repositories. If ``DPNN_TORCH7`` names a real Torch7, each
suite runs there too. The table goes to stdout, and the output of the suites to ``--logs``.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dpnn_bridge.lua.torch7 import VARIABLE

_RUNNING = re.compile(r"(?m)^Running (\d+) tests?$")
_ENDED = re.compile(r"(\d+/\d+ \S+) \.* ?\[(PASS|FAIL|ERROR|WARN|SKIP)\]")


@dataclass(frozen=True)
class Suite:
    """How one suite is run.

    Attributes:
        folder: of the checkout, where the suite runs.
        code: Lua that runs it; without, each of ``files`` is a script.
        files: pattern of the scripts of a suite; one passes when it ends well.
    """

    folder: str
    code: str = ""
    files: str = ""


SUITES = {
    "torch7": Suite("torch7/test", "dofile 'test.lua' torch.test()"),
    "torch7 Tester": Suite("torch7/test", "dofile 'test_Tester.lua'"),
    "torch7 scripts": Suite("torch7/test", files="test_[!T]*.lua"),
    "nn": Suite("nn", "require 'nn' nn.test()"),
    "dpnn": Suite("dpnn", "require 'dpnn' dpnn.test()"),
    "rnn": Suite("rnn", "require 'rnn' rnn.test()"),
    "nngraph": Suite("nngraph/test", files="test_*.lua"),
    "graph": Suite("graph/test", files="test_*.lua"),
    "optim": Suite("optim/test", files="test_*.lua"),
    "nnx": Suite("nnx", "require 'nnx' nnx.test()"),
    "torchx": Suite("torchx", "require 'torchx' torchx.test()"),
    "torchnet": Suite("torchnet", "require('torchnet').test()"),
    "argcheck": Suite("argcheck/test", files="test.lua"),
    "torch-autograd": Suite("autograd/../test", "dofile 'test.lua'"),
    "OpenNMT": Suite("OpenNMT", "arg = {} dofile 'test/test.lua'"),
}


@dataclass
class Outcome:
    """What came of a suite: tests that passed, of how many, seconds of processor time, what cut it short."""

    passed: int
    tests: int
    seconds: float
    stopped: str = ""

    def __str__(self) -> str:
        count = f"{self.passed} of {self.tests}" if self.tests else "no test ran"
        return ", ".join(filter(None, [count, f"{self.seconds:.0f} s", self.stopped]))


def run(program: list[str], source: str, folder: Path, log: Path, limit: float) -> tuple[int, str]:
    """Exit code and text of a program that runs Lua code; -1 when it took longer than ``limit`` seconds."""
    script = log.with_suffix(".lua")
    script.write_text(f"{source}\n")
    command = [*program, str(script)]
    with log.open("a", errors="replace") as out:
        out.write(f"$ {shlex.join(command)}\n")
        out.flush()
        start = out.tell()
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    return code, re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")[start:])


def counts(text: str) -> tuple[int, int, int]:
    """Of what testers printed: tests that passed, that ended, and all, those that never began included."""
    parts = _RUNNING.split(text)[1:]  # a number of tests, what they printed, and so on
    passed = ended = 0
    for printed in parts[1::2]:
        results = dict(_ENDED.findall(printed))
        ended += len(results)
        passed += sum(result in ("PASS", "WARN") for result in results.values())
    return passed, ended, sum(map(int, parts[::2]))


def processor() -> float:
    """Seconds that the programs run so far took of a processor, which others on the machine do not change."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def outcome(suite: Suite, program: list[str], paths: str, checkouts: Path, log: Path, limit: float) -> Outcome:
    """Run a suite with a program, which finds packages in ``paths`` too."""
    log.write_text("")
    folder = checkouts / suite.folder
    start, stopped = processor(), ""
    found = f"package.path = package.path .. ';{paths}' "  # a th that sets LUA_PATH itself does not keep ours
    if suite.code:
        code, text = run(program, f"{found}torch.manualSeed(1) {suite.code}", folder, log, limit)
        passed, ended, tests = counts(text)
        if ended < tests or not tests:
            stopped = f"stopped after {limit:.0f} s" if code == -1 else f"ended with exit code {code}"
    else:
        scripts = sorted(folder.glob(suite.files))
        tests = len(scripts)
        codes = [run(program, f"{found}dofile '{s.name}'", folder, log, limit)[0] for s in scripts]
        passed = codes.count(0)
        if cut := [s.name for s, code in zip(scripts, codes, strict=True) if code == -1]:
            stopped = f"stopped after {limit:.0f} s: {', '.join(cut)}"
    return Outcome(passed, tests, processor() - start, stopped)


def main() -> None:
    parser = argparse.ArgumentParser(description="Suites of Torch7's packages on the bridge.")
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("suites", nargs="*", help="; ".join(SUITES))
    parser.add_argument("--logs", type=Path, default=Path("lua-suites"))
    parser.add_argument("--limit", type=float, default=900, help="seconds for one program")
    options = parser.parse_intermixed_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    checkouts = options.checkouts.absolute()
    paths = f"{checkouts}/?.lua;{checkouts}/?/init.lua"
    programs = {"bridge": [str(Path(sys.executable).with_name("dpnn-lua")), "-p", str(checkouts)]}
    if real := os.environ.get(VARIABLE):
        programs["Torch7"] = [real]
    print("| suite |", " | ".join(programs), "|", "\n|" + "---|" * (1 + len(programs)), flush=True)
    for name in options.suites or SUITES:
        suite = SUITES[name]
        if not (checkouts / suite.folder).is_dir():
            print(f"| {name} | no checkout |", flush=True)
            continue
        cells = []
        for label, program in programs.items():
            log = options.logs.absolute() / f"{name.replace(' ', '-')}.{label}.log"
            result = outcome(suite, program, "", checkouts, log, options.limit)
            if label != "bridge" and not result.passed:  # packages that this Torch7 has not installed
                result = outcome(suite, program, paths, checkouts, log, options.limit)
            cells.append(str(result))
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
