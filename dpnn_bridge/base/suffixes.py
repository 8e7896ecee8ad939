"""Which file suffix is which format. Needs no PyTorch, so that command line help can name them."""

from __future__ import annotations

import os

#: suffix of an output -> module of :mod:`dpnn_bridge.outputs` with ``write`` and ``verify``
OUTPUTS = {
    ".pt": "pt",
    ".pth": "pt",
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".onnx": "onnx",
    ".pt2": "pt2",
    ".py": "py.program",
    ".t7": "t7",
}

#: suffixes of files that PyTorch's own loader reads
PICKLED = (".pt", ".pth")

#: suffixes of files that hold a converted model and can be loaded again without Torch7's reader
CONVERTED = (*PICKLED, ".safetensors")

#: what ends the name of a file that holds data and no program: nothing in one is run, nor read by another program
DATA = (".t7", *CONVERTED, ".npz", ".json")

#: how the name of the index of a model in several .safetensors files ends, which is written with them
INDEX = ".safetensors.index.json"


def is_converted_file(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a file that holds a converted model."""
    name = os.fspath(path)
    return name.endswith((*CONVERTED, INDEX))


def index_of(path: str | os.PathLike[str]) -> str:
    """The index of a ``.safetensors`` file that is written in shards."""
    return f"{os.fspath(path).removesuffix(INDEX).removesuffix('.safetensors')}{INDEX}"
