"""Write ``.safetensors``: the ``state_dict``, and in the metadata everything else that ``load`` needs.

Or the tensors of a file without a model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpnn_bridge.base.atomic import reading_back
from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.outputs import container, data, safetensors_file, safetensors_writer
from dpnn_bridge.outputs.format import ExportContext, Format


class Safetensors(Format):
    """The format ``.safetensors``: a model or data in one file."""

    suffix = ".safetensors"
    data = True
    loads = rebuilt = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        content = container.pack(module, context.metadata)
        parts = safetensors_writer.parts_of(module, content["state_dict"])
        context.written = parts, safetensors_writer.strings_of(content)
        safetensors_writer.write(path, *context.written)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        parts, strings = context.written
        safetensors_writer.check(path, parts, strings)
        container.check(safetensors_writer.content_of(strings, container.meta_tensors(module), str(path)), module)

    def load(self, path: Path, name: str) -> dict[str, Any]:
        return safetensors_writer.content_of(*safetensors_file.read(path), name)

    def origin(self, path: Path) -> str | None:
        return parse_json(safetensors_file.read_metadata(path).get("metadata", "{}")).get("origin")

    def same_content(self, one: Path, other: Path) -> bool:
        return safetensors_file.same_content(one, other)

    def read_data(self, path: Path) -> dict[str, Any]:
        strings, tensors = safetensors_file.read(path)
        return {**tensors, **parse_json(strings.get("values", "{}"))}

    def write_data(self, found: data.Data, path: Path) -> None:
        flat = data.flat(data.cleaned(found, np.ascontiguousarray))
        arrays = {name: leaf for name, leaf in flat.items() if isinstance(leaf, np.ndarray)}
        rest = {name: leaf for name, leaf in flat.items() if not isinstance(leaf, np.ndarray)}
        data.check_names(arrays, ".safetensors", lambda name: name != "__metadata__")
        parts = {name: safetensors_writer.part_of(torch.from_numpy(array)) for name, array in arrays.items()}
        strings = {"format": "pt", "values": json.dumps(rest)}
        safetensors_writer.write(path, parts, strings)
        with reading_back(path):
            safetensors_writer.check(path, parts, strings)


FORMAT = Safetensors()
