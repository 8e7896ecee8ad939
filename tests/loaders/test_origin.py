"""What a file may come from: paths, addresses, open files, bytes; compressed or not; several objects; cut off."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import struct
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge.base import remote
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.errors import (
    NotT7Error,
    OptionError,
    T7Error,
    T7FormatError,
    T7LimitError,
    T7Warning,
    VerificationError,
)
from dpnn_bridge.loaders import origin, read_all, read_t7, write_all
from dpnn_bridge.objects import LuaTable, LuaTensor

LENET = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
BYTES = LENET.read_bytes()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, BYTES)
    return buffer.getvalue()


ORIGINS = {
    "bytes": BYTES,
    "bytearray": bytearray(BYTES),
    "file object": io.BytesIO(BYTES),
    "gzip": gzip.compress(BYTES),
    "bzip2": bz2.compress(BYTES),
    "xz": lzma.compress(BYTES),
    "zip": zipped("net/model.t7"),
    "zip with a readme": zipped("README", "model.t7", "__MACOSX/model.t7"),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_every_origin_gives_the_same_model(name: str, tmp_path: Path) -> None:
    x = torch.randn(1, 1, 32, 32)
    expected = dpnn_bridge.load(LENET)(x)
    value = ORIGINS[name]
    torch.testing.assert_close(dpnn_bridge.load(value)(x), expected, rtol=0, atol=0)
    if isinstance(value, bytes):
        path = tmp_path / "model.t7.packed"
        path.write_bytes(value)
        assert read_t7(path).class_name == "nn.Sequential"
        assert describe(path).models == {"": "nn.Sequential"}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_converted_files_too(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    dpnn_bridge.convert(LENET, path)
    for value in (path, path.read_bytes(), io.BytesIO(path.read_bytes()), gzip.compress(path.read_bytes())):
        assert isinstance(dpnn_bridge.load(value), torch.nn.Sequential)


def test_an_address_in_an_archive(tmp_path: Path) -> None:
    """Its file system closed the archive as soon as nobody referred to the open file of fsspec."""
    pytest.importorskip("fsspec")
    (tmp_path / "a.zip").write_bytes(zipped("README", "a.t7", "b.t7"))
    for _ in range(2):
        assert isinstance(dpnn_bridge.load(f"zip://b.t7::{(tmp_path / 'a.zip').as_uri()}"), torch.nn.Sequential)


def test_addresses() -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://zoo/model.t7.gz", "wb") as file:
        file.write(gzip.compress(BYTES))
    assert isinstance(dpnn_bridge.load("memory://zoo/model.t7.gz"), torch.nn.Sequential)
    assert isinstance(dpnn_bridge.load(f"file://{LENET}"), torch.nn.Sequential)
    with pytest.raises(NotT7Error, match=r"memory://zoo/none.t7: file not found"):
        dpnn_bridge.load("memory://zoo/none.t7")
    with pytest.raises(T7Error, match=r"nothing://x\.t7: "):
        read_t7("nothing://x.t7")


#: what a name in an archive or a store may be
NAMES = ("..", "../../up.t7", "/up.t7", "a/../../../up.t7", "\x1b[2J.t7", "a\nb.t7", "\u202e.t7", "x" * 300 + ".t7")
NAMES += ("é" * 300 + ".t7", "C:\\up.t7", "-rf.t7", "~.t7", "$(id).t7", ".t7", "%2e%2e%2fup.t7", "a\0b.t7", " ")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_names_from_outside_lead_to_no_other_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "temporary" / "files" / "here").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary" / "files"))
    monkeypatch.chdir(tmp_path / "temporary" / "files" / "here")
    assert read_t7(zipped(name)).class_name == "nn.Sequential"
    fsspec.filesystem("memory").store.clear()
    with fsspec.open(f"memory://zoo/in/{name}", "wb") as file:
        file.write(BYTES)
    assert isinstance(dpnn_bridge.load(f"memory://zoo/in/{name}"), torch.nn.Sequential)
    assert [p.name for p in tmp_path.rglob("*")] == ["temporary", "files", "here"]


def test_checksum() -> None:
    right = hashlib.sha256(BYTES).hexdigest()
    assert isinstance(dpnn_bridge.load(LENET, sha256=right.upper()), torch.nn.Sequential)
    with pytest.raises(VerificationError, match=f"its SHA-256 is {right}, expected 0000"):
        dpnn_bridge.load(LENET, sha256="0" * 64)
    for wrong in ("00", "", "z" * 64, f"sha256:{right}", "\uff10" * 64):
        with pytest.raises(OptionError, match=r"is not a SHA-256; .* takes the 64 hexadecimal digits"):
            dpnn_bridge.load("missing.t7", sha256=wrong)


def test_what_cannot_be_unpacked() -> None:
    with pytest.raises(T7FormatError, match="cannot be decompressed"):
        read_t7(gzip.compress(BYTES)[:-2000])
    with pytest.raises(NotT7Error, match=r"a zip archive of 2 files, a\.t7, b\.t7; extract it first"):
        read_t7(zipped("a.t7", "b.t7"))
    with pytest.raises(NotT7Error, match=r"a\\nb, c\.x; extract it first"):  # one line
        read_t7(zipped("a\nb", "c.x"))
    with pytest.raises(NotT7Error, match="a zip archive without files; download or copy it again"):
        read_t7(zipped("a/"))
    with pytest.raises(NotT7Error, match="text that begins with 'data'"):
        read_t7(gzip.compress(b"data"))
    arrays = io.BytesIO()
    np.savez(arrays, weight=np.ones(2))
    with pytest.raises(NotT7Error, match="a numpy archive"):
        dpnn_bridge.load(gzip.compress(arrays.getvalue()))


def test_what_unfolds_too_far_is_refused() -> None:
    """More than 64 MiB, and more than a hundred times its size."""
    with pytest.raises(T7LimitError, match="decompresses to more than 67,108,864 bytes"):
        read_t7(gzip.compress(bytes((1 << 26) + 1)))
    packed = gzip.compress(os.urandom(700_000) + bytes(80_000_000))
    with pytest.raises(T7LimitError, match=f"decompresses to more than {100 * len(packed):,} bytes"):
        read_t7(packed)


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped("a.t7")])
def test_every_compression_has_the_limit(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "_MIN_LIMIT", 8999)
    monkeypatch.setattr(origin, "_MAX_RATIO", 0)
    with pytest.raises(T7LimitError, match="decompresses to more than 8,999 bytes"):
        read_t7(packed(BYTES[:9000]))


def test_too_little_memory_to_decompress_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(packed: Any) -> Any:
        raise MemoryError

    monkeypatch.setitem(origin._COMPRESSED, b"BZh", unpack)
    with pytest.raises(T7LimitError, match="decompressing it takes more memory than available"):
        read_t7(bz2.compress(BYTES[:9]))


def test_an_xz_that_asks_for_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    packed = bytearray(lzma.compress(b"4\n1\n", check=lzma.CHECK_CRC32, filters=filters))
    size = (packed[12] + 1) * 4
    assert packed[14:16] == b"\x21\x01"  # LZMA2, and the code of its dictionary behind it
    packed[16] = 40  # 4 GiB
    packed[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(bytes(packed[12 : 12 + size - 4])))
    with pytest.raises(T7FormatError, match="cannot be decompressed: Memory usage limit exceeded"):
        read_t7(bytes(packed))


@pytest.mark.parametrize("preset", [0, 9 | lzma.PRESET_EXTREME])
def test_every_xz_of_the_usual_tools_is_read(preset: int) -> None:
    parts = b"".join(lzma.compress(part, preset=preset) + bytes(4) for part in (BYTES[:5000], b"", BYTES[5000:]))
    assert isinstance(dpnn_bridge.load(parts), torch.nn.Sequential)
    with pytest.raises(
        T7FormatError, match=r"cannot be decompressed: the data end too early; .* download the file again"
    ):
        read_t7(lzma.compress(BYTES, preset=preset)[:-9])


def test_padding_of_any_length_may_follow_a_stream_of_xz() -> None:
    assert read_t7(lzma.compress(b"1\n") + bytes(1 << 21) + lzma.compress(b"5\n") + bytes(1 << 21)) == 5


def test_an_xz_of_many_empty_streams_takes_time_for_its_size_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of what was read is copied at the end of each stream."""
    given = []

    class Decompressor:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._inner = decompressor(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            given.append(len(data))
            return self._inner.decompress(data, max_length)

    decompressor = lzma.LZMADecompressor
    monkeypatch.setattr(lzma, "LZMADecompressor", Decompressor)
    packed = lzma.compress(b"") * 4000
    with pytest.raises(NotT7Error):
        read_t7(packed)
    assert len(given) == 4000
    assert max(given) <= io.DEFAULT_BUFFER_SIZE


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93], ids=["bzip2", "lzma", "zstd"])
def test_a_zip_that_takes_any_amount_of_memory_is_refused(method: int) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.t7", b"4\n1\n")
    packed = data.getvalue().replace(
        b"PK\1\2" + b"\x3f\x03\x3f\0\2\0\x0e\0", b"PK\1\2\x3f\x03\x3f\0\2\0" + bytes([method, 0])
    )
    with pytest.raises(NotT7Error, match="another compression than deflate; extract it first"):
        read_t7(packed)


