"""Damaged and malicious input gives one clear error, quickly, whatever it is; what can be read is safe to use."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES
from fuzz.graphs import use
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SAMPLES

from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.errors import NotT7Error, T7Error, T7FormatError, T7LimitError
from dpnn_bridge.loaders import dumps, loads, read_all, read_t7
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

HOSTILE = FIXTURES / "hostile"
EXPECTED: dict[str, str] = json.loads((HOSTILE / "expected.json").read_text())
FORMAT = FIXTURES / "format"

#: What reading may take, in bytes per byte of the file, and besides; stated in SECURITY.md.
MEMORY_PER_BYTE, MEMORY_BASE = 64, 4 << 20


def test_the_folder_is_what_the_script_makes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make", HOSTILE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert {p.stem: p.read_bytes() for p in HOSTILE.glob("*.t7")} == {n: data for n, (data, _) in make.FILES.items()}
    assert {n: expected for n, (_, expected) in make.FILES.items()} == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_hostile_file(name: str) -> None:
    file = HOSTILE / f"{name}.t7"
    kind, _, part = EXPECTED[name].partition(": ")
    tracemalloc.start()
    start = time.perf_counter()
    try:
        value = read_t7(file)
    except T7Error as error:
        value, caught = None, error
    else:
        caught = None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert peak < MEMORY_BASE + MEMORY_PER_BYTE * file.stat().st_size
    if kind == "read":
        assert caught is None, caught
        use(value)
        assert difference(value, loads(dumps(value))) is None
        assert list(describe(file).lines())
        return
    assert caught is not None, "was read"
    assert type(caught).__name__ == kind.rstrip(":")
    assert part.removesuffix(":") in str(caught)
    assert str(file) in str(caught)
    assert str(caught).isprintable()
    if isinstance(caught, T7FormatError):
        assert caught.offset is not None
        assert 0 <= caught.offset <= file.stat().st_size


def nested_tables(depth: int) -> bytes:
    return b"".join(struct.pack("<5i", 3, n, 1, 5, 1) for n in range(1, depth + 1)) + bytes(4)


def test_a_hundred_thousand_levels() -> None:
    table = loads(nested_tables(100_000))
    depth = 0
    while table.get(True) is not None:
        table, depth = table[True], depth + 1
    assert depth == 99_999


def test_limits_name_the_place() -> None:
    with pytest.raises(T7LimitError, match=r"deeper than 100 \(max_depth\)") as caught:
        loads(nested_tables(200), max_depth=100)
    assert "more" in caught.value.path
    assert caught.value.path.startswith("[true][true]")


@pytest.mark.parametrize("mode", ["binary", "ascii"])
def test_objects_are_counted_with_and_without_content(mode: Any) -> None:
    for content in ([], [1]):
        data = dumps(LuaTable.from_list(LuaTable.from_list(content) for _ in range(2000)), mode=mode)
        with pytest.raises(T7LimitError, match=r"more than 1000 objects \(max_objects\)"):
            loads(data, max_objects=1000)


@pytest.mark.parametrize("options", [{}, {"mode": "ascii"}, {"big_endian": True, "long_size": 4}], ids=str)
def test_an_error_names_the_path(options: dict[str, Any]) -> None:
    linear = LuaObject("nn.Linear", LuaTable({"bias": 1, "weight": LuaTensor.empty()}))
    modules = LuaTable.from_list([LuaTable(), LuaTable({"x": 1}), linear])
    data = dumps(LuaTable({"epoch": 3, "model": LuaObject("nn.Sequential", LuaTable({"modules": modules}))}), **options)
    at = data.index(b"weight") + len(b"weight")
    with pytest.raises(T7FormatError) as caught:
        loads(data[: at + 2], **options)
    assert caught.value.path == "model.modules[3].weight"
    assert caught.value.offset in range(at, at + 3)


def old_pytorch() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


NOT_T7 = {
    "pytorch_zip": (None, "zip.*PyTorch.*torch.load"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), "pickle that torch.save did not write.*pickle.load"),
    "newer_pickle": (pickle.dumps({"a": 1}, protocol=4), "pickle that torch.save did not write.*pickle.load"),
    "old_pytorch": (old_pytorch(), "PyTorch checkpoint of a version before 1.6.*torch.load"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git-LFS.*git lfs pull"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML.*download"),
    "html_2": (b"\n <html>", "HTML"),
    "text": (b"This is a readme, not a model.\nSee elsewhere.\n", "text that begins with 'This is"),
    "symlink": (b"../weights/model_v2.t7", "symbolic link.*model_v2.t7"),
    "empty": (b"", "empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(30), "image"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(30), "HDF5"),
    "numpy": (b"\x93NUMPY\1\0" + bytes(30), "numpy"),
    "lua": (b"\x1bLJ\2\0\x0c@gen.lua", "Lua code"),
    "noise": (b"\xde\xad\xbe\xef" * 9, "de ad be ef"),
}


@pytest.mark.parametrize("name", NOT_T7)
def test_another_kind_of_file(name: str, tmp_path: Path) -> None:
    data, pattern = NOT_T7[name]
    if data is None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", b"")
        data = archive.getvalue()
    path = tmp_path / "model.t7"
    path.write_bytes(data)
    with pytest.raises(NotT7Error, match=pattern) as caught:
        read_t7(path)
    assert str(caught.value).startswith(f"{path}, byte 0: not a Torch7 file but ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torch-demos__mnist_convnet", "char-rnn__lstm", "torch-rnn__lstm"])
def test_a_transfer_as_text_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.t7"
    path.write_bytes((SAMPLES / name / "model.t7").read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(T7FormatError, match=r"line ends were changed.*binary mode") as caught:
        read_t7(path)
    assert "register_framing" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotT7Error, match="no such file"):
        read_t7(tmp_path / "none.t7")
    with pytest.raises(NotT7Error, match="directory"):
        read_t7(tmp_path)
    os.mkfifo(tmp_path / "pipe.t7")
    with pytest.raises(NotT7Error, match="regular file"):
        read_t7(tmp_path / "pipe.t7")
    with pytest.raises(NotT7Error, match="cannot be opened"):
        read_t7("a\0b")


TRUNCATED = ["model_flattened.t7", "model_flattened.ascii.t7", "bigendian.t7", "long4.t7", "era/era_2016_tds.t7"]


@pytest.mark.parametrize("name", TRUNCATED)
def test_every_truncation_is_noticed(name: str) -> None:
    data = (FORMAT / name).read_bytes()
    for size in range(5, len(data) - 1, 5):
        with pytest.raises(T7FormatError):
            use(loads(data[:size]))


@pytest.mark.parametrize(("last", "at"), [(True, "a.b"), ("word", "a.b"), (1.5, "a.b"), (LuaTable(), "a.b")])
@pytest.mark.parametrize("mode", ["binary", "ascii"])
def test_a_truncation_in_the_last_value_names_it(mode: Any, last: Any, at: str) -> None:
    data = dumps(LuaTable({"a": LuaTable({"b": last})}), mode=mode).rstrip()
    for lost in (1, 2, 3) if mode == "binary" else (1,):
        with pytest.raises(T7FormatError, match=r"truncated.*(expected .*found|ends in)") as raised:
            loads(data[:-lost])
        assert raised.value.path == at


def test_a_file_truncated_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.t7"
    data = dumps(LuaTensor.from_numpy(np.arange(10_000.0)))
    path.write_bytes(data)
    tensor = read_t7(path)
    os.truncate(path, 5000)
    with pytest.raises(T7FormatError, match=r"truncated after it was opened.*lazy=False"):
        tensor.numpy()
    path.write_bytes(data)
    tensor = read_t7(path, lazy=False)
    os.truncate(path, 5000)
    assert tensor.numpy()[-1] == 9999


def test_a_file_is_read_as_often_as_security_md_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; a damaged one twice with 8-byte and twice with 4-byte longs, and its first MiB to see what damaged it."""
    data = dumps(LuaTable({f"k{i}": "x" * 200 for i in range(20_000)}))
    real, counted = FileSource.fill, []

    def fill(self: FileSource, start: int, buffer: memoryview) -> None:
        counted.append(len(buffer))
        real(self, start, buffer)

    monkeypatch.setattr(FileSource, "fill", fill)
    for cut, most in ((0, 1), (5, 4)):
        (tmp_path / "x.t7").write_bytes(data[: len(data) - cut])
        counted.clear()
        with suppress(T7FormatError):
            read_t7(tmp_path / "x.t7")
        assert sum(counted) < 1.1 * most * len(data) + (1 << 20)


