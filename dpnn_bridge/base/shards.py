"""Read the index of a model that is split into ``.safetensors`` shards."""

from __future__ import annotations

import io
import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.reading import changed, file_status, version_of
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.errors import COPY_AGAIN, T7FormatError

#: maximum number of bytes of a file name on common file systems
LONGEST_NAME = 255
#: maximum number of bytes of an index; it contains about 100 for each tensor
_MAX_BYTES = 1 << 28


class Index(NamedTuple):
    """The content of an index.

    Attributes:
        weight_map: name of a tensor -> file name of its shard.
        generation: identifier of one conversion, part of the names and metadata of its shards; empty in an index of
            another program or an earlier version.
    """

    weight_map: dict[str, str]
    generation: str

    def shards(self, index: Path) -> list[Path]:
        """Return the shards that the index at a path lists."""
        if self.weight_map:
            return [index.with_name(name) for name in sorted(set(self.weight_map.values()))]
        (name,) = shard_names(index, 1, self.generation)  # the model has no tensors
        return [index.with_name(name)]


def new_generation() -> str:
    """Return the identifier of a new conversion."""
    return secrets.token_hex(4)


def shard_names(index: Path, count: int, generation: str) -> list[str]:
    """Return the names of the shards of a new index."""
    stem, end = index.name.removesuffix(INDEX), f"-{generation}" if generation else ""
    return [f"{stem}-{i:05d}-of-{count:05d}{end}.safetensors" for i in range(1, count + 1)]


def read_index(index: Path) -> Index:
    """Return the content of an index.

    Raises:
        T7FormatError: the file is not an index, or names files outside its folder.
    """
    try:
        content = parse_json(read_file(index, _MAX_BYTES))
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        metadata = content.get("metadata") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError("its weight_map does not map each tensor to a file")
        if not all(name.endswith(".safetensors") and _is_name(name) for name in set(weight_map.values())):
            raise ValueError("a shard is not a file in the same folder")
    except (ValueError, RecursionError) as error:
        raise T7FormatError(f"the index is damaged: {error}; {COPY_AGAIN}", source=str(index)) from error
    generation = metadata.get("generation") if isinstance(metadata, dict) else None
    if not isinstance(generation, str) or not re.fullmatch("[0-9a-f]{1,64}", generation):
        generation = ""
    return Index(weight_map, generation)


def _is_name(name: str) -> bool:
    """Return whether a string is a file name without a folder."""
    return Path(name).name == name and "\0" not in name and len(os.fsencode(name)) <= LONGEST_NAME


def shards_of(index: Path) -> list[Path]:
    """Return the shards that an index lists; for errors see :func:`read_index`."""
    return read_index(index).shards(index)


def obsolete_shards(index: Path) -> list[Path]:
    """Return the shards of an existing index that a new one replaces: their names begin with the name of the index."""
    try:
        found = shards_of(index)
    except (OSError, T7FormatError):
        return []
    stem = re.escape(index.name.removesuffix(INDEX))
    own = re.compile(rf"{stem}-\d{{5}}-of-\d{{5}}(-[0-9a-f]+)?\.safetensors")
    return [file for file in found if own.fullmatch(file.name)]


def versions_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return :func:`~dpnn_bridge.base.reading.version_of` an input, and of the shards of an index, by path.

    It is empty if they cannot be read.
    """
    try:
        files = [path, *(shards_of(path) if path.name.endswith(INDEX) else ())]
        return {os.fspath(file): version_of(file_status(file)) for file in files}
    except (OSError, ValueError, T7FormatError):  # the reader reports the error, such as a null byte in the name
        return {}


def check_unchanged(path: Path, name: str, before: dict[str, tuple[int, ...]]) -> None:
    """Raise an error if an input may have changed since :func:`versions_of` returned ``before``.

    Args:
        path: the input.
        name: its name in the message.
        before: its versions at the beginning.
    """
    if versions_of(path) != before:
        raise changed(name)


def checksum_of(path: Path) -> str:
    """Return the SHA-256 of an input or output.

    For an index it is the SHA-256 of the output of ``sha256sum`` for the index and its shards; ``""`` if the index is
    damaged or a shard is missing.
    """
    if not path.name.endswith(INDEX):
        return sha256_of(path)
    try:
        lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in (path, *shards_of(path)))
    except (FileNotFoundError, T7FormatError):
        return ""
    return sha256_of(io.BytesIO(lines.encode()))