def test_an_encrypted_archive_is_not_called_damaged() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("model.t7", BYTES)
    packed = bytearray(data.getvalue())
    for flags in (6, packed.index(b"PK\1\2") + 8):  # of the part, and of its entry in the directory
        packed[flags] |= 1
    with pytest.raises(NotT7Error, match="an encrypted zip archive; extract it first"):
        read_t7(bytes(packed))


def test_text_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(T7Error, match="open it with mode 'rb'"):
        read_t7(io.StringIO("4\n1\n"))  # type: ignore[arg-type]


def test_several_objects_of_a_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "several.t7"
    write_all(path, [LuaTable({"a": 1}), LuaTable({"b": 2}), LuaTable({"c": 3})])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_all(path)) == 3
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(T7Warning, match=r"byte \d+: truncated.*; returned 2 complete objects before it") as caught:
        whole = read_all(path)
    assert caught[0].filename == __file__
    assert [dict(v) for v in whole] == [{"a": 1}, {"b": 2}]
    with pytest.raises(T7FormatError, match="truncated"):
        read_all(path, strict=True)


def test_a_copy_has_a_suffix_of_its_content() -> None:
    """Whatever the suffix of its origin says."""
    file = io.BytesIO(struct.pack("<Q", 2) + b'{"a":1}   ')
    file.name = "weights.pth"  # type: ignore[attr-defined]
    with origin.local_file(file) as local:
        assert local.path.name == "weights.pth.safetensors"


