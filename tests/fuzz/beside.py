"""Change files other than models: manifests, indices, references, numpy archives, messages of a sandbox."""

from __future__ import annotations

import functools
import io
import json
import os
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from torch import nn

import dpnn_bridge
from dpnn_bridge.batch.manifest import last_lines
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.lua.wire import Channel
from dpnn_bridge.parity.verify import verify

from . import commands
from .plain import edited
from .t7 import REPOSITORY, changed_file, corpus, in_bytes
from .watch import Watch

#: maximum number of bytes of a message
LIMIT = 1 << 24

Files = dict[str, bytes]


@functools.cache
def model() -> Files:
    """Return the files of a small model, its converted forms and their manifest: name -> content."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            dpnn_bridge.save(home / "m.t7", nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)))
        for suffix in (".pt", ".npz"):
            dpnn_bridge.convert(home / "m.t7", home / f"m{suffix}")
        dpnn_bridge.convert(home / "m.t7", home / "s.safetensors", max_shard_size="30B")
        words = [str(home / "m.t7"), "--out-dir", str(home / "out"), "--manifest", str(home / "done.jsonl")]
        result = CliRunner().invoke(convert_command, words)
        assert result.exit_code == 0, result.output
        files = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
        manifest = files.pop("done.jsonl").replace(str(home).encode(), b".").replace(b"./out/", b"./")
        return {**files, "done.jsonl": manifest}


def _json(data: bytes, random: Random) -> bytes:
    """Return JSON with changed values or bytes."""
    if random.randrange(4) == 0:
        return in_bytes(data, data, random)
    return json.dumps(edited(json.loads(data), random), ensure_ascii=random.randrange(2) == 0).encode(
        "utf-8", "surrogatepass"
    )


# ---------------------------------------------------------------------- files and action of each target
def manifest(random: Random) -> Files:
    lines = [_json(line, random) for line in model()["done.jsonl"].splitlines() * random.choice([1, 1, 3])]
    return {**model(), "x.jsonl": b"\n".join(lines) + b"\n" * random.randrange(2)}


def _manifest(watch: Watch, random: Random) -> None:
    watch.run("manifest", lambda: last_lines(Path("x.jsonl")))
    words = ["x.jsonl", *random.choice([[], [], ["--json"], ["-q"]])]
    watch.run("dpnn-verify", lambda: commands._invoke("verify", words, []))


def index(random: Random) -> Files:
    name = "s.safetensors.index.json"
    files = dict(model())
    if random.randrange(4) == 0:
        shard = random.choice([n for n in files if n.startswith("s-")])
        return {**files, f"x{name[1:]}": files[name], shard: in_bytes(files[shard], files[shard], random)}
    return {**files, f"x{name[1:]}": _json(files[name], random)}


def _index(watch: Watch, random: Random) -> None:
    file = Path("x.safetensors.index.json")
    watch.run("load", lambda: dpnn_bridge.load(file))
    other = random.randrange(6)
    if other == 0:
        watch.run("describe", lambda: list(describe(file).lines(True)))
    elif other == 1:
        watch.run("convert", lambda: dpnn_bridge.convert(file, "out.t7"), "out.t7")
    elif other == 2:
        watch.run("verify", lambda: verify("m.t7", converted=file))


@functools.cache
def _references() -> list[tuple[bytes, bytes]]:
    """Return pairs of a model and a fixture with its results in Torch7."""
    found = []
    for name in ("nn/nn.Linear", "nn/nn.Sequential", "nn/nn.LookupTable", "nn/nn.ParallelTable", "rnn/nn.GRU"):
        for path in sorted((REPOSITORY / "fixtures" / name).glob("*.t7"))[:2]:
            data = path.read_bytes()
            if len(data) < 1 << 14:
                module = dpnn_bridge.read_t7(data)["module"]
                found.append((dpnn_bridge.loaders.dumps(module), data))
    return found


def reference(random: Random) -> Files:
    whole, values = random.choice(_references())
    known = json.dumps([edited({"files": ["*"], "compared": ["output*"], "reason": "x"}, random)]).encode()
    return {"m.t7": whole, "x.t7": changed_file(values, corpus(), random), "known.json": known}


def _reference(watch: Watch, random: Random) -> None:
    words = ["m.t7", "--reference", "x.t7"]
    words += random.choice([[], [], ["--json"], ["--known-differences", "known.json"], ["--html", "page.html"]])
    watch.run("dpnn-verify", lambda: commands._invoke("verify", words, ["page.html"]), "page.html")


def npz(random: Random) -> Files:
    data = io.BytesIO()
    weights = dict(np.load(io.BytesIO(model()["m.npz"])))
    method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, array in weights.items():
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            if random.randrange(3) == 0:
                header = edited(header, random)
            text = repr(header).encode("latin-1", "replace") + b"\n"
            version = random.choice([1, 1, 1, 2, 3])
            size = len(text).to_bytes(2 if version == 1 else 4, "little") if len(text) < 1 << 16 else b"\xff\xff"
            body = b"\x93NUMPY" + bytes([version, 0]) + size + text + array.tobytes()
            archive.writestr(f"{name}.npy", body if random.randrange(3) else in_bytes(body, body, random))
    return {
        **model(),
        "x.npz": data.getvalue() if random.randrange(2) else in_bytes(data.getvalue(), data.getvalue(), random),
    }


def _npz(watch: Watch, random: Random) -> None:
    if random.randrange(4) == 0:
        watch.run("dpnn-verify", lambda: commands._invoke("verify", ["m.t7", "x.npz"], []))
    else:
        watch.run("verify", lambda: verify("m.t7", converted="x.npz"))


def wire(random: Random) -> Files:
    values = {"s": ["value", {"l": [{"t": 0}, {"d": [["k", {"b": 1}], [1, None]]}, {"r": [1, "table", "x"]}]}]}
    content = {"value": values, "blobs": [["float32", [2, 2]], ["bytes", [3]]]}
    text = json.dumps(content).encode()
    text = _json(text, random) if random.randrange(4) else text
    message = struct.pack("<Q", len(text)) + text + bytes(random.choice([19, 19, 19, 19, 18, 40, 0]))
    return {"x.wire": message if random.randrange(4) else in_bytes(message, message, random)}


def _wire(watch: Watch, random: Random) -> None:
    data = Path("x.wire").read_bytes()

    def receive() -> None:
        (read, theirs), (mine, write) = os.pipe(), os.pipe()
        try:
            os.write(theirs, data[: 1 << 16])
            os.close(theirs)
            Channel(read, write, LIMIT).receive(lambda content: tuple(content), time.monotonic() + 10)
        finally:
            for descriptor in (read, mine, write):
                os.close(descriptor)

    watch.run("receive", receive)


#: target -> function that creates its files, of which the file whose name begins with x is changed, and its action
TARGETS: dict[str, tuple[Callable[[Random], Files], Callable[[Watch, Random], Any]]] = {
    "manifest": (manifest, _manifest),
    "index": (index, _index),
    "reference": (reference, _reference),
    "npz": (npz, _npz),
    "wire": (wire, _wire),
}


def again(watch: Watch, target: str, changed: bytes) -> None:
    """Run the action of a target on its files and an earlier changed file."""
    make, act = TARGETS[target]
    files = make(Random(0))
    name = next(name for name in files if name.startswith("x"))
    for seed in range(6):
        case(watch, {**files, name: changed}, act, Random(seed))
        watch.clear()


def case(watch: Watch, files: Files, act: Callable[[Watch, Random], Any], random: Random) -> None:
    """Write the files, and run an action on them."""
    for name, data in files.items():
        (watch.folder / name).write_bytes(data)
    act(watch, random)
