"""Long tables of strings: what is read at once is what is read one by one."""

from __future__ import annotations

import random
import struct
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


def plain(value: Any, depth: int = 5) -> Any:
    """What ``value`` holds, as values that compare; damage may make a table that holds itself."""
    if isinstance(value, LuaTable) and depth:
        return [(repr(k), plain(v, depth - 1)) for k, v in value.items()]
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


class OneByOne(FastReader):
    """The reader without runs."""

    def _run(self, entries: dict[Any, Any], left: int, pos: int) -> tuple[int, int]:
        return pos, left


@pytest.mark.parametrize("window", [600, 1 << 16])
def test_a_damaged_run_is_what_its_pairs_are(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpnn_bridge.loaders.stream._FIRST_WINDOW", window)
    monkeypatch.setattr("dpnn_bridge.loaders.stream._LARGEST_WINDOW", 2 * window)
    damaged = 0
    for seed in range(120):
        source = random.Random(seed)
        data = bytearray(dumps(LuaTable({1: table(source), 2: "behind"})))
        for _ in range(source.randrange(1, 3)):
            data[source.randrange(len(data))] = source.choice([0, 1, 2, 3, 5, 255, source.randrange(256)])
        if source.random() < 0.2:
            del data[source.randrange(16, len(data)) :]

        def read(kind: type[Reader], data: bytes = bytes(data)) -> Any:
            try:
                return plain(kind(BinaryStream(BytesSource(data)), **OPTIONS).read())
            except T7FormatError as error:
                return error.offset, str(error)

        found = read(FastReader)
        assert found == read(OneByOne), seed
        damaged += isinstance(found, tuple)
    assert 20 < damaged < 100


@pytest.mark.parametrize(
    "value",
    [
        LuaTable.from_list(["a", "b", "c"]),  # values and keys of a short table
        LuaTable({"a": 1, "b": 2, "c": 3}),
        LuaTable.from_list(f"word{i % 7:06d}" for i in range(1000)),
    ],
    ids=["values", "keys", "run"],
)
def test_no_more_strings_are_kept_than_the_limit(value: LuaTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpnn_bridge.loaders.fast_reader._MAX_CACHED", 2)
    reader = FastReader(BinaryStream(BytesSource(dumps(value))), **OPTIONS)
    assert plain(reader.read()) == plain(value)
    assert len(reader._strings) == 2


def bits(number: int) -> bytes:
    """A Lua number of these bits."""
    return struct.pack("<iq", 1, number)


SIGNALING_NAN = 0x7FF0000000000001


def test_a_key_that_is_nan_in_a_run_is_an_error() -> None:
    for value in ("word", "core"), ("word", "word" * 2), ("word", "words"):  # of one length, of several
        data = dumps(LuaTable((100.5 + i, value[i % 2]) for i in range(1000)))
        at = data.index(struct.pack("<id", 1, 800.5))
        damaged = data[:at] + bits(SIGNALING_NAN) + data[at + 12 :]
        with pytest.raises(T7FormatError, match="nan"):
            loads(damaged)


@pytest.mark.filterwarnings("error")
def test_values_that_are_nan_are_read_without_a_warning() -> None:
    data = dumps(LuaTable.from_list([0.5, 7.25] * 500)).replace(struct.pack("<id", 1, 7.25), bits(SIGNALING_NAN))
    assert [repr(v) for v in loads(data).values()] == ["0.5", "nan"] * 500


def test_a_search_in_vain_does_not_end_those_that_come() -> None:
    odd = [[(f"layer{i}", True if i % 50 == 40 else "x") for i in range(300)] for _ in range(30)]
    words = [[(f"{i}{'-' * (i % 7)}", i) for i in range(300)] for _ in range(30)]
    value = LuaTable.from_list(LuaTable(pairs) for both in zip(odd, words, strict=True) for pairs in both)
    assert plain(loads(dumps(value))) == plain(value)


@pytest.mark.parametrize("count", [100, 10_000])
def test_a_table_of_strings_has_no_other_key(count: int) -> None:
    pairs = [(f"word{i}", i) for i in range(count)]
    entries = loads(dumps(LuaTable(pairs))).entries
    assert list(entries.items()) == pairs
    assert list(reversed(entries)) == [key for key, _ in reversed(pairs)]
    assert 0 not in entries
    assert loads(dumps(LuaTable([*pairs, (0, "zero")]))).entries[0] == "zero"


def test_a_run_of_strings_that_look_like_heads() -> None:
    value = LuaTable((f"{i}" + "\2\0\0\0\4\0\0\0wordx" * (i % 9), "\2\0\0\0\xff\0\0\0" * (i % 5)) for i in range(5000))
    assert plain(loads(dumps(value))) == plain(value)


def test_repeated_strings_are_one_object(tmp_path: Any) -> None:
    write_t7(tmp_path / "labels.t7", LuaTable.from_list(["cat", "dog"] * 1000))
    assert len({id(v) for v in read_t7(tmp_path / "labels.t7").values()}) == 2
