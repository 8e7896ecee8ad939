"""Find the classes and functions of a ``.py`` file that were changed after it was written."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from dpnn_bridge.base.python_parser import parse

_Definition = ast.ClassDef | ast.FunctionDef
#: function that depends on the mode of the model; the model that it builds is compared instead
_BUILD = "build"


def changed_definitions(source: str | bytes, expected: str) -> list[str]:
    """Return the classes and functions of a file that differ from the file that is expected, with their lines.

    Comments, docstrings and spaces do not count, nor do definitions that only one of the two has.

    Args:
        source: the content of the file; of bytes, the encoding declaration is used.
        expected: the text that would be written now.
    """
    wanted = {node.name: _code(node) for node in _definitions(expected) if node.name != _BUILD}
    found = [node for node in _definitions(source) if node.name in wanted]
    return [f"{node.name} (line {node.lineno})" for node in found if wanted[node.name] != _code(node)]


def _definitions(source: str | bytes) -> Iterator[_Definition]:
    return (node for node in parse(source).body if isinstance(node, (ast.ClassDef, ast.FunctionDef)))


def _code(definition: _Definition) -> str:
    """Return the syntax tree of a definition as text, without docstrings."""
    for node in ast.walk(definition):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(definition)
