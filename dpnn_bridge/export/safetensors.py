"""``.safetensors``: the tensors, with the object graph as JSON in the metadata, so that ``load`` rebuilds the model.

The metadata holds ``format`` and ``version`` of dpnn_bridge, ``graph``, ``metadata`` and ``aliases`` (names of tied
tensors, which safetensors stores once). Constants of the graph are tensors named ``graph.N``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import checkpoint
from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.export import Job
from dpnn_bridge.export.compare import same_tensors

CONSTANT = "graph."


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as e:
        raise ConversionError("safetensors is not installed: pip install 'dpnn-bridge[safetensors]'") from e
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
    nodes = []
    for i, node in enumerate(content["graph"]["nodes"]):
        constants = {k: v for k, v in node.items() if isinstance(v, Tensor)}
        tensors.update({f"{CONSTANT}{i}": v.clone() for v in constants.values()})
        nodes.append({k: f"{CONSTANT}{i}" if k in constants else v for k, v in node.items()})
    graph = {"root": content["graph"]["root"], "nodes": nodes}
    strings = {
        "format": content["format"],
        "version": str(content["version"]),
        "graph": json.dumps(graph),
        "metadata": json.dumps(content["metadata"], default=lambda t: t.tolist()),
        "aliases": json.dumps(aliases),
    }
    return tensors, strings


def write(module: nn.Module, path: Path, job: Job) -> None:
    tensors, strings = _split(checkpoint.pack(module, job.metadata))
    _library().save_file(tensors, path, metadata=strings)


def verify(module: nn.Module, path: Path, job: Job) -> None:
    content, expected = read(path), checkpoint.pack(module, job.metadata)
    same_tensors(path, content["state_dict"], expected["state_dict"])
    read_constants, written_constants = (
        {str(i): v for i, n in enumerate(c["graph"]["nodes"]) for v in n.values() if isinstance(v, Tensor)}
        for c in (content, expected)
    )
    same_tensors(path, read_constants, written_constants)
    if len(content["graph"]["nodes"]) != len(expected["graph"]["nodes"]):
        raise VerificationError(f"{path}: the object graph differs after reading back")


def read(path: Path) -> dict[str, Any]:
    """The content as in a ``.pt`` file, for :func:`dpnn_bridge.checkpoint.unpack`."""
    _library()
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        strings = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if strings.get("format") != checkpoint.FORMAT:
        raise ConversionError(f"{path} was not written by dpnn_bridge; use safetensors to read its tensors")
    graph = json.loads(strings["graph"])
    for i, node in enumerate(graph["nodes"]):
        for key, value in node.items():
            if value == f"{CONSTANT}{i}":
                node[key] = tensors.pop(value)
    tensors.update({name: tensors[first] for name, first in json.loads(strings["aliases"]).items()})
    return {
        "format": strings["format"],
        "version": int(strings["version"]),
        "graph": graph,
        "state_dict": tensors,
        "metadata": json.loads(strings["metadata"]),
    }
