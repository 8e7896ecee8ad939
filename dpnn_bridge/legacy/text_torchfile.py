"""Provide torchfile with ``str`` instead of ``bytes``, as in Python 2. Translated scripts import this module."""

from __future__ import annotations

import os
from typing import Any

from dpnn_bridge import torchfile
from dpnn_bridge.torchfile import LuaFunction, T7ReaderException, TorchObject, hashable_uniq_dict

__all__ = ["LuaFunction", "T7Reader", "T7ReaderException", "TorchObject", "hashable_uniq_dict", "load"]


def load(filename: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load the first object of a file, with strings as ``str``."""
    return torchfile.load(filename, **{"utf8_decode_strings": True, **kwargs})


class T7Reader(torchfile.T7Reader):
    """Reader for the objects of an open file, with strings as ``str``."""

    def __init__(self, fileobj: Any, **kwargs: Any) -> None:
        super().__init__(fileobj, **{"utf8_decode_strings": True, **kwargs})
