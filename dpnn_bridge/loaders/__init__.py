"""Bytes <-> Lua values. Knows nothing of modules."""

from .framings import Framing, register_framing
from .t7_reader import ReadOptions, loads, read_all, read_t7
from .t7_writer import dumps, write_t7

__all__ = ["Framing", "ReadOptions", "dumps", "loads", "read_all", "read_t7", "register_framing", "write_t7"]
