"""Which file suffix is which format. Needs no PyTorch, so that command line help can name them."""

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
