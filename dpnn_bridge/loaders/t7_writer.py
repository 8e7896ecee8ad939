"""Write .t7 files and serialized strings."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal, TypedDict

from typing_extensions import Unpack

from dpnn_bridge.base.arguments import check_types, hints_of
from dpnn_bridge.base.atomic import reading_back, replacing
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.writing import not_as_written, open_compared, open_output
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.relink import relink
from dpnn_bridge.loaders.sink import AsciiSink, BinarySink
from dpnn_bridge.loaders.t7_reader import read_all
from dpnn_bridge.loaders.writer import Writer
from dpnn_bridge.objects import LuaTable


class WriteKeywords(TypedDict, total=False):
    """The fields of :class:`WriteOptions` as keyword arguments."""

    mode: Literal["binary", "ascii"]
    long_size: Literal[4, 8]
    big_endian: bool
    referenced: bool


@dataclass(frozen=True)
class WriteOptions:
    """Options of :func:`write_t7`, :func:`write_all` and :func:`dumps`.

    Attributes:
        mode: ``"binary"`` or ``"ascii"``. ASCII files preserve all values except the bits of nan.
        long_size: bytes of a C ``long`` in a binary file: 8, or 4 for 32-bit and Windows machines.
        big_endian: byte order of the machine that will load a binary file.
        referenced: False writes a copy of a shared object for each reference, as ``torch.save(…, false)`` does.
    """

    mode: Literal["binary", "ascii"] = "binary"
    long_size: Literal[4, 8] = 8
    big_endian: bool = False
    referenced: bool = True

    def __post_init__(self) -> None:
        check_types(type(self).__name__, hints_of(type(self)), vars(self))

    def writer(self, file: BinaryIO) -> Writer:
        """Return a writer for ``file``."""
        if self.mode == "ascii":
            return Writer(AsciiSink(file), referenced=self.referenced)
        sink = BinarySink(file, long_size=self.long_size, big_endian=self.big_endian)
        return Writer(sink, referenced=self.referenced)


_writing = wrap_errors(ConversionError, "writing")


@_writing
def write_t7(
    path: str | os.PathLike[str], obj: Any, *, verify: bool = True, force: bool = True, **options: Unpack[WriteKeywords]
) -> None:
    """Write a Lua value to a .t7 file that Torch7 loads. The file appears complete or not at all.

    Args:
        path: the file.
        obj: a Lua value, see :mod:`dpnn_bridge.objects`.
        verify: read the file back and compare, before it appears at ``path``.
        force: replace an existing file.
        **options: see :class:`WriteOptions`.

    Raises:
        LuaValueError: a value in the graph is not a Lua value; a number is not exact as a double; a value contains
            itself and ``referenced`` is False; a size or an element does not fit into a ``long``.
        VerificationError: the file differs after reading back.
        OutputExistsError: the file exists and ``force`` is False.

    Examples:
        >>> write_t7("model.t7", model)
    """
    write_all(path, [obj], verify=verify, force=force, **options)


@_writing
def write_all(
    path: str | os.PathLike[str],
    objects: Iterable[Any],
    *,
    verify: bool = True,
    force: bool = True,
    **options: Unpack[WriteKeywords],
) -> None:
    """Write several objects to one file, as several ``file:writeObject`` calls do. References may cross objects.

    Args and Raises: as for :func:`write_t7`.
    """
    chosen, objects = WriteOptions(**options), list(objects)
    relink(LuaTable.from_list(objects))
    with replacing(path, force=force) as temporary:
        with open_compared(temporary, tensors=True) if verify else open_output(temporary) as file:
            writer = chosen.writer(file)
            for obj in objects:
                writer.write(obj)
            file.flush()
            os.fsync(file.fileno())
        if verify:
            with reading_back(path):
                found = difference(
                    LuaTable.from_list(objects),
                    LuaTable.from_list(read_all(temporary, strict=True, **asdict(chosen))),
                    exact_nan=chosen.mode == "binary",
                    shared=chosen.referenced,
                )
            if found:
                raise not_as_written(path, detail=found)


@_writing
def dumps(obj: Any, **options: Unpack[WriteKeywords]) -> bytes:
    """Serialize a Lua value as ``torch.serialize`` does; for arguments and errors see :func:`write_t7`."""
    relink(obj)
    file = io.BytesIO()
    WriteOptions(**options).writer(file).write(obj)
    return file.getvalue()
