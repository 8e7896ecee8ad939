"""Make text from a file safe to print: escape terminal control sequences and limit the length of lines."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import islice
from typing import Any

#: maximum number of characters: of one line of a message, and of a name in a message
LONGEST_LINE = 2000
LONGEST_NAME = 120


def printable(text: str) -> str:
    """Return ``text`` with escapes for control characters and characters that cannot be displayed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """Apply :func:`printable` to each line of a message, and omit the middle of a long line."""
    return "\n".join(shortened(printable(line), LONGEST_LINE) for line in text.split("\n"))


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return the first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """Return ``text``; the middle is omitted if the text is longer than ``longest`` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}… ({counted(len(text) - 2 * half, 'more character')}) …{text[-half:]}"


def described(value: Any) -> str:
    """Describe a value from a file in a message: the ``repr`` of a string or number, otherwise the type.

    The ``repr`` of a list that contains another list several times may be exponentially long.
    """
    return shortened(repr(value)) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


def summarized(value: Any) -> str:
    """Describe a nested value in a message: the shape of a tensor, the number of entries of a list or of a dict.

    The time and the length do not depend on the size of the value.
    """
    if isinstance(value, dict):
        return f"a table with the {keys_text(value)}" if value else "an empty table"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value):,}"
    if hasattr(value, "shape"):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else described(value)


def keys_text(table: dict[Any, Any], longest: int = 6) -> str:
    """Name the first keys of a dict: ``keys a, b``."""
    names = [shortened(str(key)) for key in islice(table, longest)]
    more = f" and {len(table) - longest:,} more" if len(table) > longest else ""
    return f"keys {', '.join(names)}{more}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 file``, ``2 classes``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def in_html(text: str) -> str:
    """Escape markup and control characters in ``text`` for an HTML page."""
    return escape("\n".join(map(printable, text.split("\n"))))


def type_name(cls: type) -> str:
    """Return the name of a layer's class: ``torch.nn.Linear`` for PyTorch's own, ``SpatialGlimpse`` for others."""
    return f"torch.nn.{cls.__qualname__}" if cls.__module__.startswith("torch.nn.") else cls.__qualname__
