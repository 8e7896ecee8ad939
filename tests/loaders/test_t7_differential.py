"""Other readers agree: the independent package torchfile, and the generic loop with the fast one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchfile
from conftest import FIXTURES

from dpnn_bridge.loaders import read_all, read_t7
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import local_file
from dpnn_bridge.loaders.reader import Reader
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.loaders.stream import BinaryStream
from dpnn_bridge.loaders.t7_reader import read_local
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: damaged files, and one that only its own program can read
REFUSED = ("bad_", "class_custom_write")
FILES = [p for p in sorted(FIXTURES.rglob("*.t7")) if "hostile" not in p.parts and not p.name.startswith(REFUSED)]
#: every format fixture and some of the models, so that a test run stays short
SAMPLE = [p for i, p in enumerate(FILES) if "format" in p.parts or (i % 10 == 0 and p.stat().st_size < 1 << 18)]

#: what torchfile 0.1.0 cannot read (and may take all memory for): ASCII, half, 32-bit longs, big endian, functions that
#: have type 6 or hold themselves, tensors as keys, true beside 1, timers, generators, torch.CudaLongTensor, tds_hash,
#: classes that write more than their fields
UNREADABLE = (
    *(".ascii.", "_ascii", "half", "long4", "bigendian", "type6", "recursive", "tensor_key", "mixed_keys", "timer"),
    *("generator", "cudalong", "2015_tds", "nn.GPU", "_GPU_", "_DPT_", "DataSet", "DataList"),
)


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    """torchfile's values: bytes for strings, dicts for tables, arrays for tensors and storages alike."""
    stack, seen = [(ours, theirs, where)], set()
    while stack:
        ours, theirs, where = stack.pop()
        if isinstance(ours, (LuaTable, LuaObject, LuaFunction)):
            if id(ours) in seen:
                continue
            seen.add(id(ours))
        if isinstance(ours, str):
            assert ours.encode("utf-8", "surrogateescape") == theirs, where
        elif isinstance(ours, LuaTable):
            assert len(ours) == len(theirs), where
            for (key, value), (their_key, their_value) in zip(ours.items(), theirs.items(), strict=True):
                stack.append((key, their_key, f"{where}, key {key!r}"))
                stack.append((value, their_value, f"{where}[{key!r}]"))
        elif isinstance(ours, LuaObject) and ours.class_name in ("tds.Hash", "tds.Vec"):
            values = dict(enumerate(theirs, 1)) if isinstance(theirs, list) else theirs
            stack.append((ours.payload, values, where))
        elif isinstance(ours, LuaObject):
            assert (ours.class_name.encode(), ours.version) == (theirs._typename, theirs._version_number), where
            stack.append((ours.payload, theirs._obj, where))
        elif isinstance(ours, LuaFunction):
            assert ours.bytecode == theirs.dumped, where
            stack.append((ours.upvalues, theirs.upvalues, where))
        elif isinstance(ours, (LuaTensor, LuaStorage)):
            assert ours.dtype == theirs.dtype, where
            np.testing.assert_array_equal(ours.numpy(), theirs, where)
        else:
            assert type(ours) is type(theirs) or abs(theirs) > 2**53 or theirs == 0, where
            assert ours == theirs or (math.isnan(ours) and math.isnan(theirs)), where


@pytest.mark.parametrize("path", [p for p in SAMPLE if not any(u in str(p) for u in UNREADABLE)], ids=lambda p: p.stem)
def test_torchfile_agrees(path: Path) -> None:
    assert_same(read_t7(path), torchfile.load(str(path), use_list_heuristic=False))


@pytest.mark.parametrize("path", SAMPLE, ids=lambda p: p.stem)
def test_the_generic_loop_agrees(path: Path) -> None:
    with local_file(path) as file:
        encoding: Encoding = read_local(file)[1]
    if encoding.ascii:
        return
    stream = BinaryStream(FileSource(path), long_size=encoding.long_size, big_endian=encoding.big_endian)
    generic = Reader(stream, referenced=True, max_depth=1000, max_objects=1 << 20)
    values = read_all(path) if path.name != "trailing_bytes.t7" else [read_t7(path)]
    for value in values:
        assert difference(value, generic.read()) is None
