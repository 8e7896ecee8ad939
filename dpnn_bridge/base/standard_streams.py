"""Keep the standard streams of a program usable if they are closed or full."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Open standard streams that were closed before the start, so that no file that is opened gets their descriptors.

    Reading and printing still fail. Messages on stderr are lost.
    """
    for name, mode, flags in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            stream = open(os.open(os.devnull, flags), mode, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)


def drop_unwritten_output() -> None:
    """Drop output that a stream did not accept. Otherwise Python would try again at exit, and end with code 120."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
