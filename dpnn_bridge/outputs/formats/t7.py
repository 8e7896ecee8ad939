"""Write ``.t7`` for Torch7."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.base.atomic import reading_back
from dpnn_bridge.base.writing import not_as_written
from dpnn_bridge.checkpoints.find import select
from dpnn_bridge.conversion.convert import convert_object, to_lua
from dpnn_bridge.errors import OptionError
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import WriteOptions, write_t7
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.data import Data, collect
from dpnn_bridge.outputs.data_difference import first_difference
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.reloaded import check_loads

#: options of the ``.t7`` writer, such as ``mode`` and ``long_size``
_ENCODING = tuple(f.name for f in fields(WriteOptions))


def _write(path: Path, value: Any, options: dict[str, Any]) -> None:
    """Write a Lua value with the options of the writer in ``options``."""
    write_t7(path, value, verify=False, **{name: options[name] for name in _ENCODING if name in options})


def _read_back(path: Path, value: Any, options: dict[str, Any]) -> Any:
    """Return the value in a file, which was written with ``options``.

    Raises:
        VerificationError: it differs from the written value.
    """
    binary, shared = options.get("mode") != "ascii", options.get("referenced", True)
    read = read_t7(path)
    if found := difference(value, read, exact_nan=binary, shared=shared):
        raise not_as_written(path, detail=found)
    return read


class T7(Format):
    """The format ``.t7``."""

    suffix = ".t7"
    bfloat16 = False
    options = ("input", "tensor_type", *_ENCODING)
    data = rebuilt = True
    origin_beside = False  # the format has no metadata

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        obj = context.written = to_lua(module, tensor_type=context.options.get("tensor_type"), input=context.example)
        _write(path, obj, context.options)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        read = _read_back(path, context.written, context.options)
        model = select(read, None, path.name, together=True)[0] if isinstance(read, LuaTable) else read
        check_loads(module, lambda options: convert_object(model, options)[0], same_names=False)

    def read_data(self, path: Path) -> Any:
        return collect(read_t7(path)).plain

    def data_difference(self, expected: Path, found: Path) -> str:
        values = read_t7(expected), read_t7(found)
        text = difference(*values, ordered=False)
        # plain data name the value, but have one name for the keys 1 and "1"
        return "" if text is None else first_difference(*(collect(v).plain for v in values)) or text

    def write_data(self, found: Data, path: Path) -> None:
        if of_models := sorted(found.options.keys() - {*_ENCODING}):
            raise OptionError(f"{of_models[0]}= is an option for models, but the file contains only data")
        found.dropped.clear()  # .t7 supports functions, and tables that contain themselves
        _write(path, found.lua, found.options)
        with reading_back(path):
            _read_back(path, found.lua, found.options)


FORMAT = T7()
