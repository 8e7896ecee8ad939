"""Start the commands. While a command is imported, Ctrl-C ends the program at once, without a traceback."""

from __future__ import annotations

import importlib
import signal
from functools import partial


def _start(module: str, command: str) -> None:
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not if the shell ignores Ctrl-C
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    run = getattr(importlib.import_module(module), command)
    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


dpnn = partial(_start, "dpnn_bridge.__main__", "main")
convert = partial(_start, "dpnn_bridge.cli.convert", "convert_command")
inspect = partial(_start, "dpnn_bridge.cli.inspect", "inspect_command")
lua = partial(_start, "dpnn_bridge.cli.lua", "lua_command")
verify = partial(_start, "dpnn_bridge.cli.verify", "verify_command")
