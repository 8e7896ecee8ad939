"""Numbers that were chosen to collide as keys or indices are refused; numbers that were not are read."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dpnn_bridge
from dpnn_bridge.errors import T7FormatError, T7LimitError
from dpnn_bridge.loaders import dumps, loads
from dpnn_bridge.loaders.hash_flood import HashFloodGuard
from dpnn_bridge.loaders.stream import LimitError
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs import pt_file
from dpnn_bridge.outputs.decoded import GraphError, decode

SECONDS = 20  # of processor time; what collides without an end takes minutes


def colliding(slots: int) -> list[int]:
    """Keys of a dict with ``1 << slots`` places, a third of which stand where all of the others look."""
    size, mask = 1 << slots, (1 << slots) - 1
    orbit = [1]
    while len(orbit) < size // 3:
        orbit.append((5 * orbit[-1] + 1) & mask)
    taken = np.zeros(size, bool)
    taken[orbit] = True
    keys = np.arange(size, size << 5, dtype=np.int64)
    rest, place, good = keys.copy(), keys & mask, np.ones(len(keys), bool)
    while rest.any():
        good &= taken[place]
        rest >>= 5
        place = (place * 5 + rest + 1) & mask
    order = np.zeros(size, np.int64)
    order[orbit] = np.arange(len(orbit))
    good &= taken[place]
    found = keys[good][np.argsort(order[place[good]])]
    return [key for key in orbit if key] + found[: size * 2 // 3 - len(orbit)].tolist()


@functools.cache
def chosen() -> list[int]:
    return colliding(19)


def as_keys(keys: list[int]) -> bytes:
    return struct.pack("<3i", 3, 1, len(keys)) + b"".join(struct.pack("<idii", 1, key, 5, 1) for key in keys)


def as_indices(keys: list[int]) -> bytes:
    inner = b"".join(struct.pack("<id3i", 1, n, 3, key, 0) for n, key in enumerate(keys, 1))
    return struct.pack("<3i", 3, 2**31 - 1, len(keys)) + inner


def as_ascii(keys: list[int]) -> bytes:
    return f"3\n1\n{len(keys)}\n".encode() + b"".join(b"1\n%d\n5\n1\n" % key for key in keys)


def as_hash(keys: list[int]) -> bytes:
    head = struct.pack("<3i3si8sq", 4, 1, 3, b"V 1", 8, b"tds.Hash", len(keys))
    return head + b"".join(struct.pack("<idii", 1, key, 5, 1) for key in keys)


@pytest.mark.parametrize("form", [as_keys, as_indices, as_ascii, as_hash])
def test_keys_that_collide(form: Callable[[list[int]], bytes]) -> None:
    data, start = form(chosen()), time.process_time()
    with pytest.raises(T7LimitError, match="were chosen to collide"):
        loads(data)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(("group", "refused"), [(16, False), (500, True)])
def test_a_few_collisions_are_accepted(group: int, refused: bool) -> None:
    keys = [i % (20_000 // group) + 7 + i // (20_000 // group) * (2**61 - 1) for i in range(20_000)]  # groups of a hash
    with pytest.raises(LimitError) if refused else contextlib.nullcontext():
        HashFloodGuard().check(dict.fromkeys(keys), 0)


def test_keys_that_collide_in_a_pt(tmp_path: Path) -> None:
    pairs = b"".join(b"J" + struct.pack("<i", key) + b"K\1" for key in chosen())
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2}(" + pairs + b"u.")
    start = time.process_time()
    with pytest.raises(T7FormatError, match="were chosen to collide"):
        pt_file.read(tmp_path / "m.pt")
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param([7 + i * (2**61 - 1) for i in range(2000)], "were chosen to collide", id="one hash"),
        pytest.param([-777], "a dict has the key -777 twice", id="a key again"),
    ],
)
def test_keys_of_a_pt_that_are_set_one_at_a_time(keys: list[int], message: str, tmp_path: Path) -> None:
    keys = [*range(-9000, -99), *keys]
    pairs = b"".join(b"\x8a\x0a" + key.to_bytes(10, "little", signed=True) + b"Ns" for key in keys)
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2}" + pairs + b".")
    with pytest.raises(T7FormatError, match=message):
        pt_file.read(tmp_path / "m.pt")


def test_ids_of_a_pickle_that_collide(tmp_path: Path) -> None:
    marks = b"".join(b"r" + struct.pack("<I", key) for key in chosen())
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2}" + marks + b".")
    start = time.process_time()
    with pytest.raises(T7FormatError, match=r"object \d+ of the pickle has the id \d+; ids count the objects"):
        pt_file.read(tmp_path / "m.pt")
    assert time.process_time() - start < SECONDS


def test_keys_that_collide_in_a_graph() -> None:
    nodes = [{"table": [[key, 1] for key in chosen()]}]
    start = time.process_time()
    with pytest.raises(GraphError, match="were chosen to collide"):
        decode(json.dumps({"root": [0], "nodes": nodes}), [], {})
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(range(1, 50_001), id="array"),
        pytest.param(range(0, 5_000_000, 97), id="steps"),
        pytest.param(range(-20_000, 20_000), id="from below zero"),
        pytest.param([n << 28 for n in range(1, 20_001)], id="high bits"),
        pytest.param([n * 0.25 for n in range(20_000)], id="fractions"),
        pytest.param([2.0**61 * n for n in range(1, 20_000)], id="large"),
        pytest.param(random.Random(1).sample(range(1 << 50), 20_000), id="random"),
        pytest.param([*range(1, 9_000), *(f"k{n}" for n in range(9_000)), *range(9_000, 20_000)], id="mixed"),
    ],
)
def test_keys_that_nobody_chose(keys: list[int]) -> None:
    table = LuaTable(dict.fromkeys(keys, True))
    for mode in ("binary", "ascii"):
        assert list(loads(dumps(table, mode=mode)).keys()) == list(keys)  # type: ignore[arg-type]


def test_many_objects() -> None:
    table = LuaTable({"a": LuaTable.from_list([LuaTable({"n": n}) for n in range(30_000)])})
    assert len(loads(dumps(table))["a"]) == 30_000
    with pytest.raises(T7LimitError, match="more than 20000 objects"):
        loads(dumps(table), max_objects=20_000)
    with pytest.raises(T7LimitError, match="more than 50 objects"):
        loads(dumps(table), max_objects=50)


def test_a_model_with_such_keys(tmp_path: Path) -> None:
    path = tmp_path / "m.t7"
    path.write_bytes(as_keys(chosen()))
    start = time.process_time()
    with pytest.raises(T7LimitError):
        dpnn_bridge.load(path)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("collide", [True, False])
def test_keys_that_are_added_one_by_one_have_one_allowance(collide: bool) -> None:
    entries, guard = dict.fromkeys(range(10**9, 10**9 + 300_000, 7)), HashFloodGuard()
    guard.check(entries, 1)
    with pytest.raises(LimitError, match="chosen to collide") if collide else contextlib.nullcontext():
        for i in range(1, 300):
            entries[5 + i * (2**61 - 1) if collide else 3**20 * i * i] = None
            guard.check(entries, 1)
