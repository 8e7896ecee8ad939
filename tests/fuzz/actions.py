"""What is done with a changed file."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch

import dpnn_bridge
from dpnn_bridge.checkpoint import load_checkpoint
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.loaders import dumps, loads, read_all
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.parity.verify import verify
from dpnn_bridge.pictures import model_graph, page, to_dot, to_mermaid
from dpnn_bridge.summary import lines, summarize

from . import commands
from .graphs import use
from .watch import BrokenPromiseError, Watch

#: formats that are written without running the model
FORMATS = (".pt", ".safetensors", ".npz", ".t7", ".py", ".json")


def t7(watch: Watch, data: bytes, random: Random) -> None:
    """Reads the file, and often does more with it."""
    read = watch.run("read", lambda: _read(data, random.randrange(10) == 0))
    action = random.randrange(100)
    if action < 55:
        return
    file = watch.folder / "x.t7"
    file.write_bytes(data)
    if action < 82:
        watch.run("load", lambda: dpnn_bridge.load(file, allow_unsupported=random.randrange(2) == 0))
    elif action < 86:
        watch.run("describe", lambda: _describe(file))
    elif action < 88:
        watch.run("read_all", lambda: read_all(file))
    elif read:
        _more(watch, file, action, random)


def converted(watch: Watch, name: str, data: bytes, random: Random) -> None:
    """Loads a .pt or .safetensors, and often does more with it."""
    file = watch.folder / name
    file.write_bytes(data)
    loaded = watch.run("load", lambda: dpnn_bridge.load(file))
    action = 88 + random.randrange(24)
    if loaded and action < 100:
        _more(watch, file, action, random)


def _read(data: bytes, again: bool) -> None:
    value = loads(data)
    use(value)
    if again and (found := difference(value, loads(dumps(value)))) is not None:
        raise BrokenPromiseError("what is written reads as something else", found[:300])


def _describe(file: Path) -> None:
    description = describe(file)
    for line in description.lines(True):
        if not line.isprintable():
            raise BrokenPromiseError("describe gives control characters", ascii(line)[:300])
    description.to_dict()


def _more(watch: Watch, file: Path, action: int, random: Random) -> None:
    if action < 92:
        output = f"out{random.choice(FORMATS)}"
        if watch.run(f"convert{Path(output).suffix}", lambda: dpnn_bridge.convert(file, output), output):
            if output != "out.json" and output != "out.npz" and output != "out.py":
                _again(watch, watch.folder / output)
    elif action < 94:
        watch.run("summarize", lambda: [line for _, line in lines(summarize(file))])
    elif action < 95:
        watch.run("load_checkpoint", lambda: repr(load_checkpoint(file)))
    elif action < 97:
        watch.run("draw", lambda: _draw(file))
    elif action < 98:
        watch.run("verify", lambda: verify(file))
    elif action < 99:
        watch.run("backward", lambda: dumps(dpnn_bridge.to_lua(dpnn_bridge.load(file))))
    else:
        commands.one(watch, file, random)


def _again(watch: Watch, output: Path) -> None:
    """What was written can be read."""
    kept = output.read_bytes()

    def again() -> None:
        try:
            dpnn_bridge.load(output) if output.suffix != ".t7" else dpnn_bridge.read_t7(output)
        except DpnnBridgeError as error:
            if "holds no model" in str(error) or "not written by dpnn_bridge" in str(error):
                return  # data without a model is written as such
            raise BrokenPromiseError(f"a {output.suffix} that convert wrote is refused", str(error)[:300]) from error

    watch.run("load again", again)
    assert output.read_bytes() == kept


def _draw(file: Path) -> None:
    with torch.no_grad():
        graph = model_graph(dpnn_bridge.load(file, allow_unsupported=True).eval(), None, histograms=True)
    for text in (page(graph, file.name, source=file), to_dot(graph, None), to_mermaid(graph, None)):
        for markup in ("\x1b[2J", "<script>x"):
            if (at := text.find(markup)) >= 0:
                raise BrokenPromiseError(
                    "a picture takes markup from the file", ascii(text[max(0, at - 100) : at + 100])
                )