def test_a_reference_leads_to_no_storage_of_another_type() -> None:
    """Elements of 8 bytes in a storage of 4-byte elements would reach beyond it."""
    storage = LuaStorage("torch.FloatStorage", 2, np.ones(2, np.float32))
    tensors = [LuaTensor("torch.FloatTensor", (2,), (1,), 0, storage) for _ in range(2)]
    before, name, behind = dumps(LuaTable.from_list(tensors), mode="ascii").rpartition(b"17\ntorch.FloatTensor")
    assert name
    assert loads(before + name + behind)[2].storage.size == 2
    with pytest.raises(T7FormatError, match=r"the storage of a torch\.DoubleTensor is"):
        loads(before + b"18\ntorch.DoubleTensor" + behind)


def test_references_that_double_are_read_once() -> None:
    value = read_t7(HOSTILE / "table_references_doubled.t7")
    depth = 0
    while isinstance(value, LuaTable):
        assert value["a"] is value["b"] or depth == 59
        value, depth = value["a"], depth + 1
    assert depth == 60


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=500)
def test_any_bytes(data: bytes) -> None:
    for start in (b"", struct.pack("<i", 3), struct.pack("<2i", 4, 1), struct.pack(">i", 4), b"3\n1\n", b"4\n1\n"):
        with suppress(T7Error):
            use(loads(start + data))


