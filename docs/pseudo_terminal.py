"""Runs commands on a terminal, for the picture in the README and for the tests of what people see."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from typing import Any


def on_terminal(command: Sequence[str], *, columns: int, env: Mapping[str, str], **options: Any) -> str:
    """Return what a command prints on a terminal of so many columns.

    Args:
        command: program and arguments; it must succeed.
        columns: width.
        env: variables to set beside those of this process.
        **options: of :class:`subprocess.Popen`, such as ``stderr`` to leave progress out.
    """
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal, **options}
    process = subprocess.Popen(command, env={**inherited, "TERM": "xterm-256color", **env}, **streams)
    os.close(terminal)
    printed = b""
    try:
        while block := os.read(main, 1 << 16):
            printed += block
    except OSError:  # Linux: the other end is closed
        pass
    os.close(main)
    assert process.wait() == 0, printed
    return printed.decode().replace("\r\n", "\n")
