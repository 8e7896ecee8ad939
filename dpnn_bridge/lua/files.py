"""Implement torch.MemoryFile, torch.DiskFile and torch.PipeFile: typed reads and writes, binary or text.

Objects (readObject, writeObject) are read and written in prelude/file.lua, because classes may define how.
"""

from __future__ import annotations

import ctypes
import io
import os
import struct
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dpnn_bridge.base.atomic import replacing
from dpnn_bridge.base.writing import open_output
from dpnn_bridge.errors import OutputError
from dpnn_bridge.lua.arguments import check_int, check_string, describe
from dpnn_bridge.lua.tensor import NUMPY_DTYPES, Storage, TorchError
from dpnn_bridge.lua.text import to_system
from dpnn_bridge.lua.text_numbers import format_numbers, read_number, read_numbers

_MODES = ("r", "w", "rw")
#: struct codes of element types; for a single number, struct is faster than numpy
_CODES = {"Byte": "B", "Char": "b", "Short": "h", "Int": "i", "Long": "q", "Float": "f", "Double": "d"}


class CannotOpenError(TorchError):
    """The operating system cannot open a file; a quiet constructor returns nil instead."""


def _check_mode(mode: Any) -> str:
    if mode not in _MODES:
        raise TorchError("bad argument #2 (file mode should be 'r','w' or 'rw')")
    return mode


@cache
def _struct(code: str) -> struct.Struct:
    return struct.Struct(code)


