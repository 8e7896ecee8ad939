"""Read, load, convert, draw and verify a changed file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

import dpnn_bridge
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.files.checkpoint import load_checkpoint
from dpnn_bridge.files.summary import lines, summarize
from dpnn_bridge.loaders import dumps, loads, read_all
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.parity.verify import verify
from dpnn_bridge.pictures import model_graph, page, to_dot, to_mermaid

from . import commands
from .graphs import use
from .watch import BrokenPromiseError, Watch

#: formats that are written without running the model
FORMATS = (".pt", ".safetensors", ".npz", ".t7", ".py", ".json")


def read(data: bytes, again: bool) -> None:
    """Read a .t7 from memory; write and read it again if ``again`` is True."""
    value = loads(data)
    use(value)
    if again and (found := difference(value, loads(dumps(value)))) is not None:
        raise BrokenPromiseError("a written value differs after reading back", found[:300])


def _load(watch: Watch, file: Path, random: Random) -> None:
    placeholders = random.randrange(2) == 0
    watch.run("load", lambda: dpnn_bridge.load(file, allow_unsupported=placeholders))


def _describe(watch: Watch, file: Path, random: Random) -> None:
    def described() -> None:
        description = describe(file)
        for line in description.lines(True):
            if not line.isprintable():
                raise BrokenPromiseError("describe returns control characters", ascii(line)[:300])
        description.to_dict()

    watch.run("describe", described)


def _convert(watch: Watch, file: Path, random: Random) -> None:
    convert_to(watch, file, random.choice(FORMATS))


def convert_to(watch: Watch, file: Path, suffix: str) -> None:
    """Convert a file, and read the output."""
    output = watch.folder / f"out{suffix}"
    written = watch.run(f"convert{suffix}", lambda: dpnn_bridge.convert(file, output), output.name)
    if not written or suffix not in (".pt", ".safetensors", ".t7"):
        return

    def again() -> None:
        try:
            dpnn_bridge.load(output) if suffix != ".t7" else dpnn_bridge.read_t7(output)
        except DpnnBridgeError as error:
            if "contains no model" not in str(error):  # data without a model
                raise BrokenPromiseError(f"a {suffix} that convert wrote is refused", str(error)[:300]) from error

    watch.run("load again", again)


def _draw(watch: Watch, file: Path, random: Random) -> None:
    def draw() -> None:
        with torch.no_grad():
            graph = model_graph(dpnn_bridge.load(file, allow_unsupported=True).eval(), None, histograms=True)
        for text in (page(graph, file.name, source=file), to_dot(graph, None), to_mermaid(graph, None)):
            for markup in ("\x1b[2J", "<script>x"):
                if (at := text.find(markup)) >= 0:
                    found = ascii(text[max(0, at - 100) : at + 100])
                    raise BrokenPromiseError("a picture contains markup of the file", found)

    watch.run("draw", draw)


def _backward(watch: Watch, file: Path, random: Random) -> None:
    watch.run("to_lua", lambda: dumps(dpnn_bridge.to_lua(dpnn_bridge.load(file))))


def _summarize(watch: Watch, file: Path, random: Random) -> None:
    watch.run("summarize", lambda: list(lines(summarize(file))))


def _checkpoint(watch: Watch, file: Path, random: Random) -> None:
    watch.run("load_checkpoint", lambda: repr(load_checkpoint(file)))


def _verify(watch: Watch, file: Path, random: Random) -> None:
    watch.run("verify", lambda: verify(file))


def _read_all(watch: Watch, file: Path, random: Random) -> None:
    watch.run("read_all", lambda: read_all(file))


#: action -> number of files of a thousand on which it runs
ACTIONS: dict[Callable[[Watch, Path, Random], None], int] = {
    _load: 270,
    _convert: 60,
    _describe: 30,
    _read_all: 20,
    _summarize: 20,
    _checkpoint: 10,
    _draw: 15,
    _backward: 15,
    _verify: 10,
    commands.one: 10,
}


def case(watch: Watch, suffix: str, data: bytes, random: Random) -> None:
    """Read a .t7, or load a .pt or .safetensors; then run at most one of the actions."""
    file = watch.folder / f"x{suffix}"
    if suffix == ".t7":
        again = random.randrange(10) == 0
        watch.run("read", lambda: read(data, again))
    else:
        file.write_bytes(data)
        watch.run("load", lambda: dpnn_bridge.load(file))
    at = random.randrange(1000)
    for action, share in ACTIONS.items():
        at -= share
        if at < 0:
            file.write_bytes(data)
            action(watch, file, random)
            return


def everything(watch: Watch, file: Path) -> None:
    """Run every action on a file."""
    if file.suffix == ".t7":
        watch.run("read", lambda: read(file.read_bytes(), True))
    for action in ACTIONS:
        for seed in range(3 if action in (_load, commands.one) else 1):
            action(watch, file, Random(seed))
            watch.clear(file.name)
    for suffix in FORMATS:
        convert_to(watch, file, suffix)
        watch.clear(file.name)
