"""Change .pt and .safetensors files: values, graphs, records, headers, bytes."""

from __future__ import annotations

import functools
import io
import itertools
import json
import pickletools
import struct
import tempfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from dpnn_bridge.conversion import to_torch
from dpnn_bridge.loaders import loads
from dpnn_bridge.outputs import container, safetensors_writer

from .graphs import STRINGS
from .plain import edited
from .t7 import CORPUS, REPOSITORY, in_bytes

#: fixtures whose files have different content: tensors, tables, shared parameters, a criterion
MODELS = (
    "nn/nn.Linear",
    "nn/nn.SpatialConvolution",
    "nn/nn.LookupTable",
    "nn/nn.BatchNormalization",
    "nn/nn.ConcatTable",
    "nn/nn.Identity",
    "nn/nn.ClassNLLCriterion",
    "nn/nn.SpatialConvolutionMap",
    "rnn/nn.FastLSTM",
)

Content = dict[str, Any]


@functools.cache
def contents() -> list[Content]:
    """Return the content of .pt files of small models."""
    found = []
    for name in MODELS:
        for path in sorted((REPOSITORY / "fixtures" / name).glob("*.t7"))[:2]:
            root = loads(path.read_bytes())
            module = to_torch(root["module"])
            metadata = {"key": "module", "checkpoint": {"epoch": 3, "notes": ["a", 1.5]}, "origin": "sha256:0-0"}
            found.append(container.pack(module, metadata))
    return found


@functools.cache
def corpus(suffix: str) -> list[bytes]:
    """Return unchanged files."""
    write = pt_file if suffix == ".pt" else safetensors_file
    return [write(content) for content in contents()] + [p.read_bytes() for p in sorted(CORPUS.glob(f"*{suffix}"))]


def pt_file(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def safetensors_file(content: Content) -> bytes:
    parts = {name: safetensors_writer.part_of(tensor) for name, tensor in content["state_dict"].items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        safetensors_writer.write(path, parts, safetensors_writer.strings_of(content))
        return path.read_bytes()


def mutated(suffix: str, random: Random) -> bytes:
    """Return a changed file."""
    kind = random.randrange(10)
    if kind < 4:
        return _with_other_content(suffix, random)
    files = corpus(suffix)
    original = random.choice(files)
    if kind < 8:
        return _in_records(original, random) if suffix == ".pt" else _in_header(original, random)
    return in_bytes(original, random.choice(files), random)


def _with_other_content(suffix: str, random: Random) -> bytes:
    content = dict(random.choice(contents()))
    kind = random.randrange(6)
    if kind < 4:
        content["graph"] = json.dumps(edited(json.loads(content["graph"]), random))
    elif kind == 4:
        part = random.choice(["constants", "state_dict"])
        content[part] = _other_tensors(content[part], random)
    else:
        content = edited(content, random)
    try:
        return pt_file(content) if suffix == ".pt" else safetensors_file(content)
    except Exception:  # the libraries cannot write it
        return random.choice(corpus(suffix))


def _other_tensors(part: Any, random: Random) -> Any:
    names = list(part) if isinstance(part, dict) else list(range(len(part)))
    held: Any = dict(part) if isinstance(part, dict) else list(part)
    name = random.choice([*names, "x"] if isinstance(held, dict) else names or [0])
    value = torch.zeros(random.choice([(), (0,), (1,), (3,), (2, 3), (1000, 1000)]))
    value = value.to(
        random.choice([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16])
    )
    if random.randrange(4) == 0 and 0 < value.numel() < 100:
        value = value.reshape(-1)[:1].expand(random.choice([1, 7, 2**20]))
    if isinstance(held, list) and not held:
        return [value]
    held[name] = value  # type: ignore[index]
    return held


# ---------------------------------------------------------------------- records of a .pt
def _in_records(original: bytes, random: Random) -> bytes:
    """Return an archive with a changed pickle, record, name, compression method or directory."""
    try:
        with zipfile.ZipFile(io.BytesIO(original)) as archive:
            records = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError):
        return original
    kind = random.randrange(8)
    at = random.randrange(len(records))
    name, data = records[at]
    if kind < 3:
        at = next(i for i, (name, _) in enumerate(records) if name.endswith("data.pkl"))
        records[at] = records[at][0], _in_pickle(records[at][1], random)
    elif kind == 3:
        records[at] = name, in_bytes(data, records[0][1], random)
    elif kind == 4:
        records[at] = random.choice(["x", "../x", "/x", "archive/../../x", "archive/data/0", *STRINGS]), data
    elif kind == 5:
        records.append(random.choice(records) if random.randrange(2) else (name, b"x" * random.choice([0, 9, 70000])))
    elif kind == 6:
        del records[at]
    method = random.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]) if kind == 7 else 0
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode()), data, method)
    return _in_directory(buffer.getvalue(), random) if random.randrange(4) == 0 else buffer.getvalue()


