"""Faults of the disk while files are read: one error that names the file, and what is to be tried again is."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.base import reading, regular
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.shards import versions_of
from dpnn_bridge.base.writing import open_output
from dpnn_bridge.errors import DpnnBridgeError, FileAccessError, NotT7Error
from dpnn_bridge.files.converting import data_difference
from dpnn_bridge.loaders import source
from dpnn_bridge.objects import LuaTable, LuaTensor

FORMATS = ("m.t7", "m.t7.gz", "m.t7.xz", "m.t7.bz2", "m.zip", "m.pt", "m.safetensors", "s.safetensors.index.json")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One model in files of every kind."""
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    torch.manual_seed(0)
    dpnn_bridge.save(tmp_path / "m.t7", nn.Sequential(nn.Linear(60, 50), nn.Tanh()))
    data = (tmp_path / "m.t7").read_bytes()
    for suffix, packed in ((".gz", gzip.compress(data)), (".xz", lzma.compress(data)), (".bz2", bz2.compress(data))):
        (tmp_path / f"m.t7{suffix}").write_bytes(packed)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("m.t7", data)
    for suffix in (".pt", ".safetensors"):
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / f"m{suffix}")
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "s.safetensors", max_shard_size="10KB")
    return tmp_path


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, int, int], list[str]]:
    """Lets the reads of files with a text in their name fail, from one on, so many of them; says which were read."""

    def install(name: str, number: int, first: int, count: int) -> list[str]:
        real, reads = reading.retry_eagain, []

        def faulty(read: Callable[[], Any], file: str) -> Any:
            def one() -> Any:
                if name in os.path.basename(file):
                    reads.append(file)
                    if first <= len(reads) < first + count:
                        raise OSError(number, os.strerror(number))
                return read()

            return real(one, file)

        monkeypatch.setattr(reading, "retry_eagain", faulty)
        monkeypatch.setattr(source, "retry_eagain", faulty)
        return reads

    return install


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("name", FORMATS)
def test_an_error_of_the_disk_names_the_file(name: str, first: int, files: Path, fault: Any) -> None:
    reads = fault(name, errno.EIO, first, 10**6)
    with pytest.raises(DpnnBridgeError, match=r"[Ii]nput/output error") as caught:
        dpnn_bridge.load(files / name)
    assert len(reads) >= first
    assert isinstance(caught.value, (FileAccessError, NotT7Error))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMATS[:5])
