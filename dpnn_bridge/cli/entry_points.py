"""Start the commands. While a command is imported, Ctrl-C ends the program at once, without a traceback."""

from __future__ import annotations

import importlib
import signal
from functools import partial


def _start(module: str, command: str) -> None:
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not if the shell ignores Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    run = getattr(importlib.import_module(module), command)
    signal.signal(signal.SIGINT, handler)
    run()


dpnn = partial(_start, "dpnn_bridge.__main__", "main")
convert = partial(_start, "dpnn_bridge.cli.convert", "convert_command")
inspect = partial(_start, "dpnn_bridge.cli.inspect", "inspect_command")
lua = partial(_start, "dpnn_bridge.cli.lua", "lua_command")
verify = partial(_start, "dpnn_bridge.cli.verify", "verify_command")
