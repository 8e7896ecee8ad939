"""A model in several ``.safetensors`` files: an index, and beside it the shards that it names."""

from __future__ import annotations

import io
import json
from pathlib import Path

from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.errors import T7FormatError

#: bytes of a file name on all common file systems
LONGEST_NAME = 255


def weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor.

    Raises:
        T7FormatError: it is no index, or names something else than files beside it.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise ValueError("its weight_map does not name the file of each tensor")
        if not all(name.endswith(".safetensors") and _is_name(name) for name in set(places.values())):
            raise ValueError("a shard is no file beside it")
    except (ValueError, RecursionError) as error:
        raise T7FormatError(f"the index is damaged: {error}", source=str(index)) from error
    return places


def _is_name(name: str) -> bool:
    """Whether a text can be the name of a file, in any folder."""
    return Path(name).name == name and name.isprintable() and len(name.encode()) <= LONGEST_NAME


def shards_of(index: Path) -> list[Path]:
    """The shards that an index names; for errors see :func:`weight_map`."""
    alone = f"{index.name.removesuffix(INDEX)}-00001-of-00001.safetensors"  # a model may have no tensors
    return [index.with_name(name) for name in sorted(set(weight_map(index).values())) or [alone]]


def checksum_of(path: Path) -> str:
    """The SHA-256 of an input or output; of an index, that of what ``sha256sum`` prints for it and its shards.

    An index that is damaged or lacks a shard has none: ``""``.
    """
    if not path.name.endswith(INDEX):
        return sha256_of(path)
    try:
        lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in (path, *shards_of(path)))
    except (FileNotFoundError, T7FormatError):
        return ""
    return sha256_of(io.BytesIO(lines.encode()))
