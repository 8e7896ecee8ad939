"""Change .t7 files: tokens, graphs, bytes."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from random import Random
from typing import Any

from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.loaders import dumps, loads
from dpnn_bridge.objects import element_dtype

from .graphs import NUMBERS, STRINGS, WHOLE, changed, class_names

REPOSITORY = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
LARGEST = 1 << 13


#: a token of a binary file: its kind (code, index, count, long, double, bool, string, version, class, data), start and
#: stop. A plain tuple, which the garbage collector does not traverse.
Token = tuple[str, int, int]


class Grammar:
    """The tokens of a binary file whose classes have the ordinary payload, and the range of each value.

    Raises:
        ValueError: the file has another form.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.tokens: list[Token] = []
        self.values: list[tuple[int, int]] = []
        self.known: set[int] = set()
        try:
            self._value(0)
        except (struct.error, RecursionError) as error:
            raise ValueError(f"another form: {error}") from error

    def _take(self, kind: str, form: str) -> Any:
        start, self.at = self.at, self.at + struct.calcsize(form)
        (value,) = struct.unpack_from(form, self.data, start)
        self.tokens.append((kind, start, self.at))
        return value

    def _bytes(self, kind: str) -> bytes:
        start = self.at
        (size,) = struct.unpack_from("<i", self.data, start)
        self.at += 4 + size
        if size < 0 or self.at > len(self.data):
            raise ValueError("a string")
        self.tokens.append((kind, start, self.at))
        return self.data[start + 4 : self.at]

    def _value(self, depth: int) -> None:
        start = self.at
        code = self._take("code", "<i")
        if code == 1:
            self._take("double", "<d")
        elif code == 2:
            self._bytes("string")
        elif code == 5:
            self._take("bool", "<i")
        elif code in (3, 4, 7, 8):
            index = self._take("index", "<i")
            if index not in self.known:
                self.known.add(index)
                self._contents(code, depth + 1)
        elif code == 6:
            self._bytes("string")
            self._value(depth + 1)
        elif code != 0:
            raise ValueError(f"type {code}")
        self.values.append((start, self.at))

    def _contents(self, code: int, depth: int) -> None:
        if code == 3:
            for _ in range(2 * min(self._take("count", "<i"), len(self.data))):
                self._value(depth)
        elif code != 4:
            self._bytes("string")
            self._value(depth)
        else:
            name = self._bytes("version")
            if name.startswith(b"V "):
                name = self._bytes("class")
            text = name.decode("latin1")
            dtype = element_dtype(text)
            if dtype is None:
                self._value(depth)
            elif text.endswith("Tensor"):
                for _ in range(2 * self._take("count", "<i") + 1):
                    self._take("long", "<q")
                self._value(depth)
            else:
                start = self.at + 8
                self.at = start + self._take("long", "<q") * dtype.itemsize
                if not start <= self.at <= len(self.data):
                    raise ValueError("a storage")
                self.tokens.append(("data", start, self.at))


@functools.cache
def corpus() -> list[bytes]:
    """Return small files: the fixtures, and files of earlier findings."""
    paths = [*sorted((REPOSITORY / "fixtures").rglob("*.t7")), *sorted(CORPUS.glob("*.t7"))]
    return [data for path in paths if 0 < len(data := path.read_bytes()) <= LARGEST]


@functools.cache
def grammar_of_corpus(data: bytes) -> Grammar | None:
    """Return the tokens of a file of the corpus, which is read once."""
    return grammar(data)


def grammar(data: bytes) -> Grammar | None:
    """Return the tokens of a file; None if :class:`Grammar` does not accept it."""
    try:
        return Grammar(data)
    except ValueError:
        return None


def mutated(random: Random) -> bytes:
    """Return a changed file of the corpus."""
    files = corpus()
    return changed_file(files[random.randrange(len(files))], files, random)


def changed_file(original: bytes, files: list[bytes], random: Random) -> bytes:
    """Return a changed file, which may contain parts of the other files."""
    kind = random.randrange(20)
    if kind < 9 and (tokens := grammar_of_corpus(original)) is not None:
        data = _in_tokens(original, tokens, files, random)
        for _ in range(random.choice([0, 0, 0, 1, 2])):
            if (tokens := grammar(data)) is None:
                break
            data = _in_tokens(data, tokens, files, random)
        return data
    if kind < 16:
        return _in_graph(original, random)
    return in_bytes(original, files[random.randrange(len(files))], random)


