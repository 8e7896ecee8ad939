"""Run commands with changed files and options, in this process."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from click.testing import CliRunner

from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.verify import verify_command

from . import pytorch, t7
from .graphs import STRINGS
from .watch import BrokenPromiseError, Watch

#: command -> exit codes in its help
CODES = {
    "convert": {0, 2, 3, 4, 5, 6},
    "inspect": {0, 2, 3, 5, 6},
    "verify": {0, 2, 3, 4, 5, 6},
}
_COMMANDS: dict[str, Any] = {"convert": convert_command, "inspect": inspect_command, "verify": verify_command}
SUFFIXES = (".pt", ".safetensors", ".npz", ".t7", ".py", ".json", ".onnx", ".pt2", ".x", "")
KEYS = ("model", "module", "modules[1]", "[1]", "a.b", "", "[", "]", "model.", "\x1b[2J", "0", "nan", "{", "x" * 5000)


def file(random: Random) -> tuple[str, bytes]:
    """Return the name and content of a changed file."""
    suffix = random.choice([".t7", ".t7", ".t7", ".pt", ".safetensors", ".npz", ".x", ""])
    if suffix in (".pt", ".safetensors") or (suffix == ".x" and random.randrange(2)):
        return f"in{suffix}", pytorch.mutated(suffix if suffix != ".x" else ".pt", random)
    return f"in{suffix}", t7.mutated(random)


def one(watch: Watch, file: Path, random: Random) -> None:
    """Run one command on an existing file."""
    name = random.choice(["convert", "inspect", "verify"])
    arguments, outputs = {"convert": _convert, "inspect": _inspect, "verify": _verify}[name](file, random)
    watch.run(f"dpnn-{name}", lambda: _invoke(name, arguments, outputs), *outputs)


def _invoke(name: str, arguments: list[str], outputs: list[str]) -> None:
    before = {output for output in outputs if Path(output).exists()}
    result = CliRunner().invoke(_COMMANDS[name], arguments)
    words = " ".join(arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code not in CODES[name]:
        raise BrokenPromiseError(
            f"dpnn-{name} exits with {result.exit_code}", f"{words}: {ascii(result.output)[-300:]}"
        )
    for line in result.output.split("\n"):
        if not line.isprintable():
            raise BrokenPromiseError(f"dpnn-{name} prints control characters", f"{words}: {ascii(line)[:300]}")
    if "Traceback" in result.output:
        raise BrokenPromiseError(f"dpnn-{name} prints a traceback", f"{words}: {ascii(result.output)[-300:]}")
    if result.exit_code and name == "convert" and "--all" not in arguments:
        left = {output for output in outputs if Path(output).exists()} - before
        if left:
            raise BrokenPromiseError(f"dpnn-{name} fails and leaves {left}", words)
    if result.exit_code and not result.output.strip():
        raise BrokenPromiseError(f"dpnn-{name} fails without a message", words)


def _some(random: Random, *options: list[str]) -> list[str]:
    """Return some of the options, each with a probability of 1/6."""
    return [word for option in options if random.randrange(6) == 0 for word in option]


def _convert(file: Path, random: Random) -> tuple[list[str], list[str]]:
    target = f"out{random.choice(SUFFIXES)}"
    arguments = [str(file), target]
    outputs = [target, "report.json"]
    if random.randrange(8) == 0:
        arguments, outputs = [str(file), "--out-dir", "out"], ["out"]
    elif random.randrange(8) == 0:
        arguments += ["--all"]
        outputs = list(_all_names(file, target))
    else:
        arguments += _some(random, ["--report", "report.json"])
    arguments += _some(
        random,
        ["--key", random.choice(KEYS)],
        ["--dtype", random.choice(["float16", "float64", "int8"])],
        ["--to", random.choice(["pt", "t7", "npz", "x"])],
        ["--allow-unsupported"],
        ["--force"],
        ["-v"],
        ["--json"],
        ["--sha256", random.choice(["0" * 64, "x", ""])],
        ["--jobs", random.choice(["0", "1", "x"])],
        ["--plugin", random.choice(["none.py", str(file)])],
    )
    return arguments, outputs


def _all_names(file: Path, target: str) -> list[str]:
    """Return the names of the outputs of --all, which depend on the keys of the file."""
    from dpnn_bridge.batch import tasks_for_models
    from dpnn_bridge.errors import DpnnBridgeError
    from dpnn_bridge.files import model_keys

    try:
        return [Path(task.target).name for task in tasks_for_models(file, Path(target), model_keys(file))]
    except DpnnBridgeError:
        return []


def _inspect(file: Path, random: Random) -> tuple[list[str], list[str]]:
    picture = random.choice([[], [], ["--html", "page.html"], ["--dot"], ["--mermaid"]])
    arguments = [str(file), *picture]
    arguments += _some(
        random,
        ["--raw"],
        ["-v"],
        ["--json"],
        ["--key", random.choice(KEYS)],
        ["--limit", random.choice(["0", "5", "-1"])],
        ["--depth", random.choice(["0", "3", "99999"])],
        ["--mode", random.choice(["binary", "ascii", "x"])],
        ["--long-size", random.choice(["4", "8"])],
        ["--big-endian"],
        ["--input", random.choice(["1x3", "2x3x8x8", "x", "0", "1x3:int64", "1x3:nothing", "1x3:load", str(file)])],
        ["--plugin", random.choice(["none.py", str(file)])],
    )
    return arguments, ["page.html"]


def _verify(file: Path, random: Random) -> tuple[list[str], list[str]]:
    arguments = [str(file), *random.choice([[], [], [str(file)], ["none.pt"]])]
    arguments += _some(
        random,
        ["--reference", str(file)],
        ["--input", random.choice(["1x3", "2x3x8x8", "x", str(file), "1x3:load"])],
        ["--output", str(file)],
        ["--key", random.choice(KEYS)],
        ["--mode", random.choice(["train", "eval", "x"])],
        ["--dtype", random.choice(["float16", "float64"])],
        ["--rtol", random.choice(["0", "nan", "inf", "-1", "x"])],
        ["--known-differences", random.choice([str(file), "none.json"])],
        ["--html", random.choice(["page.html", str(file), "."])],
        ["--device", random.choice(["cuda", "meta", "nowhere", random.choice(STRINGS).replace("\0", "")])],
        ["--allow-unsupported"],
        ["--json"],
        ["-v"],
        ["-q"],
    )
    return arguments, ["page.html"]
