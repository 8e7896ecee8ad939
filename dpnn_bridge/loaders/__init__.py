"""Convert between bytes and Lua values. This subpackage does not depend on modules."""

from dpnn_bridge.base.faces import face
from dpnn_bridge.loaders.framings import Framing, register_framing
from dpnn_bridge.loaders.serial import serial_form
from dpnn_bridge.loaders.t7_reader import ReadOptions, loads, read_all, read_t7
from dpnn_bridge.loaders.t7_writer import WriteOptions, dumps, write_all, write_t7

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

__getattr__, _ = face(__name__, {"onmt": "checkpoints."})  # where it stood before it had a room of its own
