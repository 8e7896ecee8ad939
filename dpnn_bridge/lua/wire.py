"""Encode and decode messages between a program and the process of its Lua sandbox.

A message is a length, a JSON text of that length, and the raw bytes of tensors. No part of a message is code.
Everything that the process sends is checked before use: lengths against a limit before memory is allocated, shapes of
tensors against their bytes, keys of dicts by :mod:`dpnn_bridge.loaders.hash_flood`. Decoding also stops at the deadline
of the call. Values in the text::

    null, boolean, number, string
    {"l": [value, …]}   list            {"s": [value, …]}         several results
    {"t": i}            tensor i        {"d": [[key, value], …]}  dict
    {"b": i}            bytes i         {"r": …}                  a value that stays in the process
"""

from __future__ import annotations

import io
import json
import math
import os
import select
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.hash_flood import Chunks
from dpnn_bridge.loaders.stream import LimitError
from dpnn_bridge.lua.tensor import PASSED_DTYPES, check_passed

_LENGTH = struct.Struct("<Q")
#: largest JSON text, in bytes
_MAX_TEXT = 64 << 20
#: bytes of JSON that a slow machine parses in a second
_TEXT_SPEED = 16 << 20
#: largest depth of nested values
_MAX_DEPTH = 400
#: number of values that are decoded between two checks of the deadline
_CLOCK_INTERVAL = 1 << 10
#: longest wait of one call of poll in seconds; poll accepts at most 2**31 milliseconds
_MAX_WAIT = 1e6
#: integers beyond 64 bits are sent as floats, as in a bridge without a sandbox
_INT_LIMIT = 1 << 63
#: message of the error if the other side closed its pipe
ENDED = "the process ended"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in PASSED_DTYPES}


class WireError(LuaBridgeError):
    """The other side violated the protocol, took too long, or has ended."""


class Channel:
    """Sends and receives messages over two pipes of a POSIX system.

    Args:
        source: file descriptor to read from.
        target: file descriptor to write to.
        limit: largest total size of the tensors of a message, in bytes.
    """

    def __init__(self, source: int, target: int, limit: int) -> None:
        self._source, self._target, self._limit = io.FileIO(source, closefd=False), target, limit
        if sys.platform != "win32":  # where :class:`~dpnn_bridge.lua.sandbox.Sandbox` refuses to start
            os.set_blocking(source, False)
            os.set_blocking(target, False)

    def send(self, value: Any, remote: Callable[[Any], Any], deadline: float = math.inf) -> None:
        """Send a value.

        Args:
            value: the value.
            remote: returns the JSON for a value that stays in the process.
            deadline: time of :func:`time.monotonic` at which TimeoutError is raised.

        Raises:
            WireError: the other side closed its pipe.
        """
        self.write(encoded(value, remote), deadline)

    def write(self, message: Iterable[Any], deadline: float = math.inf) -> None:
        """Send a message of :func:`encoded`; the arguments and errors are those of :meth:`send`."""
        for part in message:
            data = memoryview(part)
            while data:
                try:
                    data = data[os.write(self._target, data) :]
                except BlockingIOError:
                    _wait(self._target, True, deadline)
                except OSError:
                    raise WireError(ENDED) from None

    def receive(self, remote: Callable[[Any], Any], deadline: float = math.inf) -> Any:
        """Return the value of the next message.

        Args:
            remote: returns the value for the JSON of a value that stays in the process.
            deadline: time of :func:`time.monotonic` at which TimeoutError is raised.

        Raises:
            WireError: the message is invalid, or the other side closed its pipe.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        _check(length <= _MAX_TEXT, "a text that is too long")
        text = self._read(length, deadline)
        marks = sum(text.count(mark) for mark in b"[{,")  # one per value, which needs up to 512 bytes
        _check(marks <= self._limit >> 9, "more values than fit into its memory")
        if time.monotonic() + length / _TEXT_SPEED > deadline:  # json cannot be interrupted
            raise TimeoutError
        try:
            content = parse_json(text)
            _check(isinstance(content, dict) and content.keys() == {"value", "blobs"}, "a text with other keys")
            blobs, remaining = [], self._limit
            for form in content["blobs"]:
                dtype, shape, size = _form(form)
                remaining -= size
                _check(remaining >= 0, "more bytes than fit into its memory")
                blobs.append(_blob(dtype, shape, self._read(size, deadline)))
            return _Decoder(blobs, remote, deadline).decode(content["value"], 0)
        except (WireError, TimeoutError):
            raise
        except LimitError as error:
            raise WireError(f"the process sent too much data: {error}") from None
        except (ValueError, TypeError, LookupError, RuntimeError, OverflowError) as error:  # or RecursionError
            raise WireError(f"the process sent an invalid message ({type(error).__name__})") from None

    def _read(self, count: int, deadline: float) -> bytearray:
        if time.monotonic() > deadline:
            raise TimeoutError
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            _wait(self._source.fileno(), False, deadline)
            got = self._source.readinto(rest)
            if got is None:  # poll reported data, but there is none
                continue
            if not got:
                raise WireError(ENDED)
            rest = rest[got:]
        return data


def _wait(descriptor: int, to_write: bool, deadline: float) -> None:
    """Wait until a pipe can be written or read.

    Raises:
        TimeoutError: the deadline has passed.
    """
    if sys.platform == "win32":
        raise WireError("Windows cannot wait for a pipe")
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if to_write else select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left < 0:  # even if the pipe is ready
            raise TimeoutError
        if poll.poll(min(left, _MAX_WAIT) * 1000):
            return


def encoded(value: Any, remote: Callable[[Any], Any]) -> list[Any]:
    """Return the parts of a message with a value; ``remote`` is an argument of :meth:`Channel.send`.

    Raises:
        LuaBridgeError: the other side would reject the message.
    """
    encoder = _Encoder(remote)
    body = encoder.encode(value)
    text = json.dumps({"value": body, "blobs": encoder.forms}).encode("ascii")
    if len(text) > _MAX_TEXT:
        raise LuaBridgeError(f"the values take {len(text) >> 20} MB as text, which is limited to {_MAX_TEXT >> 20} MB")
    return [_LENGTH.pack(len(text)) + text, *encoder.blobs]


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(f"the process sent {what}")


class _Encoder:
    """Encodes values as JSON, and collects tensors and bytes in ``forms`` (dtype and shape) and ``blobs`` (data)."""

    def __init__(self, remote: Callable[[Any], Any]) -> None:
        self._remote = remote
        self.forms: list[Any] = []
        self.blobs: list[Any] = []

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return the JSON of a value at a depth of the text."""
        if isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
            return float(value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if depth >= _MAX_DEPTH:
            raise LuaBridgeError("the values are nested too deeply, or contain themselves")
        if isinstance(value, torch.Tensor):
            check_passed(value)
            data = value.detach().cpu().resolve_neg().contiguous()
            self.forms.append([str(data.dtype).removeprefix("torch."), list(data.shape)])
            flat = data.as_strided((data.numel(),), (1,))  # a dimension of size 1 may have any stride
            self.blobs.append(flat.view(torch.uint8).numpy() if data.numel() else b"")
            return {"t": len(self.forms) - 1}
        if isinstance(value, (bytes, bytearray)):
            self.forms.append(["bytes", [len(value)]])
            self.blobs.append(value)
            return {"b": len(self.forms) - 1}
        if isinstance(value, (list, tuple)):
            return {"s" if isinstance(value, tuple) else "l": [self.encode(v, depth + 1) for v in value]}
        if isinstance(value, Mapping):
            return {"d": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()]}
        return {"r": self._remote(value)}


