"""Rewrite Lua errors: explain what to do, and remove the bridge's frames from the stack."""

from __future__ import annotations

import re

#: global tables that a package makes when it is required
_PACKAGES = (
    "nn|nngraph|dpnn|rnn|nnx|optim|image|cudnn|cunn|cutorch|paths|xlua|sys|dp|torchx|inn|stn|w2nn|onmt|graph|torch"
)
#: packages in Lua, which run here from a checkout
_LUA = {
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
#: what other packages are, and what to do without them
_OTHERS = {
    **dict.fromkeys(
        ("cunn", "cudnn"),
        "C code for a GPU, which the bridge does not support: run the script on the CPU (-gpuid -1), or "
        "require 'cunn-on-cpu' first (dpnn-lua -l cunn-on-cpu ...), by which its layers are those of nn",
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
        "a display of pictures or plots: turn plotting off (often -display 0, -plot false); image.save writes files",
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
#: modules of Penlight, which th makes global
_PENLIGHT = re.compile(
    r"attempt to index (?:global )?'(path|stringx|tablex|dir|file|lapp|text|List|pretty|class)' \(a nil value\)"
    r"|attempt to call global '(lapp|class|List)' \(a nil value\)"
)
#: where require looked
_SEARCHED = re.compile(r"\n\t(?:no file|no field|nothing for) [^\n]*")
_TRACEBACK = "\nstack traceback:\n"
#: lines of a traceback that name no code of the user's; the second traceback is that of bridge.run, which raises again
_FRAMES = {"[C]: in function 'error'", "[C]: in function 'xpcall'", "stack traceback:"}


def package_advice(name: str) -> str:
    """Explain a missing package, and what to do."""
    package = re.split(r"[./]", name)[0]
    if package in _LUA:
        address = f"https://github.com/{_LUA[package].format(package)}"
        return f"{package} is Lua code that runs from a checkout: git clone {address} into a folder that -p names"
    if package in _OTHERS:
        return f"{package} is {_OTHERS[package]}"
    return f"{name} is neither in a folder of -p or package.path nor in the bridge"


def explained(message: str) -> str:
    """Return the message of an error of Lua, with a hint where it has one."""
    text, _, stack = message.rstrip().partition(_TRACEBACK)
    if text in ("", "not enough memory"):
        return "Lua exceeded max_memory"
    text = _SEARCHED.sub("", text)
    if found := _MISSING.search(text):
        package = found["module"] or found["global"]
        text += f"\n{package} is not loaded yet: begin the Lua file with require '{package}', or with its definition"
    if _PENLIGHT.search(text):
        text += f"\nin th it comes from Penlight: {package_advice('pl')}"
    frames = [line.strip() for line in stack.split("\n") if line.strip() and "dpnn_bridge/" not in line]
    frames = [line for line in frames if line not in _FRAMES]
    return "\n".join([text, *(f"    called from {frame}" for frame in frames)])