class File:
    """Base of the file classes, on a binary Python stream."""

    class_name = "torch.File"
    #: result of ``tostring``: the file, its status, and its mode
    _description = "{0.class_name} on <{0.name}> [status: {1} -- mode: {2}]"

    def __init__(self, stream: BinaryIO | io.BytesIO, mode: str, name: str) -> None:
        self.stream: Any = stream
        self.name = name
        self.readable, self.writable = "r" in mode, "w" in mode
        self.binary = self.quiet = self.has_error = False
        self.auto_spacing = True
        self.long_size = 8
        self.byte_order = "="
        self._window: np.ndarray | None = None  # memory that Lua reads

    def opened(self) -> Any:
        if self.stream is None:
            raise TorchError("attempt to use a closed file")
        return self.stream

    def _reading(self) -> Any:
        stream = self.opened()
        if not self.readable:
            raise TorchError("attempt to read in a write-only file")
        return stream

    def _writing(self) -> Any:
        stream = self.opened()
        if not self.writable:
            raise TorchError("attempt to write in a read-only file")
        return stream

    def fail(self, message: str) -> None:
        """Record an error, and raise it unless the file is quiet."""
        self.has_error = True
        if not self.quiet:
            raise TorchError(message)

    def _binary_type(self, ty: str) -> np.dtype:
        dtype = np.dtype(np.int32) if ty == "Long" and self.long_size == 4 else NUMPY_DTYPES[ty]
        return dtype if self.byte_order == "=" else dtype.newbyteorder(self.byte_order)  # type: ignore[arg-type]

    # ---- elements

    def read(self, ty: str, count: int) -> np.ndarray:
        """Read ``count`` elements; fewer are an error."""
        stream = self._reading()
        if count < 0:
            raise TorchError(f"bad argument #2 (cannot read {count} elements)")
        if count == 0:
            return np.empty(0, NUMPY_DTYPES[ty])
        if self.binary or ty in ("Byte", "Char"):
            dtype = self._binary_type(ty)
            data = stream.read(count * dtype.itemsize)
            values = np.frombuffer(data, dtype, len(data) // dtype.itemsize).astype(NUMPY_DTYPES[ty])
        else:
            values = read_numbers(stream, ty, count)
        if not self.binary and self.auto_spacing:
            self._skip_newline()
        if len(values) != count:
            self.fail(f"read error: read {len(values)} blocks instead of {count}")
        return values

    def _code(self, ty: str) -> struct.Struct:
        return _struct(self.byte_order + ("i" if ty == "Long" and self.long_size == 4 else _CODES[ty]))

    def read_number(self, ty: str) -> float:
        """Read one element; return 0 if there is none and the file is quiet."""
        if not self.binary:
            if self.auto_spacing and ty not in ("Byte", "Char"):
                value = read_number(self._reading(), ty)
                if value is not None:
                    return value
            values = self.read(ty, 1)
            return values[0].item() if len(values) else 0
        code = self._code(ty)
        data = self._reading().read(code.size)
        if len(data) == code.size:
            return code.unpack(data)[0]
        self.fail("read error: read 0 blocks instead of 1")
        return 0

    def write_number(self, ty: str, value: float) -> None:
        """Write one element; ``value`` must already be converted to the element type."""
        if self.binary:
            self._put(self._code(ty).pack(value))
        elif self.auto_spacing and ty not in ("Byte", "Char"):
            self._put(f"{format_numbers(ty, [value], '')}\n".encode())
        else:
            self.write(ty, np.array([value], NUMPY_DTYPES[ty]))

    def _format(self, text: bool) -> str | None:
        """Return the format of numbers if Lua can decode and encode it: ``"memory"``, ``"text"`` or None.

        Args:
            text: whether Lua can parse and format numbers.
        """
        if self.binary:
            return "memory" if self.byte_order == "=" and self.long_size == 8 else None
        return "text" if text and self.auto_spacing else None

    def window(self, most: float, text: bool) -> tuple[int, int, int, bool] | None:
        """Read up to ``most`` bytes from the current position into memory that Lua then decodes.

        Returns:
            Address, number and file position of the bytes, which a 0 byte follows, and whether they are text. None if
            Lua cannot decode them, because the file is not seekable, or has another byte order or long size.
        """
        stream, form = self.stream, self._format(text)
        if stream is None or not (self.readable and form):
            return None
        with suppress(OSError, ValueError):
            if stream.seekable():
                start, data = stream.tell(), bytearray(stream.read(int(most)))
                count = len(data)
                data.append(0)
                self._window = np.frombuffer(data, np.uint8)
                return self._window.ctypes.data, count, start, form == "text"
        return None

    def output_format(self, text: bool) -> str | None:
        """Return the format in which Lua encodes objects for :meth:`put_bytes`; None if Python must write them."""
        return self._format(text) if self.stream is not None and self.writable else None

    def put_bytes(self, address: float, count: float) -> None:
        """Write ``count`` bytes of memory, which Lua has encoded."""
        self._put(ctypes.string_at(int(address), int(count)))

    def leave_window(self, position: float) -> None:
        """Move to the file position after the bytes of the window that Lua has decoded."""
        self.opened().seek(int(position))
        self._window = None

    def _skip_newline(self) -> None:
        position = self.stream.tell()
        if self.stream.read(1) != b"\n":
            self.stream.seek(position)

    def write(self, ty: str, values: np.ndarray) -> int:
        self._writing()
        if not len(values):
            return 0
        if self.binary:
            data = values.astype(self._binary_type(ty), copy=False).tobytes()
        elif ty in ("Byte", "Char"):
            data = values.tobytes()
        else:
            data = format_numbers(ty, values.tolist(), " " if self.auto_spacing else "").encode()
        data += b"\n" if self.auto_spacing and not self.binary else b""
        return len(values) if self._put(data) else 0

    def _put(self, data: bytes) -> bool:
        stream = self._writing()
        return self._write(lambda: stream.write(data))

    def _write(self, write: Callable[[], Any]) -> bool:
        """Call a function that writes; if it fails, record an error and return False, or raise unless quiet."""
        try:
            write()
        except OSError as error:
            self.fail(self._cannot_write(error))
            return False
        return True

    def synchronize(self) -> None:
        """Write the buffer to the file."""
        self._write(self.opened().flush)

    def _cannot_write(self, error: OSError) -> str:
        return f"cannot write {self.name}: {error.strerror}"

    # ---- strings and positions

    def read_string(self, how: Any) -> str:
        stream = self._reading()
        if how not in ("*a", "*l"):
            raise TorchError("bad argument #2 (format must be '*a' or '*l')")
        data = stream.read() if how == "*a" else stream.readline()
        if not data:
            self.fail("read error: read 0 blocks instead of 1")
        if how == "*l" and data.endswith(b"\n"):
            data = data[:-1]
        return data.decode("latin-1")

    def write_string(self, text: Any) -> int:
        """Write a string; return the number of bytes, 0 if writing failed and the file is quiet."""
        if not isinstance(text, str):  # nor a number, as in Torch7
            raise TorchError(f"bad argument #2 (string expected, got {describe(text)})")
        data = text.encode("latin-1")
        return len(data) if self._put(data) else 0

    def seek(self, position: Any) -> None:
        """Move to a position, counted from 1; on disk it may be beyond the end."""
        offset = check_int(position, 2) - 1
        if offset < 0:
            raise TorchError("bad argument #2 (position has to be greater than 0!)")
        self.opened().seek(offset)

    def close(self) -> None:
        stream, self.stream = self.opened(), None
        try:
            stream.close()
        except OSError as error:
            raise TorchError(self._cannot_write(error)) from None

    def describe(self) -> str:
        status = "closed" if self.stream is None else "open"
        mode = ("r" if self.readable else " ") + ("w" if self.writable else " ")
        return self._description.format(self, status, mode)


class MemoryFile(File):
    """``torch.MemoryFile([mode] | storage[, mode])``; unlike in Torch7, the storage is copied."""

    class_name = "torch.MemoryFile"
    _description = "{0.class_name} [status: {1} -- mode: {2}]"

    def __init__(self, source: Any = None, mode: Any = None) -> None:
        data = b""
        if isinstance(source, Storage):
            if source.ty != "Char":
                raise TorchError(f"bad argument #1 (torch.CharStorage expected, got {describe(source)})")
            data = source.flat.numpy().tobytes()
            if not data.endswith(b"\0"):
                raise TorchError("bad argument #1 (provided CharStorage must be terminated by 0)")
            data = data[:-1]
            mode = "rw" if mode is None else mode
        else:
            mode = "rw" if source is None else source
        super().__init__(io.BytesIO(data), _check_mode(mode), "memory")

    def seek(self, position: Any) -> None:
        """Move to a position, counted from 1; beyond the end is an error."""
        if check_int(position, 2) - 1 > len(self.opened().getbuffer()):
            self.fail(f"unable to seek at position {check_int(position, 2) - 1}")
        else:
            super().seek(position)

    def storage(self) -> Storage:
        """Return a copy of the content and a terminating 0."""
        data = bytearray(self.opened().getvalue() + b"\0")
        return Storage("Char", flat=torch.frombuffer(data, dtype=torch.int8))


class DiskFile(File):
    """``torch.DiskFile(name[, mode[, quiet]])``"""

    class_name = "torch.DiskFile"
    _description = "{0.class_name} on <{0.name}> [status: {1} -- mode {2}]"  # without a colon, as in Torch7

    def __init__(self, name: Any, mode: Any = None) -> None:
        mode = _check_mode("r" if mode is None else mode)
        name = check_string(name, 1)
        try:
            stream = self._open(to_system(name), mode)
        except OSError as error:
            raise CannotOpenError(f"cannot open <{name}> in mode {mode} ({error.strerror})") from None
        super().__init__(stream, mode, name)

    def _open(self, name: str, mode: str) -> BinaryIO:
        if mode == "rw":
            try:
                return open(name, "r+b")
            except FileNotFoundError:
                return open(name, "w+b")
        return open(name, "rb") if mode == "r" else open_output(name, replace=True)


class SavedFile(DiskFile):
    """The file of ``torch.save``: a regular file appears, or replaces an existing file, only when it is complete."""

    def __init__(self, name: Any) -> None:
        self._replacement = ExitStack()
        try:
            super().__init__(name, "w")
        except TorchError as error:
            self._replacement.__exit__(TorchError, error, None)
            raise

    def _open(self, name: str, mode: str) -> BinaryIO:
        path = Path(os.path.realpath(name))
        new = not path.exists() and path.parent.is_dir()
        if new or (path.is_file() and os.access(path, os.W_OK)):
            name = os.fspath(self._replacement.enter_context(replacing(path, force=True)))
        return super()._open(name, mode)

    def close(self) -> None:
        try:
            super().close()
            self._replacement.close()
        except (TorchError, OutputError) as error:
            self.discard()
            raise TorchError(str(error)) from None

    def discard(self) -> None:
        """Close and remove the incomplete file."""
        error = TorchError("incomplete")
        with suppress(OSError, TorchError):
            self.opened().close()
        with suppress(TorchError):
            self._replacement.__exit__(TorchError, error, None)


class PipeFile(DiskFile):
    """``torch.PipeFile(command[, mode[, quiet]])``: the output of a shell command, or its input.

    To read, the command must end first, unlike in Torch7: its complete output is kept in memory.
    """

    class_name = "torch.PipeFile"
    _description = File._description

    def __init__(self, name: Any, mode: Any = None) -> None:
        if mode not in (None, "r", "w"):
            raise TorchError("bad argument #2 (file mode should be 'r','w')")
        super().__init__(name, mode)

    def _open(self, name: str, mode: str) -> BinaryIO:
        if mode == "r":
            done = subprocess.run(name, shell=True, stdout=subprocess.PIPE, check=False)
            return io.BytesIO(done.stdout)
        self._process = subprocess.Popen(name, shell=True, stdin=subprocess.PIPE)
        return self._process.stdin  # type: ignore[return-value]

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self.writable:
                self._process.wait()
