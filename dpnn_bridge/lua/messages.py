"""Errors of Lua in words that say what to do, with Lua's stack without the frames of the bridge."""

from __future__ import annotations

import re

#: global tables that a package makes when it is required
_PACKAGES = (
    "nn|nngraph|dpnn|rnn|nnx|optim|image|cudnn|cunn|cutorch|paths|xlua|sys|dp|torchx|inn|stn|w2nn|onmt|graph|torch"
)
_MISSING = re.compile(
    r"\((?P<module>\w+) is an invalid module name\)"
    rf"|attempt to index (?:global )?'(?P<global>{_PACKAGES})' \(a nil value\)"
)
_TRACEBACK = "\nstack traceback:\n"


def explained(message: str) -> str:
    """The message of an error of Lua, with a hint where it has one."""
    text, _, stack = message.rstrip().partition(_TRACEBACK)
    if found := _MISSING.search(text):
        package = found["module"] or found["global"]
        text += f"\n{package} is not there yet: begin the Lua file with require '{package}', or with what defines it"
    frames = [line.strip() for line in stack.split("\n") if line.strip() and "dpnn_bridge/" not in line]
    frames = [line for line in frames if line != "[C]: in function 'error'"]
    return "\n".join([text, *(f"    called from {frame}" for frame in frames)])
