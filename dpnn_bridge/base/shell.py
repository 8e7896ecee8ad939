"""Quote names for commands that a user can paste into a shell."""

from __future__ import annotations

import os
import shlex


def shell_quoted(text: str) -> str:
    """Quote text as one argument of a shell's command line.

    Control characters and bytes that are not UTF-8 are written as octal escapes in ``$'…'``, so that the command is one
    printable line.
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def shell_file(path: str | os.PathLike[str]) -> str:
    """Quote a file name, and add ``./`` before a leading dash, which would begin an option."""
    name = os.fspath(path)
    return shell_quoted(f"./{name}" if name.startswith("-") else name)


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
