"""Keep the standard streams of a program usable if they are closed, full or non-blocking."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from dpnn_bridge.base.file_set import FileSet, StrPath


def prepare_streams() -> None:
    """Open standard streams that were closed before the start, and make the others blocking.

    So no file that is opened gets the descriptor of a closed stream, from which reading, and to which printing, still
    fails (messages on stderr are lost). A non-blocking pipe would look empty before its first byte, and full before the
    last one; shells make their input blocking too.
    """
    for name, mode, flags in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if (present := getattr(sys, name)) is not None:
            with suppress(OSError, ValueError, AttributeError):  # no descriptor, or no such function on this platform
                os.set_blocking(present.fileno(), True)
        else:
            stream = open(os.open(os.devnull, flags), mode, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)


def drop_unwritten_output() -> None:
    """Drop output that a stream did not accept. Otherwise Python would try again at exit, and end with code 120."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def find_stdout(files: FileSet) -> StrPath | None:
    """Return the file of a set to which the shell redirected stdout, or None."""
    with suppress(OSError, ValueError, AttributeError):  # no descriptor
        return files.find("/dev/stdout", os.fstat(sys.stdout.fileno()))
    return None
