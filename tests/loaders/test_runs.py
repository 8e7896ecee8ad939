"""Long tables of strings: what is read at once is what is read one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dpnn_bridge.errors import T7FormatError
from dpnn_bridge.loaders import loads, read_t7, write_t7
from dpnn_bridge.loaders.fast_reader import FastReader
from dpnn_bridge.loaders.reader import Reader
from dpnn_bridge.loaders.source import BytesSource
from dpnn_bridge.loaders.stream import BinaryStream
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.objects import LuaTable

OPTIONS = {"referenced": True, "max_depth": 100, "max_objects": 10**6}
#: what stands before a string of one and of three bytes: none of them begins one inside of another
HEADS = [["\2\0\0\0\1\0\0\0", "a"], ["\0\0\0\2\0\0\0\3", "b"], ["\2\0\0\0", "\0\0\0\2", "c"]]
NUMBERS = [1, 2, 3.5, -7, 0, -0.0, 1e300, float("inf"), 2**53, -(2.0**60), 17]


def word(source: random.Random, length: int | None) -> str:
    alphabet = source.choice(["abc", "abcdefghij", "äß語", "a\0", "a\2", *HEADS])
    return "".join(source.choices(alphabet, k=source.randrange(300) if length is None else length))


def table(source: random.Random) -> LuaTable:
    """Pieces of runs, in pairs of several kinds, broken by others."""
    pairs: list[tuple[Any, Any]] = []
    index = 1
    for _ in range(source.randrange(1, 8)):
        length, kind = source.choice([None, 0, 1, 7, 12, 255, 256]), source.randrange(9)
        for _ in range(source.choice([1, 20, 63, 64, 65, 300, 700])):
            if kind == 0:
                pairs.append((word(source, length), source.choice(NUMBERS)))
            elif kind == 1:
                pairs.append((f"w{len(pairs):07d}", len(pairs)))
            elif kind == 2:
                pairs.append((index, f"word{index:06d}"))
                index += 1
            elif kind == 3:
                pairs.append((index, word(source, length)))
                index += source.choice([1, 1, 1, 1, 1, 1, 1, 1, 1, 2])
            elif kind == 4:
                pairs.append((word(source, length), word(source, length)))
            elif kind == 5:
                pairs.append((f"{word(source, length)}{len(pairs)}", source.choice([True, False])))
            elif kind == 6:
                pairs.append((source.choice([len(pairs) + 0.5, -len(pairs) - 1]), source.choice(NUMBERS)))
            elif kind == 7:
                pairs.append((-7 * len(pairs) - 1, word(source, length)))
            else:
                pairs.append((source.choice([True, "x", 0.5, index + 10**6]), source.choice([True, "y", LuaTable()])))
    return LuaTable(pairs)


def plain(value: Any) -> Any:
    if isinstance(value, LuaTable):
        return [(repr(k), plain(v)) for k, v in value.items()]
    return repr(value)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("window", [600, 1 << 16])
def test_a_run_is_what_its_pairs_are(big_endian: bool, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpnn_bridge.loaders.stream._FIRST_WINDOW", window)
    monkeypatch.setattr("dpnn_bridge.loaders.stream._LARGEST_WINDOW", 2 * window)
    for seed in range(60):
        value = LuaTable({1: table(random.Random(seed)), 2: "behind"})
        data = dumps(value, big_endian=big_endian)

        def read(kind: type[Reader], data: bytes = data) -> Any:
            return kind(BinaryStream(BytesSource(data), big_endian=big_endian), **OPTIONS).read()

        fast = plain(read(FastReader))
        assert fast == plain(read(Reader)) == plain(value), seed


def test_a_cut_run_is_an_error() -> None:
    data = dumps(LuaTable.from_list(f"word{i:06d}" for i in range(1000)))
    for end in (*range(16, 60), len(data) // 2, len(data) - 1):
        stream = BinaryStream(BytesSource(data[:end]))
        with pytest.raises(T7FormatError):
            FastReader(stream, **OPTIONS).read()


def test_a_run_of_strings_that_look_like_heads() -> None:
    value = LuaTable((f"{i}" + "\2\0\0\0\4\0\0\0wordx" * (i % 9), "\2\0\0\0\xff\0\0\0" * (i % 5)) for i in range(5000))
    assert plain(loads(dumps(value))) == plain(value)


def test_repeated_strings_are_one_object(tmp_path: Any) -> None:
    write_t7(tmp_path / "labels.t7", LuaTable.from_list(["cat", "dog"] * 1000))
    assert len({id(v) for v in read_t7(tmp_path / "labels.t7").values()}) == 2
