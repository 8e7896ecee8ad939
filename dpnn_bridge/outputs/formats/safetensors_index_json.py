"""Write ``.safetensors`` in shards with an index, as Hugging Face's libraries load them, without loading the model.

``model.safetensors`` becomes ``model-00001-of-00003-9f86d081.safetensors`` and so on, and
``model.safetensors.index.json``. The last part of the names, the generation, is also in the index and in the metadata
of each shard. Shards of two conversions have different names, so replacing the index replaces the model. A model whose
shards belong to different conversions is refused. Elements are copied from the source file to the shards in chunks, and
compared in chunks. The first shard has the metadata of a ``.safetensors`` file.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.base.shards import shard_names
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.base.writing import write_file
from dpnn_bridge.conversion.deferred import COMPUTED
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.outputs import container, safetensors_file, safetensors_writer
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.safetensors_writer import Part

#: size of the shards where none is given, as Hugging Face's libraries choose it
LARGEST = "5GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << 10 * i for i, unit in enumerate("KMGT", 1)}


def parse_size(text: int | str) -> int:
    """Return the bytes from ``"2GB"``, ``"500MiB"`` or a number; units count in thousands, those with an i in 1024s.

    Raises:
        OptionError: it says no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?I?)B?", str(text).strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 1:
        raise OptionError(f"{text!r} is not a shard size; use one such as 2GB")
    return size


class Shards(Format):
    """An index, and the shards beside it."""

    suffix = INDEX
    options = ("max_shard_size",)
    loads = rebuilt = True
    several = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        largest = parse_size(context.options.get("max_shard_size", LARGEST))
        try:
            content = container.pack(module, context.metadata)
        except RuntimeError as error:  # an operation found no elements
            raise ConversionError(COMPUTED) from error
        shards = _split(safetensors_writer.parts_of(module, content["state_dict"]), largest)
        generation = secrets.token_hex(4)
        names = shard_names(path, len(shards), generation)
        context.written = dict(zip(names, shards, strict=True))
        strings = safetensors_writer.strings_of(content)
        for file, shard in context.written.items():
            own = {**(strings if file == names[0] else {"format": "pt"}), "generation": generation}
            safetensors_writer.write(path.with_name(file), shard, own)
        total = sum(part.size for shard in shards for part in shard.values())
        index = {
            "metadata": {"total_size": total, "generation": generation},
            "weight_map": {name: file for file, shard in context.written.items() for name in shard},
        }
        write_file(path, json.dumps(index, indent=2) + "\n")

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        """Compare every byte of the shards with what the model's file gives when it is read again."""
        strings: dict[str, str] = {}
        for file, shard in context.written.items():
            strings = safetensors_writer.check(path.with_name(file), shard, file) | strings
        container.check(safetensors_writer.content_of(strings, container.outlines(module), str(path)), module)

    def load(self, path: Path, name: str) -> dict[str, Any]:
        return safetensors_writer.content_of(*safetensors_file.read_index(path), name)

    def origin(self, path: Path) -> str | None:
        return json.loads(safetensors_file.index_metadata(path)["metadata"]).get("origin")


def _split(parts: dict[str, Part], largest: int) -> list[dict[str, Part]]:
    """Return the tensors of each shard, in their order."""
    shards: list[dict[str, Part]] = [{}]
    room = largest
    for name, part in parts.items():
        if part.size > room and shards[-1]:
            shards.append({})
            room = largest
        shards[-1][name] = part
        room -= part.size
    return shards


FORMAT = Shards()
