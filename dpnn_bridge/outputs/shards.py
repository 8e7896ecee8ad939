"""``.safetensors`` in shards with an index, as Hugging Face's libraries load them, written without holding the model.

``model.safetensors`` becomes ``model-00001-of-00003.safetensors`` and so on, and ``model.safetensors.index.json``.
Elements go from the file that they are read from to the shard in pieces, and so does the comparison afterwards. The
metadata of the first shard are those of :mod:`dpnn_bridge.outputs.safetensors`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.compare.bits import byte_array, same_in_file
from dpnn_bridge.conversion.pending import COMPUTED, pending_of
from dpnn_bridge.errors import ConversionError, OptionError, VerificationError
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.outputs import Job, container, safetensors, safetensors_file

#: size of the shards where none is given, as Hugging Face's libraries choose it
LARGEST = "5GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << 10 * i for i, unit in enumerate("KMGT", 1)}
_NAMES = {dtype: name for name, dtype in safetensors_file.DTYPES.items()}


class Part(NamedTuple):
    """One tensor: its type and shape, and its elements in pieces."""

    dtype: torch.dtype
    shape: torch.Size
    pieces: Callable[[], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape.numel() * self.dtype.itemsize


def parse_size(text: int | str) -> int:
    """Bytes from ``"2GB"``, ``"500MiB"`` or a number; units count in thousands, those with an i in 1024s.

    Raises:
        OptionError: it says no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?I?)B?", str(text).strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 1:
        raise OptionError(f"{text!r} is no size of a shard; give one such as 2GB")
    return size


def write(module: nn.Module, path: Path, job: Job) -> None:
    """Writes the index to ``path``, and the shards beside it."""
    largest = parse_size(job.options.get("max_shard_size", LARGEST))
    try:
        content = container.pack(module, job.metadata)
    except NotImplementedError as error:  # there are no elements
        raise ConversionError(COMPUTED) from error
    parts, strings = _parts(module, content)
    shards: list[dict[str, Part]] = [{}]
    room = largest
    for name, part in parts.items():
        if part.size > room and shards[-1]:
            shards.append({})
            room = largest
        shards[-1][name] = part
        room -= part.size
    stem = path.name.removesuffix(INDEX)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    job.written = dict(zip(names, shards, strict=True))
    for file, shard in job.written.items():
        _write_shard(path.with_name(file), shard, strings if file == names[0] else {"format": "pt"})
    index = {
        "metadata": {"total_size": sum(part.size for part in parts.values())},
        "weight_map": {name: file for file, shard in job.written.items() for name in shard},
    }
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def verify(module: nn.Module, path: Path, job: Job) -> None:
    """Compares every byte of the shards with what the model's file gives when it is read again."""
    for file, shard in job.written.items():
        source, _, entries, base = safetensors_file.opened(path.with_name(file))
        if entries.keys() != shard.keys():
            raise VerificationError(f"{file}: read back other names than were written")
        for name, part in shard.items():
            dtype, shape, at, _ = entries[name]
            if (dtype, tuple(shape)) != (part.dtype, tuple(part.shape)) or not _same(part, source, base + at):
                raise VerificationError(f"{file}: {name} differs after reading back; the disk may be full or failing")


def origin(path: Path) -> str | None:
    return json.loads(safetensors_file.index_metadata(path)["metadata"]).get("origin")


def _parts(module: nn.Module, content: dict[str, Any]) -> tuple[dict[str, Part], dict[str, str]]:
    """The tensors of a ``.pt`` content, each once, and the rest as strings."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    parts: dict[str, Part] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, value in content["state_dict"].items():
        parameter = parameters.get(name)
        held = pending_of(parameter)
        if value.is_meta and held is None:
            raise ConversionError(f"{name}: {COMPUTED}")
        identity = id(parameter) if held else (value.data_ptr(), value.shape, value.dtype)
        if value.numel() and identity in first:
            aliases[name] = first[identity]
            continue
        first[identity] = name
        pieces = partial(held.pieces, parameter) if held and parameter is not None else partial(_piece, value)
        parts[name] = Part(value.dtype, value.shape, pieces)
    for i, value in enumerate(content["constants"]):
        parts[f"{safetensors.CONSTANT}{i}"] = Part(value.dtype, value.shape, partial(_piece, value))
    return parts, safetensors.strings_of(content, aliases)


def _piece(value: Tensor) -> Iterator[Tensor]:
    yield value.detach().cpu().contiguous().reshape(-1)


def _write_shard(path: Path, shard: dict[str, Part], strings: dict[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": strings}
    ordered = sorted(shard.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))  # aligned, as the library does
    at = 0
    for name, part in ordered:
        header[name] = {"dtype": _NAMES[part.dtype], "shape": list(part.shape), "data_offsets": [at, at + part.size]}
        at += part.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, part in ordered:
            for piece in part.pieces():
                file.write(byte_array(piece).data)


def _same(part: Part, source: FileSource, at: int) -> bool:
    for piece in part.pieces():
        if not same_in_file(piece, source, at):
            return False
        at += piece.nbytes
    return True
