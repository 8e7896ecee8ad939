"""Write ``.safetensors`` in shards with an index, which Hugging Face's libraries can load.

The files are ``model.safetensors.index.json``, ``model-00001-of-00003-9f86d081.safetensors`` and so on. The last part
of the names, the generation, differs for each conversion, so replacing the index replaces the model. It is also in the
index and in the metadata of each shard, so shards of different conversions are detected. Elements are copied from the
source file to the shards in chunks, and compared in chunks. The metadata of the model is in the first shard.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.shards import new_generation, shard_names
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.base.writing import write_file
from dpnn_bridge.conversion.deferred import COMPUTED
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.outputs import container, safetensors_file, safetensors_writer
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.safetensors_writer import Part

#: default maximum size of a shard, as in Hugging Face's libraries
DEFAULT_SIZE = "5GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << 10 * i for i, unit in enumerate("KMGT", 1)}


def parse_size(text: int | str) -> int:
    """Return the number of bytes for ``"2GB"`` (2·1000³), ``"500MiB"`` (500·1024²) or a number.

    Raises:
        OptionError: the text is not a positive size.
    """
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([KMGT]?I?)B?", str(text).strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 1:
        raise OptionError(f"{text!r} is not a shard size; use a size such as 2GB")
    return size


class Shards(Format):
    """The format ``.safetensors.index.json``: an index, and shards in the same folder."""

    suffix = INDEX
    options = ("max_shard_size",)
    loads = rebuilt = True
    several = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        max_size = parse_size(context.options.get("max_shard_size", DEFAULT_SIZE))
        try:
            content = container.pack(module, context.metadata)
        except RuntimeError as error:  # an operation on meta tensors needs their elements
            raise ConversionError(COMPUTED) from error
        shards = _split(safetensors_writer.parts_of(module, content["state_dict"]), max_size)
        generation = new_generation()
        names = shard_names(path, len(shards), generation)
        strings = [safetensors_writer.strings_of(content), *({"format": "pt"} for _ in names[1:])]
        strings = [{**own, "generation": generation} for own in strings]
        context.written = dict(zip(names, zip(shards, strings, strict=True), strict=True))
        for file, (shard, own) in context.written.items():
            safetensors_writer.write(path.with_name(file), shard, own)
        total = sum(part.size for shard in shards for part in shard.values())
        index = {
            "metadata": {"total_size": total, "generation": generation},
            "weight_map": {name: file for file, (shard, _) in context.written.items() for name in shard},
        }
        write_file(path, json.dumps(index, indent=2) + "\n")

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        """Compare every byte of the shards with the model, whose deferred parameters are read from the input again."""
        for file, (shard, own) in context.written.items():
            safetensors_writer.check(path.with_name(file), shard, own, file)
        strings = safetensors_file.index_metadata(path)  # checks that the index lists these shards
        container.check(safetensors_writer.content_of(strings, container.meta_tensors(module), str(path)), module)

    def load(self, path: Path, name: str) -> dict[str, Any]:
        return safetensors_writer.content_of(*safetensors_file.read_index(path), name)

    def origin(self, path: Path) -> str | None:
        return parse_json(safetensors_file.index_metadata(path)["metadata"]).get("origin")


def _split(parts: dict[str, Part], max_size: int) -> list[dict[str, Part]]:
    """Distribute tensors to shards of at most ``max_size`` bytes, in order; a larger tensor is a shard of its own."""
    shards: list[dict[str, Part]] = [{}]
    bytes_left = max_size
    for name, part in parts.items():
        if part.size > bytes_left and shards[-1]:
            shards.append({})
            bytes_left = max_size
        shards[-1][name] = part
        bytes_left -= part.size
    return shards


FORMAT = Shards()
