"""Rewrite Lua errors: add advice, and remove the bridge's frames from the traceback."""

from __future__ import annotations

import re

#: packages that create a global table of their name
_PACKAGES = (
    "nn|nngraph|dpnn|rnn|nnx|optim|image|cudnn|cunn|cutorch|paths|xlua|sys|dp|torchx|inn|stn|w2nn|onmt|graph|torch"
)
#: packages that run in the bridge from a checkout -> their GitHub repository
_LUA_PACKAGES = {
    **dict.fromkeys(("nn", "optim", "nngraph", "graph", "xlua", "trepl"), "torch/{}"),
    **dict.fromkeys(("dpnn", "rnn", "dataload"), "Element-Research/{}"),
    **dict.fromkeys(("torchx", "dp"), "nicholas-leonard/{}"),
    **dict.fromkeys(("torchnet", "argcheck"), "torchnet/{}"),
    "pl": "lunarmodules/Penlight",
    "nnx": "clementfarabet/lua---nnx",
    "autograd": "twitter/torch-autograd",
    "class": "torch/class",
    "totem": "deepmind/torch-totem",
    "nninit": "Kaixhin/nninit",
    "logroll": "rosejn/logroll",
    "dkjson": "LuaDist/dkjson",
    "fun": "luafun/luafun",
    "stn": "qassemoquab/stnbhwd",
    "optnet": "fmassa/optimize-net",
    "weight-init": "e-lab/torch-toolbox",
}
#: unsupported packages -> what they are, and what to do without them
_UNSUPPORTED = {
    **dict.fromkeys(
        ("cunn", "cudnn"),
        "C code for a GPU, which the bridge does not support: run the script on the CPU (-gpuid -1), or "
        "require 'cunn-on-cpu' first (dpnn-lua -l cunn-on-cpu ...), which replaces its layers by those of nn",
    ),
    **dict.fromkeys(
        ("cltorch", "clnn", "cunnx", "fbcunn", "ccn2", "nccl", "inn", "warp_ctc"),
        "C code for a GPU, which the bridge does not support: run the script on the CPU "
        "(often -gpu -1, -backend nn), or remove the line if nothing else needs it",
    ),
    **dict.fromkeys(
        ("mattorch", "matio", "npy4th", "fbdebug"),
        "a C reader of data: convert the data once in Python (scipy.io, numpy) to a .t7 that "
        "dpnn_bridge.save writes, and read that with torch.load",
    ),
    "loadcaffe": "a C reader of Caffe models: convert the model once in a real Torch7 (torch.save of "
    "loadcaffe.load) and read that with torch.load",
    **dict.fromkeys(
        ("display", "gnuplot", "itorch", "qtwidget", "qt", "qttorch", "qtlua", "gfx", "env", "async"),
        "a library that displays images or plots: turn plotting off (often -display 0, -plot false), or write files "
        "with image.save",
    ),
    **dict.fromkeys(
        ("ffmpeg", "audio", "camera", "graphicsmagick", "cv", "sndfile", "signal", "fftw3"),
        "a C library for media: prepare the data in Python and write a .t7 with dpnn_bridge.save",
    ),
    **dict.fromkeys(
        ("socket", "http", "ssl", "posix", "lpeg", "sqlite3", "lsqlite3", "zmq", "parallel", "ipc", "randomkit"),
        "a C library for Lua, which the bridge cannot load: do that part in Python",
    ),
}
_MISSING = re.compile(
    r"\((?P<module>\w+) is an invalid module name\)"
    rf"|attempt to index (?:global )?'(?P<global>{_PACKAGES})' \(a nil value\)"
)
#: modules of Penlight, which are global in th
_PENLIGHT = re.compile(
    r"attempt to index (?:global )?'(path|stringx|tablex|dir|file|lapp|text|List|pretty|class)' \(a nil value\)"
    r"|attempt to call global '(lapp|class|List)' \(a nil value\)"
)
_METHOD = re.compile(r"attempt to call method '(\w+)' \(a nil value\)")
#: lines with the files that require searched
_SEARCHED = re.compile(r"\n\t(?:no file|no field|nothing for) [^\n]*")
#: PyTorch's message when it cannot allocate a tensor
_ALLOCATION = re.compile(r"you tried to allocate (\d+) bytes")
_TRACEBACK = "\nstack traceback:\n"
#: lines of a traceback without user code; the second traceback is that of bridge.run, which raises the error again
_FRAMES = {"", "[C]: in function 'error'", "[C]: in function 'xpcall'", "stack traceback:"}


def package_advice(name: str) -> str:
    """Return what a missing package is and how to do without it."""
    package = re.split(r"[./]", name)[0]
    if package in _LUA_PACKAGES:
        address = f"https://github.com/{_LUA_PACKAGES[package].format(package)}"
        checkout = f"git clone {address} beside the Lua file"
        other = "LuaBridge, dpnn-lua and dpnn-verify also search the folders of lua_path= (--lua-path)"
        return f"{package} is a Lua package that runs from a checkout: {checkout}; {other}"
    if package in _UNSUPPORTED:
        return f"{package} is {_UNSUPPORTED[package]}"
    return f"{name} was not found in the folders of lua_path= (--lua-path), in package.path or in the bridge"


def error_text(error: Exception) -> str:
    """Return the text of a Python exception for Lua; without enough memory, the text is Torch7's."""
    if allocation := _ALLOCATION.search(str(error)):
        return f"$ Torch: not enough memory: you tried to allocate {int(allocation[1]) >> 30}GB"
    return "not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"


def explained(message: str) -> str:
    """Return the message of a Lua error without the bridge's frames, with advice where there is some."""
    text, _, stack = message.rstrip().partition(_TRACEBACK)
    text = _SEARCHED.sub("", text) or "an error with an empty message"
    if match := _MISSING.search(text):
        package = match["module"] or match["global"]
        text += f"\n{package} is not loaded yet: begin the Lua file with require '{package}', or with its definition"
    if _PENLIGHT.search(text):
        text += f"\nin th this global is part of Penlight: {package_advice('pl')}"
    if method := _METHOD.search(text):
        text += (
            f"\nif {method[1]} is a method of a class of nn, dpnn, rnn or another package: here these classes have the "
            "methods of nn.Module, and their own with a checkout of the package in lua_path= (--lua-path)"
        )
    frames = [line for line in map(str.strip, stack.split("\n")) if line not in _FRAMES]
    frames = [line for line in frames if not line.startswith("dpnn_bridge/")]
    return "\n".join([text, *(f"    called from {frame}" for frame in frames)])
