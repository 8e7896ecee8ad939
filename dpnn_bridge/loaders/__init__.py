"""Bytes <-> Lua values. Knows nothing of modules."""

from .t7_reader import loads, read_t7
from .t7_writer import dumps, write_t7

__all__ = ["dumps", "loads", "read_t7", "write_t7"]
