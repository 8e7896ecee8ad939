"""Suffixes that several subpackages use. The formats are in :mod:`dpnn_bridge.outputs.formats`."""

from __future__ import annotations

import os

#: suffixes of files that contain Torch7 objects
TORCH7 = (".t7", ".t7b", ".th", ".net", ".model")

#: suffixes of files that ``torch.load`` reads
PICKLED = (".pt", ".pth")

#: suffix of the index of .safetensors shards
INDEX = ".safetensors.index.json"


def index_of(path: str | os.PathLike[str]) -> str:
    """Return the path of the index of a ``.safetensors`` file in shards."""
    return f"{os.fspath(path).removesuffix(INDEX).removesuffix('.safetensors')}{INDEX}"
