"""Write ``.t7`` for Torch7."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.checkpoints.find import select
from dpnn_bridge.conversion import convert_object, to_lua
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import WriteOptions, write_t7
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.data import Data
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.verification import check_loads


def _encoding(context: ExportContext) -> dict[str, Any]:
    """Return the options of the ``.t7`` writer, such as ``mode`` and ``long_size``."""
    return {k: v for k, v in context.options.items() if k != "tensor_type"}


class T7(Format):
    """The format ``.t7``."""

    suffix = ".t7"
    bfloat16 = False
    options = ("input", "tensor_type", *(f.name for f in fields(WriteOptions)))
    data = rebuilt = True
    origin_beside = False  # the format has no metadata

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        obj = context.written = to_lua(module, tensor_type=context.options.get("tensor_type"), input=context.example)
        write_t7(path, obj, verify=False, **_encoding(context))

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        encoding = _encoding(context)
        binary, shared = encoding.get("mode") != "ascii", encoding.get("referenced", True)
        read = read_t7(path)
        if found := difference(context.written, read, exact_nan=binary, shared=shared):
            raise VerificationError(f"{path}: the content differs after reading back: {found}")
        model = select(read, None, path.name, together=True)[0] if isinstance(read, LuaTable) else read
        check_loads(module, lambda options: convert_object(model, options)[0], same_names=False)

    def write_data(self, found: Data, path: Path) -> None:
        found.dropped.clear()  # .t7 supports functions, and tables that contain themselves
        write_t7(path, found.lua, verify=False)
        if different := difference(found.lua, read_t7(path), exact_nan=True, shared=True):
            raise VerificationError(f"{path}: the content differs after reading back: {different}")


FORMAT = T7()