@pytest.mark.parametrize("call", ["stat", "open"])
def test_an_error_of_the_disk_is_none_of_the_compression(
    name: str, call: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of the disk made a compressed file one of another kind, which is to be unpacked first."""
    real, calls = getattr(os, call), 0

    def failing(path: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        if not isinstance(path, int) and os.fspath(path) == str(files / name):
            calls += 1
            if calls == fails:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, call, failing)
    for fails in range(1, 30):
        calls = 0
        try:
            dpnn_bridge.load(files / name)
        except DpnnBridgeError as error:
            assert "tale file handle" in str(error), (fails, error)  # noqa: PT017
        if calls < fails:
            break
    assert calls < fails


@pytest.mark.parametrize("name", [*FORMATS, "-00001-of-00002"])
def test_what_the_system_asks_to_try_again_is_tried_again(name: str, files: Path, fault: Any) -> None:
    reads = fault(name, errno.EAGAIN, 1, 3)
    whole = name if name in FORMATS else FORMATS[-1]
    state = dpnn_bridge.load(files / whole).state_dict()
    assert len(reads) > 3
    expected = dpnn_bridge.load(files / "m.t7").state_dict()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), expected.values(), strict=True))


@pytest.mark.parametrize("name", ["data.npz", "data.json"])
@pytest.mark.parametrize("count", [1, 10**6])
def test_an_error_of_the_disk_is_no_difference_of_the_data(name: str, count: int, tmp_path: Path, fault: Any) -> None:
    dpnn_bridge.write_t7(tmp_path / "data.t7", LuaTable({"a": LuaTensor.from_numpy(np.ones(2000))}))
    dpnn_bridge.convert(tmp_path / "data.t7", tmp_path / name)
    for first in range(1, 200):
        reads = fault(name, errno.EIO, first, count)
        try:
            assert data_difference(tmp_path / "data.t7", tmp_path / name) == ""
        except DpnnBridgeError as error:
            assert "nput/output error" in str(error)  # noqa: PT017
        if len(reads) < first:
            break
    assert len(reads) < first


@pytest.mark.parametrize("name", ["m.npz", "data.npz", "data.json"])
def test_what_was_written_is_read_back_with_the_same_patience(name: str, tmp_path: Path, fault: Any) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(60, 50))
    dpnn_bridge.write_t7(tmp_path / "data.t7", LuaTable({"a": LuaTensor.from_numpy(np.ones(2000))}))
    reads = fault(name, errno.EAGAIN, 1, 3)
    dpnn_bridge.convert((tmp_path / name).with_suffix(".t7"), tmp_path / name)
    assert len(reads) > 3


def test_a_checksum_is_that_of_the_whole_file(files: Path, fault: Any) -> None:
    expected = sha256_of(files / "m.t7")
    fault("m.t7", errno.EAGAIN, 1, 2)
    assert sha256_of(files / "m.t7") == expected


def test_opening_a_file_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"content")
    answers = [BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))]

    def opener(name: str, flags: int) -> int:
        if answers:
            raise answers.pop()
        return os.open(name, flags)

    monkeypatch.setattr(reading, "unblocked", opener)
    with reading.open_input(tmp_path / "x") as file:
        assert file.read() == b"content"


def test_the_status_of_an_input_is_asked_again(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    source, ask, calls = files / "m.t7", os.stat, iter(range(10**6))

    def every_second(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if path in (source, str(source)) and next(calls) % 2 == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return ask(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", every_second)
    assert dpnn_bridge.inspect(source).models
    dpnn_bridge.convert(source, tmp_path / "x" / "m.pt")
    assert dpnn_bridge.verify(source, tmp_path / "x" / "m.pt").ok
    assert next(calls) > 3


def test_no_pause_follows_the_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(reading, "_PAUSES", (1.0, 2.0))
    monkeypatch.setattr(reading.time, "sleep", events.append)
    with pytest.raises(BlockingIOError):
        reading.retry_eagain(lambda: events.append("attempt"), "x")
    assert events == ["attempt", 1.0, "attempt", 2.0, "attempt"]


def test_a_file_that_never_answers_is_an_error(files: Path, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAUSES", (0.0, 0.0))
    fault("m.t7", errno.EAGAIN, 1, 10**6)
    with pytest.raises(FileAccessError, match=r"m\.t7: .*[Rr]esource temporarily unavailable"):
        dpnn_bridge.load(files / "m.t7")


def test_a_read_gives_what_open_gives(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 100)
    with reading.open_input(path) as ours, open(path, "rb") as theirs:
        for size in (1, 0, 5000, 20_000, 10**6, 1):
            assert ours.read(size) == theirs.read(size)
        assert ours.seek(10) == theirs.seek(10)
        assert ours.read() == theirs.read()
        assert ours.readline() == theirs.readline() == b""


def test_a_full_disk_while_unpacking_is_one_error(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpnn_bridge.loaders import origin

    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(origin, "open_output", lambda path: open_output("/dev/full", replace=True))
    with pytest.raises(FileAccessError, match=r"[Nn]o space left on device"):
        dpnn_bridge.load(files / "m.t7.gz")


def test_a_file_that_grows_while_it_is_read_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.py").write_bytes(b"12345")
    assert regular.read_file(tmp_path / "p.py", 5) == b"12345"
    monkeypatch.setattr(regular, "_check", lambda *arguments: None)  # it was smaller
    with pytest.raises(NotT7Error, match="is larger than"):
        regular.read_file(tmp_path / "p.py", 4)
    os.truncate(tmp_path / "p.py", 1 << 28)
    tracemalloc.start()
    try:
        with pytest.raises(NotT7Error, match="is larger than"):
            regular.read_file(tmp_path / "p.py", 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # no more of it is read
    finally:
        tracemalloc.stop()


OPEN: dict[str, Callable[[Path], Any]] = {
    "bytes": reading.open_input,
    "archive": lambda path: reading.open_archive(path).__enter__(),
    "model": source.FileSource,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", OPEN)
def test_a_pipe_that_takes_the_name_of_a_checked_file_is_not_waited_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "check_file", lambda path: None)  # it found a file here
    os.mkfifo(tmp_path / "m.t7")

    def opened() -> None:
        with suppress(OSError, DpnnBridgeError):
            OPEN[name](tmp_path / "m.t7")

    thread = threading.Thread(target=opened, daemon=True)
    thread.start()
    thread.join(5)
    waits = thread.is_alive()
    if waits:
        os.close(os.open(tmp_path / "m.t7", os.O_RDWR))  # it ends
    assert not waits


def test_a_file_that_cannot_be_closed_prints_no_traceback(tmp_path: Path) -> None:
    """Python prints an exception in ``__del__`` on stderr."""
    (tmp_path / "m.t7").touch()
    opened = source.FileSource(tmp_path / "m.t7")
    os.close(opened._file.fileno())  # closing it again is an error
    opened.__del__()


def test_an_error_of_the_disk_names_the_file_that_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.t7").touch()

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(source.os, "fstat", fail)
        with pytest.raises(OSError, match=r"m\.t7"):
            source.FileSource(tmp_path / "m.t7")


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"aaaa")
    before, status = versions_of(file), file.stat()
    file.write_bytes(b"bbbb")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert versions_of(file) != before


def test_versions_of_two_inputs_hold_together(tmp_path: Path) -> None:
    """As while one input is read within the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    with reading.one_version(versions_of(first)), reading.one_version(versions_of(second)):
        reading.open_input(first).close()
        first.write_bytes(b"333")
        with pytest.raises(DpnnBridgeError, match="changed"):
            reading.open_input(first)


def test_a_compressed_input_is_one_version(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(2, 2))
    (tmp_path / "m.t7.gz").write_bytes(gzip.compress((tmp_path / "m.t7").read_bytes()))
    dpnn_bridge.convert(tmp_path / "m.t7.gz", tmp_path / "m.pt")
    assert (tmp_path / "m.pt").exists()
