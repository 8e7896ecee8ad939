"""Read a ``.safetensors`` file without memory mapping: check the header, then copy each tensor into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.shards import read_index as read_shard_index
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.errors import COPY_AGAIN, DpnnBridgeError, NotT7Error, T7Error, T7FormatError
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.outputs.plain import unique_keys

DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
#: header entry of a tensor: dtype, shape, first byte, byte after the last, relative to the first tensor
Entry = tuple[torch.dtype, list[int], int, int]
#: an opened file: the file, its metadata, the entries of its tensors, position of the first tensor
Opened = tuple[FileSource, dict[str, str], dict[str, Entry], int]
#: maximum bytes of a header, as in the safetensors library
MAX_HEADER = 100_000_000
#: maximum number of dimensions; multiplying many sizes takes quadratic time
_MAX_DIMENSIONS = 64


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file.

    Raises:
        NotT7Error: the file is not a safetensors file.
        T7FormatError: the file is damaged.
    """
    file = opened(path)
    return file[1], _tensors(*file)


def same_content(one: Path, other: Path) -> bool:
    """Return whether two files have equal metadata and tensors, in any order."""
    (strings, tensors), (other_strings, other_tensors) = read(one), read(other)
    return (
        strings == other_strings
        and tensors.keys() == other_tensors.keys()
        and all(same_bits(t, other_tensors[n]) for n, t in tensors.items())
    )


def read_index(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of all shards of an index; of equal metadata keys, the first shard's value.

    Raises:
        T7FormatError: the file is not an index, or a shard does not match the index.
    """
    strings: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for shard in _shards(path):
        for key, text in shard[1].items():
            strings.setdefault(key, text)
        tensors |= _tensors(*shard)
    return strings, tensors


def index_metadata(path: Path) -> dict[str, str]:
    """Return the metadata like :func:`read_index`, which lists the errors, without reading tensors."""
    strings: dict[str, str] = {}
    for _, own, _, _ in _shards(path):
        for key, text in own.items():
            strings.setdefault(key, text)
    return strings


def _shards(path: Path) -> Iterator[Opened]:
    """Open the shards of an index one after another, and check that they match the index."""
    index = read_shard_index(path)
    listed: dict[str, set[str]] = {}
    for name, shard in index.weight_map.items():
        listed.setdefault(shard, set()).add(name)
    generation = index.generation
    for number, file in enumerate(index.shards(path)):
        try:
            found = opened(file)
            if not generation and not number:  # the index of another program has no generation; the shards must agree
                generation = found[1].get("generation", "")
            _check_shard(path, file, found, generation, listed.get(file.name, set()))
        except (DpnnBridgeError, OSError) as error:
            if read_shard_index(path) != index:
                raise T7Error(f"{path}: changed while it was read; try again") from error
            raise
        yield found


def _check_shard(path: Path, file: Path, found: Opened, generation: str, names: set[str]) -> None:
    """Raise an error if a shard is not of the generation of the index at ``path``, or contains other tensors."""
    if found[1].get("generation", "") != generation:
        raise T7FormatError(
            f"{file.name} belongs to another conversion than the index; convert the model again", source=str(path)
        )
    if found[2].keys() != names:
        raise T7FormatError(f"{file.name} contains other tensors than the index lists; {COPY_AGAIN}", source=str(path))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, after its header and size are checked; for errors see :func:`read`."""
    return opened(path)[1]


def opened(path: Path) -> Opened:
    """Open a file and check its header and size; for errors see :func:`read`."""
    source = FileSource(path)
    size = int.from_bytes(source.read(0, 8), "little")
    if size > min(MAX_HEADER, source.size - 8):  # also for a file of less than 8 bytes
        found = "its header is missing or larger than the file"
        raise NotT7Error(f"{path}: not a safetensors file, or truncated: {found}; {COPY_AGAIN}")
    try:
        header = parse_json(source.read(8, size), object_pairs_hook=unique_keys)
        strings = header.pop("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(strings, dict):
            raise ValueError("the header or its metadata is not a JSON object")
        if not all(isinstance(text, str) for text in strings.values()):
            raise ValueError("a value of its metadata is not a string")
        return source, strings, _entries(header, source.size - 8 - size), 8 + size
    except (ValueError, RecursionError) as error:
        raise T7FormatError(f"the safetensors header is damaged: {error}; {COPY_AGAIN}", source=str(path)) from error


def _tensors(source: FileSource, _: Any, entries: dict[str, Entry], start: int) -> dict[str, Tensor]:
    try:
        return {name: _tensor(source, start, *entry) for name, entry in entries.items()}
    except RuntimeError as error:
        raise T7FormatError(f"damaged: {error}; {COPY_AGAIN}", source=source.name) from error


def _entries(header: dict[str, Any], size: int) -> dict[str, Entry]:
    """Check the entries of a header. The tensors must fill the ``size`` bytes after the header without gaps.

    Raises:
        ValueError: an entry is invalid.
    """
    entries: dict[str, Entry] = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r:.80} has other fields than dtype, shape and data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in DTYPES:
            raise ValueError(f"{name!r:.80} has the type {kind!r:.40}; supported: {', '.join(DTYPES)}")
        if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
            raise ValueError(f"{name!r:.80} has shape {shape!r:.80} at {offsets!r:.40}")
        if len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"{name!r:.80} has {len(shape):,} dimensions; at most {_MAX_DIMENSIONS} are read")
        dtype, (start, stop) = DTYPES[kind], offsets
        if any(type(n) is not int or not 0 <= n < 1 << 48 for n in (*shape, start, stop)):
            raise ValueError(f"{name!r:.80} has shape {shape!r:.80} at {start!r:.40}")
        if math.prod(shape) * dtype.itemsize != stop - start:
            raise ValueError(f"{name!r:.80} of shape {shape!r:.80} has {stop - start} bytes")
        entries[name] = dtype, shape, start, stop
    end = 0
    for _, _, start, stop in sorted(entries.values(), key=lambda e: e[2:]):
        if start != end:
            raise ValueError("there are gaps between its tensors, or they overlap")
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end} bytes, but the file has {size} bytes after the header")
    return entries


def _tensor(source: FileSource, base: int, dtype: torch.dtype, shape: list[int], start: int, stop: int) -> Tensor:
    if start == stop:
        return torch.empty(shape, dtype=dtype)
    data = torch.from_numpy(source.load(base + start, np.dtype(np.uint8), stop - start))
    return data.view(dtype).view(shape)