def _in_tokens(data: bytes, tokens: Grammar, files: list[bytes], random: Random) -> bytes:
    if random.randrange(4) == 0:
        return _in_values(data, tokens, files, random)
    kind, start, stop = random.choice(tokens.tokens)
    return data[:start] + _other(kind, data[start:stop], tokens, random) + data[stop:]


def _other(kind: str, part: bytes, tokens: Grammar, random: Random) -> bytes:
    """Return a replacement for a token."""
    if kind in ("code", "index", "count", "bool", "long"):
        form = "<q" if kind == "long" else "<i"
        _, first, last = random.choice([t for t in tokens.tokens if t[0] == kind])
        (old,) = struct.unpack(form, part)
        numbers = [*WHOLE, *(2**n for n in (32, 48, 62))] if kind == "long" else WHOLE
        new = random.choice([old - 1, old + 1, random.choice(numbers), random.choice(numbers)])
        if random.randrange(3) == 0:
            return tokens.data[first:last]
        if kind == "long":
            return struct.pack("<Q", new % 2**64)
        return struct.pack("<i", new) if -(2**31) <= new < 2**31 else part
    if kind == "double":
        return struct.pack("<d", random.choice(NUMBERS))
    if kind == "data":
        return bytes(random.randrange(256) for _ in range(min(len(part), 8))) + part[8:]
    texts = [*STRINGS, *(f"V {v}" for v in ("0", "1", "7", "1.5", "9" * 15, "x"))]
    if kind == "class" or random.randrange(3) == 0:
        texts = class_names()
    raw = random.choice(texts).encode("utf-8", "surrogateescape")
    if random.randrange(8) == 0:
        return struct.pack("<i", random.choice(WHOLE)) + part[4:]
    return struct.pack("<i", len(raw)) + raw


def _in_values(data: bytes, tokens: Grammar, files: list[bytes], random: Random) -> bytes:
    """Replace a value by another value of this or another file, a reference, a number or nil."""
    start, stop = random.choice(tokens.values)
    kind = random.randrange(5)
    if kind == 0:
        first, last = random.choice(tokens.values)
        new = data[first:last]
    elif kind == 1 and (other := grammar_of_corpus(random.choice(files))) is not None:
        first, last = random.choice(other.values)
        new = other.data[first:last]
    elif kind == 2 and tokens.known:
        new = struct.pack("<2i", random.choice([3, 4, 8]), random.choice(sorted(tokens.known)))
    elif kind == 3:
        new = struct.pack("<id", 1, random.choice(NUMBERS))
    else:
        new = bytes(4)
    return data[:start] + new + data[stop:]


def _in_graph(original: bytes, random: Random) -> bytes:
    """Change values of the file, and write it in any encoding."""
    try:
        value = changed(loads(original), random)
        options: dict[str, Any] = {}
        if random.randrange(4) == 0:
            options = random.choice([{"mode": "ascii"}, {"long_size": 4}, {"big_endian": True}])
        return dumps(value, **options)
    except DpnnBridgeError:  # the file cannot be read, or the changed value cannot be written
        return original


def in_bytes(original: bytes, other: bytes, random: Random) -> bytes:
    """Return ``original`` with one to four changes of bytes."""
    data = bytearray(original)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = random.randrange(256)
        elif kind == 2:
            data[at : at + 4] = struct.pack(random.choice("<>") + "i", random.choice(WHOLE))
        elif kind == 3:
            data[at : at + 8] = struct.pack("<q", random.choice(WHOLE) << random.choice([0, 0, 30, 32]))
        elif kind == 4:
            del data[at : at + random.choice([1, 4, 8, 12, 40])]
        elif kind == 5:
            data[at:at] = data[at : at + random.choice([1, 4, 8, 12, 40])]
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            start = random.randrange(len(other) + 1)
            data[at : at + random.choice([0, 4, 8, 64])] = other[start : start + random.choice([4, 8, 64, 256])]
        elif kind == 8:  # an int of the file plus or minus a small number
            at &= ~3
            if at + 4 <= len(data):
                value = struct.unpack_from("<i", data, at)[0] + random.choice([-1, 1, 4, 8, 1000])
                struct.pack_into("<I", data, at, value & 0xFFFFFFFF)
    return bytes(data)