@given(st.data())
@settings(deadline=None, max_examples=500)
def test_any_words(data: st.DataObject) -> None:
    """Small ints, which mean something everywhere, in any order."""
    words = data.draw(st.lists(st.integers(-2, 9), max_size=60))
    pack = struct.Struct(data.draw(st.sampled_from("<>")) + "i").pack
    stream = b"".join(map(pack, words))
    for content in (stream, "\n".join(map(str, words)).encode()):
        with suppress(T7Error):
            use(loads(content))


SCALARS = st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5)
STRINGS = st.binary(max_size=5).map(lambda b: b.decode("utf-8", "surrogateescape"))
KEYS = st.text(max_size=3) | st.integers(-3, 9) | st.booleans()


def compounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tables = st.dictionaries(KEYS, values, max_size=4).map(LuaTable)
    return tables | st.builds(LuaObject, st.sampled_from(["nn.A", "tds.Hash"]), tables)


LUA_VALUES = st.none() | st.recursive(SCALARS | STRINGS, compounds, max_leaves=20)


@given(LUA_VALUES, st.sampled_from([{}, {"mode": "ascii"}, {"big_endian": True}, {"long_size": 4}]))
@settings(deadline=None, max_examples=300)
def test_anything_written_is_read(value: Any, options: dict[str, Any]) -> None:
    found = difference(value, loads(dumps(value, **options), **options), exact_nan="mode" not in options)
    assert found is None


def test_within_a_gigabyte_of_address_space() -> None:
    """The process itself survives everything, with little memory to spare."""
    code = (
        "import resource, sys, pathlib, numpy\n"
        "from dpnn_bridge.errors import T7Error\n"
        "from dpnn_bridge.loaders import read_all\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.t7')):\n"
        "    try:\n"
        "        read_all(path, lazy=False)\n"
        "    except T7Error:\n"
        "        pass\n"
        "print('done')\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code, str(HOSTILE)], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_read_all_of_zeros_is_many_nils() -> None:
    assert read_all(HOSTILE / "zeros.t7") == [None] * 1024


@pytest.mark.parametrize("separator", [b"\n", b" "])
def test_time_grows_with_the_size_alone(separator: bytes) -> None:
    """Storages and numbers in one endless line were once looked through again and again."""

    def stream(count: int) -> bytes:
        item = separator.join([b"1", b"%d", b"4", b"%d", b"3\nV 1", b"19\ntorch.DoubleStorage", b"2", b"1 2", b""])
        return separator.join([b"3", b"1", b"%d" % count, b""]) + b"".join(item % (n, n + 2) for n in range(count))

    times = []
    for count in (2_000, 20_000):
        data = stream(count)
        start = time.process_time()
        assert len(loads(data)) == count
        times.append(time.process_time() - start)
    assert times[1] < 30 * times[0]


@pytest.mark.parametrize("item", [b"6\n0\n", b"4\n%d\n0\n", b"3\n%d\n1\n5\n1\n", b"4\n%d\n7\ntds.Vec\n1\n"], ids=repr)
def test_memory_of_the_densest_files(item: bytes) -> None:
    data = b"".join(item % n if b"%" in item else item for n in range(1, 30_000)) + b"0\n"
    tracemalloc.start()
    loads(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_BASE + MEMORY_PER_BYTE * len(data)


@pytest.mark.parametrize("text", ["\x1b]0;x\x07", "\x9b31m", "a\nb", "\u202e", "\udc9b"])
def test_the_repr_of_a_value_does_not_act_on_a_terminal(text: str) -> None:
    assert repr(loads(dumps(LuaObject(text, LuaTable({text: 1.0}))))).isprintable()
    assert repr(loads(dumps(LuaTable({text: text})))).isprintable()