def _in_directory(data: bytes, random: Random) -> bytes:
    """Return an archive with another number in a header."""
    signature, numbers = random.choice(
        [
            (b"PK\x03\x04", (6, 8, 18, 22, 26, 28)),
            (b"PK\x01\x02", (8, 10, 20, 24, 28, 30, 42)),
            (b"PK\x05\x06", (8, 10, 12, 16)),
        ]
    )
    places = [i for i in range(len(data) - 46) if data.startswith(signature, i)] or [len(data) - 22]
    at = random.choice(places) + random.choice(numbers)
    value = struct.pack("<I", random.choice([0, 1, 2, 8, 30, 0xFFFF, 0xFFFFFFFF, random.randrange(len(data))]))
    size = random.choice([2, 4])
    return data[:at] + value[:size] + data[at + size :]


def _in_pickle(data: bytes, random: Random) -> bytes:
    """Return a pickle in which instructions are omitted, repeated, moved or changed."""
    try:
        places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    except Exception:
        return data
    parts = [data[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(random.choice([1, 1, 2, 3])):
        at = random.randrange(len(parts))
        kind = random.randrange(6)
        if kind == 0:
            del parts[at : at + random.choice([1, 2])]
        elif kind == 1:
            parts.insert(at, random.choice(parts))
        elif kind == 2:
            parts[at] = random.choice(parts)
        elif kind == 3:
            parts[at:at] = random.choice(_INSTRUCTIONS)
        elif kind == 4:
            alike = [p for p in parts if p[:1] == parts[at][:1]]
            parts[at] = random.choice(alike)
        else:
            parts[at] = in_bytes(parts[at], b"", random)
        if not parts:
            return data
    return b"".join(parts)


#: instructions that torch.save does not write at such a position
_INSTRUCTIONS: list[list[bytes]] = [
    [b"cos\nsystem\n", b"X\x01\x00\x00\x00x", b"\x85", b"R"],
    [b"cbuiltins\neval\n"],
    [b"ctorch._utils\n_rebuild_tensor_v2\n", b")", b"R"],
    [b"ccollections\nOrderedDict\n", b")", b"R"],
    [b"\x8a\xff" + b"\xff" * 255],
    [b"\x8a\x09\0\0\0\0\0\0\0\0\x7f"],
    [b"h\x00"],
    [b"2"],
    [b"0"],
    [b"}"] * 1000,
    [b"]a"] * 300,
    [b"("] * 300,
    [b"."],
    [b"J\xff\xff\xff\xff"],
    [b"G\x7f\xf8\0\0\0\0\0\0"],
    [b"X\xff\xff\xff\x7f"],
    [b"I1\n"],
    [b"S'x'\n"],
    [b"(lp0\n"],
]


# ---------------------------------------------------------------------- the header of a .safetensors
def _in_header(original: bytes, random: Random) -> bytes:
    size = int.from_bytes(original[:8], "little")
    try:
        header = json.loads(original[8 : 8 + size])
    except ValueError:
        return original
    kind = random.randrange(8)
    if kind < 3:
        strings = header.get("__metadata__")
        name = random.choice(["graph", "graph", "metadata", "aliases"])
        if isinstance(strings, dict) and isinstance(strings.get(name), str):
            strings[name] = json.dumps(edited(json.loads(strings[name]), random))
    elif kind < 7:
        header = edited(header, random)
    text = json.dumps(header)
    if kind == 7:
        at = random.randrange(len(text))
        extra = random.choice(
            ['"a":1,', "NaN", "1e999", "-Infinity", "9" * 5000, "[" * 2000, '{"a":' * 2000, '"\\ud800"', ","]
        )
        text = text[:at] + extra + text[at:]
    raw = text.encode()
    size = random.choice([len(raw)] * 9 + [0, 1, len(raw) - 1, len(raw) + 1, 2**40, 2**63])
    return struct.pack("<Q", size) + raw + original[8 + int.from_bytes(original[:8], "little") :]
