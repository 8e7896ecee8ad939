"""``.safetensors``: the tensors, with the object graph as JSON in the metadata, so that ``load`` rebuilds the model.

The metadata holds ``format`` (``pt``), ``dpnn_bridge`` and its ``version``, ``graph``, ``metadata`` and ``aliases``
(names of tied tensors, which safetensors stores once). Constants of the graph are tensors named ``constant:N``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.extras import install_advice
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.compare.bits import same_tensors
from dpnn_bridge.conversion.budget import MOST_VALUES, PER_ENTRY
from dpnn_bridge.errors import ConversionError, T7FormatError, VerificationError
from dpnn_bridge.outputs import Job, container, safetensors_file

CONSTANT = "constant:"  # no name of a module contains a colon


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as e:
        raise ConversionError(f"safetensors is not installed: {install_advice('safetensors')}") from e
    return safetensors.torch


def _split(content: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a ``.pt`` content, each once, and the rest as strings."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, torch.dtype], str] = {}
    for name, value in content["state_dict"].items():
        identity = (value.data_ptr(), value.shape, value.dtype)
        if value.numel() and identity in first:
            aliases[name] = first[identity]
        else:
            first[identity] = name
            tensors[name] = value.contiguous()
    tensors.update({f"{CONSTANT}{i}": value.clone() for i, value in enumerate(content["constants"])})
    return tensors, strings_of(content, aliases)


def strings_of(content: dict[str, Any], aliases: dict[str, str]) -> dict[str, str]:
    """The metadata of a file: all of a ``.pt`` content but its tensors."""
    return {
        "format": "pt",  # what loaders of PyTorch's ecosystem ask for
        "dpnn_bridge": content["format"],
        "version": str(content["version"]),
        "graph": content["graph"],
        "metadata": json.dumps(_as_json(content["metadata"]), default=lambda t: t.tolist()),
        "aliases": json.dumps(aliases),
    }


def _as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata, without what the checkpoint held where its tables share so much that JSON could not hold it."""
    sizes: dict[int, int] = {}
    entries = 0

    def size(value: Any) -> int:
        nonlocal entries
        if not isinstance(value, (dict, list, tuple)):
            return max(1, value.numel()) if isinstance(value, Tensor) else 1
        if id(value) not in sizes:
            entries += len(value)
            sizes[id(value)] = 1 + sum(map(size, value.values() if isinstance(value, dict) else value))
        return sizes[id(value)]

    if size(metadata) <= MOST_VALUES + PER_ENTRY * entries:
        return metadata
    return {k: v for k, v in metadata.items() if k != "checkpoint"}


def write(module: nn.Module, path: Path, job: Job) -> None:
    library = _library()
    from safetensors import SafetensorError

    content = job.written = container.pack(module, job.metadata)
    tensors, strings = _split(content)
    try:
        library.save_file(tensors, path, metadata=strings)
    except SafetensorError as e:
        if number := re.search(r"\(os error (\d+)\)", str(e)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from e
        raise


def verify(module: nn.Module, path: Path, job: Job) -> None:
    content, expected = read(path), job.written
    same_tensors(path, content["state_dict"], expected["state_dict"])
    read_constants, constants = ({str(i): v for i, v in enumerate(c["constants"])} for c in (content, expected))
    same_tensors(path, read_constants, constants)
    if content["graph"] != expected["graph"]:
        raise VerificationError(f"{path}: the object graph differs after reading back")


def read(path: Path) -> dict[str, Any]:
    """The content as in a ``.pt`` file, for :func:`dpnn_bridge.outputs.container.unpack`."""
    strings, tensors = safetensors_file.read_index(path) if path.name.endswith(INDEX) else safetensors_file.read(path)
    if container.FORMAT not in (strings.get("dpnn_bridge"), strings.get("format")):  # the latter in older files
        raise ConversionError(f"{path} was not written by dpnn_bridge; use safetensors to read its tensors")
    try:
        return _content(strings, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as e:
        message = f"its metadata are damaged ({type(e).__name__}: {str(e)[:300]}); convert the .t7 file again"
        raise T7FormatError(message, source=str(path)) from e


def _content(strings: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    constants = [tensors.pop(f"{CONSTANT}{i}") for i in range(sum(name.startswith(CONSTANT) for name in tensors))]
    tensors.update({name: tensors[first] for name, first in json.loads(strings["aliases"]).items()})
    return {
        "format": container.FORMAT,
        "version": int(strings["version"]),
        "graph": strings["graph"],
        "constants": constants,
        "state_dict": tensors,
        "metadata": json.loads(strings["metadata"]),
    }


def origin(path: Path) -> str | None:
    return json.loads(safetensors_file.read_metadata(path).get("metadata", "{}")).get("origin")