@pytest.mark.filterwarnings("ignore:.*complete object before it")
@pytest.mark.parametrize("lazy", [True, False])
def test_elements_of_a_file_that_was_cut_are_read_at_once_if_wanted(lazy: bool, tmp_path: Path) -> None:
    path = tmp_path / "several.t7"
    write_all(path, [LuaTensor.from_numpy(np.arange(10_000.0)), LuaTable({"a": 1})])
    path.write_bytes(path.read_bytes()[:-3])
    (tensor,) = read_all(path, lazy=lazy)
    assert tensor.storage.loaded is not lazy


def test_a_plain_file_needs_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file system is read-only."""

    def missing() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", missing)
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(2, 2))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt")
    assert dpnn_bridge.load(tmp_path / "m.pt").weight.shape == (2, 2)


def test_a_thread_keeps_a_file_system_for_writing_until_fsspec_makes_another() -> None:
    pytest.importorskip("fsspec")
    first, path = remote._own_store("memory://folder/file")
    assert path == "/folder/file"
    assert remote._own_store("memory://other")[0] is first
    type(first).clear_instance_cache()  # an equal one may stand for another server
    assert remote._own_store("memory://other")[0] is not first


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_changes_after_its_checksum_is_refused(
    compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "m.t7", tmp_path / "other.t7"
    for file in (path, other):
        dpnn_bridge.write_t7(file, torch.nn.Linear(2, 2))
        file.write_bytes(gzip.compress(file.read_bytes()) if compressed else file.read_bytes())
    check = origin._check_sum

    def check_and_change(file: Path, *arguments: Any) -> None:
        check(file, *arguments)
        other.replace(path)

    monkeypatch.setattr(origin, "_check_sum", check_and_change)
    with pytest.raises(T7Error, match="changed while it was read"):
        dpnn_bridge.load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_link_that_changes_and_changes_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "m.t7"

    def point(name: str) -> None:
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").replace(link)

    for name in ("a.t7", "b.t7"):
        dpnn_bridge.write_t7(tmp_path / name, nn.Linear(2, 2))
    check, check_unchanged = origin._check_sum, origin.check_unchanged

    def check_and_change(file: Path, *arguments: Any) -> None:
        check(file, *arguments)
        monkeypatch.setattr(origin, "_unpacked", lambda path, *_: point("b.t7") or path)

    def change_back(*file: Any) -> None:
        point("a.t7")
        check_unchanged(*file)

    point("a.t7")
    digits = hashlib.sha256(link.read_bytes()).hexdigest()
    monkeypatch.setattr(origin, "_check_sum", check_and_change)
    monkeypatch.setattr(origin, "check_unchanged", lambda *file: None)
    for module in (dpnn_bridge.files, dpnn_bridge.files.converting):
        monkeypatch.setattr(module, "check_unchanged", change_back)
    with pytest.raises(T7Error, match="changed while it was read"):
        dpnn_bridge.load(link, sha256=digits)
    point("a.t7")
    with pytest.raises(T7Error, match="changed while it was read"):
        dpnn_bridge.convert(link, tmp_path / "m.pt", sha256=digits)
    assert not (tmp_path / "m.pt").exists()


def test_the_origin_of_an_output_is_that_of_its_weights(tmp_path: Path) -> None:
    """Also if the input, a link, leads to another file while the checksum is computed."""
    link = tmp_path / "m.t7"
    for name in ("a.t7", "b.t7"):
        dpnn_bridge.write_t7(tmp_path / name, nn.Linear(2, 2))
    link.symlink_to("a.t7")

    def change(step: str) -> None:
        if step.startswith("writing"):
            (tmp_path / "new").symlink_to("b.t7")
            (tmp_path / "new").replace(link)

    with pytest.raises(T7Error, match="changed while it was read"):
        dpnn_bridge.convert(link, tmp_path / "m.pt", progress=change)
