"""Convert between bytes and Lua values. This subpackage does not depend on modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
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

_MODULES = {
    "serial_form": "loaders.serial",
    **dict.fromkeys(("Serializer", "register_serializer"), "loaders.serializers"),
    **dict.fromkeys(("ReadOptions", "loads", "read_all", "read_t7"), "loaders.t7_reader"),
    **dict.fromkeys(("WriteOptions", "dumps", "write_all", "write_t7"), "loaders.t7_writer"),
    # earlier names and locations
    **dict.fromkeys(("Framing", "register_framing"), "loaders.serializers"),
    "onmt": "checkpoints.",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
