"""Bytes <-> Lua values. Knows nothing of modules."""

from .framings import Framing, register_framing
from .serial import serial_form
from .t7_reader import ReadOptions, loads, read_all, read_t7
from .t7_writer import WriteOptions, dumps, write_all, write_t7

__all__ = [
    "Framing",
    "ReadOptions",
    "WriteOptions",
    "dumps",
    "loads",
    "read_all",
    "read_t7",
    "register_framing",
    "serial_form",
    "write_all",
    "write_t7",
]