def _form(form: Any) -> tuple[str, list[int], int]:
    """Check a form; return its dtype (or ``"bytes"``), its shape, and the number of bytes."""
    dtype, shape = form
    _check(dtype == "bytes" or dtype in _DTYPES, "an unknown type of tensor")
    _check(all(type(n) is int and 0 <= n < 1 << 48 for n in shape) and len(shape) <= 64, "an impossible shape")
    return dtype, shape, math.prod(shape) * (1 if dtype == "bytes" else _DTYPES[dtype].itemsize)


def _blob(dtype: str, shape: list[int], data: bytearray) -> Any:
    """Return the bytes or the tensor of a form."""
    if dtype == "bytes":
        return bytes(data)
    if not data:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    return torch.frombuffer(data, dtype=_DTYPES[dtype]).reshape(shape)


class _Decoder:
    """Decodes the values of a text.

    Args:
        blobs: the tensors and bytes of the message.
        remote: returns the value for the JSON of a value that stays in the process.
        deadline: time of :func:`time.monotonic` at which TimeoutError is raised.
    """

    def __init__(self, blobs: list[Any], remote: Callable[[Any], Any], deadline: float) -> None:
        self._blobs, self._remote, self._deadline = blobs, remote, deadline
        self._left = _CLOCK_INTERVAL

    def decode(self, value: Any, depth: int) -> Any:
        """Decode a value at a depth of the text."""
        self._left -= 1
        if not self._left:
            self._left = _CLOCK_INTERVAL
            if time.monotonic() > self._deadline:
                raise TimeoutError
        if not isinstance(value, dict):
            _check(not isinstance(value, list), "a value of unknown type")
            return value
        _check(depth < _MAX_DEPTH, "values that are nested too deeply")
        ((kind, content),) = value.items()
        if kind in ("l", "s"):
            return (list if kind == "l" else tuple)(self.decode(v, depth + 1) for v in content)
        if kind == "d":
            return self._dict(content, depth + 1)
        if kind in ("t", "b"):
            _check(type(content) is int and 0 <= content < len(self._blobs), "a reference to a missing tensor")
            blob = self._blobs[content]
            _check(isinstance(blob, torch.Tensor) == (kind == "t"), "bytes instead of a tensor")
            return blob
        _check(kind == "r", "a value of unknown type")
        return self._remote(content)

    def _dict(self, pairs: Any, depth: int) -> dict[Any, Any]:
        parts, entries = Chunks(), {}
        left = parts.first(entries, len(pairs))
        for key, value in pairs:
            decoded = self.decode(key, depth)
            _check(type(decoded) is not tuple, "a key that is several values")  # comparing long keys takes time
            entries[decoded] = self.decode(value, depth)
            left -= 1
            if not left:
                left = parts.next(entries)
        return entries
