"""Represent constructor calls and lists, and write them as source code."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Union

from dpnn_bridge.base.cached import cached_property

#: separates code and shape comment until the source is complete; no literal contains this unprintable character
COMMENT = "\x1f"
_WORD = re.compile(r"\w+")
#: maximum length of a line
WIDTH = 88

Value = Union[str, "Call"]


@dataclass
class Call:
    """A constructor call, or a list.

    Args:
        name: name of the class or function; empty for a list.
        positional: the positional arguments, or the elements.
        keywords: the keyword arguments.
        comment: shape of the output; becomes a comment if the call has its own line.
    """

    name: str
    positional: list[Value] = field(default_factory=list)
    keywords: dict[str, Value] = field(default_factory=dict)
    comment: str = ""

    @cached_property
    def code(self) -> str:
        """The source code without shape comments."""
        return self.text(comments=False)

    def text(self, comments: bool = True) -> str:
        """Return the source code, on one line if it fits; ``comments``: with shape comments."""
        rows = [(text_of(v, comments), v) for v in self.positional]
        rows += [(f"{k}={text_of(v, comments)}", v) for k, v in self.keywords.items()]
        start, end = (f"{self.name}(", ")") if self.name else ("[", "]")
        line = f"{start}{', '.join(text for text, _ in rows)}{end}"
        if len(line) <= WIDTH and "\n" not in line:
            return line
        lines = [indented(f"{text},{_comment(v) if comments else ''}") for text, v in rows]
        return "\n".join([start, *lines, end])

    def calls(self) -> Iterator[Call]:
        """Return the arguments or elements that are calls."""
        return (v for v in [*self.positional, *self.keywords.values()] if isinstance(v, Call))


def text_of(value: Value, comments: bool = True) -> str:
    """Return the source code of a value, see :meth:`Call.text`."""
    return value.text(comments) if isinstance(value, Call) else value


def code_of(value: Value) -> str:
    """Return the source code of a value without shape comments."""
    return value.code if isinstance(value, Call) else value


def _comment(value: Value) -> str:
    return f"{COMMENT}{value.comment}" if isinstance(value, Call) and value.comment else ""


def without_repeats(text: str) -> str:
    """Write the shape comments in source code, each only where the shape changes."""
    lines, last = [], ""
    for line in text.split("\n"):
        code, mark, shape = line.partition(COMMENT)
        lines.append(f"{code}  # {shape}" if mark and shape != last else code)
        last = shape if mark else last
    return "\n".join(lines)


def literal(value: Any) -> str:
    """Return the source code of a number, string, dtype or None, or of a tuple or list of those."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        return repr(value) if '"' in value or "'" in value else f'"{repr(value)[1:-1]}"'
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def in_docstring(text: str) -> str:
    """Return ``text`` without line breaks, backslashes and double quotes, which could end a docstring."""
    return repr(text)[1:-1].replace("\\", "/").replace('"', "'")


def indented(text: str) -> str:
    """Indent every line by four columns."""
    return "\n".join(f"    {line}" if line else line for line in text.split("\n"))


def blocks(roots: Iterable[Call], variables: Iterable[str]) -> list[str]:
    """Replace large calls that occur more than once by calls of new functions.

    Args:
        roots: calls, which are changed.
        variables: local variables of the code around the roots; calls that use them are not replaced.

    Returns:
        The source code of each function.
    """
    calls_of, counts = defaultdict[str, list[Call]](list), Counter[str]()

    def collect(call: Call, counted: bool = True) -> None:
        for child in call.calls():
            calls_of[child.code].append(child)
            counts[child.code] += counted  # the content of a repeated call occurs once
            collect(child, counted and counts[child.code] == 1)

    for root in roots:
        collect(root)
    names = set(variables)
    functions, numbers = list[str](), Counter[str]()
    for code, calls in sorted(calls_of.items(), key=lambda item: len(item[0])):
        first = calls[0]
        if counts[code] == 1 or not first.name or code.count("\n") < 5 or names.intersection(_WORD.findall(code)):
            continue
        classes = {child.name for child in first.calls()}
        prefix = "residual" if {"ConcatTable", "CAddTable"} <= classes else "block"
        numbers[prefix] += 1
        name = f"{prefix}{numbers[prefix]}"
        texts = {call.text() for call in calls}
        body = texts.pop() if len(texts) == 1 else first.text(comments=False)
        functions.append(f"def {name}() -> nn.Module:\n    return {indented(without_repeats(body)).lstrip()}")
        for call in calls:
            call.name, call.positional, call.keywords = name, [], {}
    return functions
