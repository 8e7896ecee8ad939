"""Interpret suffixes of file names for several subpackages. The formats are in :mod:`dpnn_bridge.outputs.formats`."""

from __future__ import annotations

import os

#: suffixes of files that PyTorch's own loader reads
PICKLED = (".pt", ".pth")

#: how the name of the index of a model in several .safetensors files ends, which is written with them
INDEX = ".safetensors.index.json"


def index_of(path: str | os.PathLike[str]) -> str:
    """Return the index of a ``.safetensors`` file that is written in shards."""
    return f"{os.fspath(path).removesuffix(INDEX).removesuffix('.safetensors')}{INDEX}"
