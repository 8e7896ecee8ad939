"""Convert between bytes and Lua values. This subpackage does not depend on modules."""

from dpnn_bridge.base.lazy_exports import lazy_exports
from dpnn_bridge.loaders.serial import serial_form
from dpnn_bridge.loaders.serializers import Serializer, register_serializer
from dpnn_bridge.loaders.t7_reader import ReadOptions, loads, read_all, read_t7
from dpnn_bridge.loaders.t7_writer import WriteOptions, dumps, write_all, write_t7

__all__ = [
    "ReadOptions",
    "Serializer",
    "WriteOptions",
    "dumps",
    "loads",
    "read_all",
    "read_t7",
    "register_serializer",
    "serial_form",
    "write_all",
    "write_t7",
]

Framing, register_framing = Serializer, register_serializer  # earlier names, until November 2026
__getattr__, _ = lazy_exports(__name__, {"onmt": "checkpoints."})  # earlier location of the module
