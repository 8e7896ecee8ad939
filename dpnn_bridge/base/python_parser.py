"""Parse Python source code in one thread at a time."""

from __future__ import annotations

import ast

from dpnn_bridge.base.exclusive import Exclusive


def parsing() -> Exclusive:
    """Lock ``ast.parse`` between threads: before Python 3.11.8 and 3.12.2, it fails if two threads use it."""
    return Exclusive(ast.parse)
