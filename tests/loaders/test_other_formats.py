"""Files that are no .t7, and those that copying has damaged, are named as what they are, with what to do."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import dpnn_bridge
from dpnn_bridge.errors import NotT7Error, T7Error, T7FormatError
from dpnn_bridge.loaders.t7_writer import dumps, write_all
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def saved(**options: object) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def tar(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def zipped(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def several() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
        archive.writestr("b.txt", "b")
    return file.getvalue()


OTHERS = {
    "pickle of protocol 4": (
        pickle.dumps({"a": 1}, 4),
        "a Python pickle that torch.save did not write.*pickle.load",
    ),
    "pickle of protocol 2": (pickle.dumps([1, 2], 2), "a Python pickle that torch.save did not write.*pickle.load"),
    "pickle of protocol 0": (
        pickle.dumps({"a": 1}, 0),
        "a Python pickle that torch.save did not write.*pickle.load",
    ),
    "list in protocol 0": (pickle.dumps([1], 0), "a Python pickle that torch.save did not write.*pickle.load"),
    "object in protocol 0": (pickle.dumps(OrderedDict(a=1), 0), "a Python pickle that torch.save did not write"),
    "PyTorch before 1.6": (
        saved(_use_new_zipfile_serialization=False),
        "a PyTorch checkpoint of a version before 1.6.*torch.load",
    ),
    "PyTorch": (saved(), "zip archive, probably a PyTorch checkpoint; load it with torch.load"),
    "PyTorch before 0.1.10": (
        tar("sys_info", "pickle", "tensors", "storages"),
        "a version before 0.1.10; .*weights_only=False",
    ),
    "tar": (tar("model.t7"), "a tar archive; unpack it first"),
    "numpy archive": (zipped(a=np.ones(2)), "a numpy archive; open it with numpy.load"),
    "zip": (several(), "a zip archive of 2 files, a.txt, b.txt; extract it first"),
    "zip without files": (b"PK\5\6" + bytes(18), "a zip archive without files; download or copy it again"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file; open it with h5py"),
    "MATLAB": (b"MATLAB 5.0 MAT-file" + bytes(99), "a MATLAB file"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x032.0" + bytes(99), "an ONNX model"),
    "ONNX without a producer": (b"\x08\x08:\x99\x01" + bytes(99), "an ONNX model"),
    "Caffe": (b"\x0a\x07AlexNet\x12\x04data" + bytes(99), "a Caffe model"),
    "Caffe definition": (b'# a net\nname: "AlexNet"\nlayer {\n', "a Caffe network definition"),
    "TensorFlow": (b"\x0a\x10\x0a\x04node\x12\x0bPlaceholder" + bytes(99), "a TensorFlow graph"),
    "page": (
        b"\n  <html><head><title>Quota exceeded</title>",
        "HTML or XML page; the server returned a page.*download it",
    ),
    "error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "an HTML or XML page"),
    "Git-LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s12--ab.t7\n", "git annex get"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(99), "an image"),
    "webp": (b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(99), "an image"),
    "raw numbers": (np.linspace(-9, 9, 999, dtype="f4").tobytes(), "an unknown binary format.*numpy.fromfile"),
    "safetensors": (struct.pack("<Q", 12) + b'{"a":1}     ', "a safetensors file"),
    "ASCII with other line ends": (
        dumps(LuaTable([("a", 1)]), mode="ascii").replace(b"\n", b"\r\n"),
        "line ends were changed",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_named(name: str, tmp_path: Path) -> None:
    content, message = OTHERS[name]
    (tmp_path / "model.t7").write_bytes(content)
    with pytest.raises(NotT7Error, match=f"(?s){message}"):
        dpnn_bridge.load(tmp_path / "model.t7")


def model() -> LuaObject:
    generator = np.random.default_rng(0)
    fields = {"weight": generator.normal(size=(40, 30)), "bias": generator.normal(size=40)}
    return LuaObject("nn.Linear", LuaTable((k, LuaTensor.from_numpy(v)) for k, v in fields.items()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.replace(b"\n", b"\r\n"), "its line ends were changed.*transfer the original again"),
        (lambda data: data.decode("latin-1").encode(), "a program has converted it as text; transfer the original"),
        (lambda data: data.decode(errors="replace").encode(), "a program has converted it as text and bytes were lost"),
    ],
)
def test_a_file_that_was_copied_as_text_says_so(damage: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.t7").write_bytes(damage(dumps(model())))  # type: ignore[operator]
    with pytest.raises(T7FormatError, match=message):
        dpnn_bridge.load(tmp_path / "model.t7")


def test_a_small_file_whose_line_ends_were_changed_says_so(tmp_path: Path) -> None:
    data = dumps(LuaTable({"a\n\n": LuaTensor.from_numpy(np.ones(3))})).replace(b"\n", b"\r\n")
    (tmp_path / "table.t7").write_bytes(data)
    with pytest.raises(T7FormatError, match="its line ends were changed"):
        dpnn_bridge.read_t7(tmp_path / "table.t7")


def test_a_damaged_file_that_was_not_copied_as_text_says_where(tmp_path: Path) -> None:
    data = bytearray(dumps(model()))
    data[120:130] = b"\xff" * 10
    (tmp_path / "model.t7").write_bytes(data)
    with pytest.raises(T7Error, match=r"byte \d+") as caught:
        dpnn_bridge.load(tmp_path / "model.t7")
    assert "transfer the original" not in str(caught.value)


def test_a_stream_that_stops_being_one_is_refused(tmp_path: Path) -> None:
    """As those of Torch before its first release: an empty tensor, then a network that no reader knows."""
    first = dumps(LuaTensor.empty("torch.DoubleTensor"))
    rest = b"nn.Sequential" * 5000
    (tmp_path / "face.net").write_bytes(first + rest)
    with pytest.raises(T7FormatError, match=rf"byte {len(first)}: the other 65,000 bytes .* before the first release"):
        dpnn_bridge.convert(tmp_path / "face.net", tmp_path / "face.npz")
    assert not (tmp_path / "face.npz").exists()


def test_a_stream_of_2012_whose_rest_begins_with_an_object_is_refused(tmp_path: Path) -> None:
    data = dumps(LuaTensor.empty("torch.DoubleTensor"), mode="ascii")
    data += dumps(LuaTable({"a": 1}), mode="ascii").replace(b"4\n1\n", b"4\n9\n") + b"nn.Sequential\n" * 5000
    (tmp_path / "face.net").write_bytes(data)
    with pytest.raises(T7FormatError, match="before the first release"):
        dpnn_bridge.convert(tmp_path / "face.net", tmp_path / "face.npz")


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_an_old_tar_checkpoint_is_named_whatever_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(NotT7Error, match=r"a PyTorch checkpoint of a version before 0\.1\.10"):
        dpnn_bridge.load(path)


def test_objects_one_after_the_other_and_a_signature_are_read(tmp_path: Path) -> None:
    write_all(tmp_path / "a.t7", [LuaTable([("a", 1)]), model(), model()])
    (tmp_path / "a.t7").write_bytes((tmp_path / "a.t7").read_bytes()[:-9000])
    assert dpnn_bridge.read_t7(tmp_path / "a.t7")["a"] == 1
    (tmp_path / "b.t7").write_bytes(dumps(LuaTable([("a", 1)])) + b"signed" * 99)
    assert dpnn_bridge.read_t7(tmp_path / "b.t7")["a"] == 1


def test_weights_of_darknet_are_not_a_nil_and_an_empty_string(tmp_path: Path) -> None:
    file, weights = tmp_path / "yolo.weights", np.random.randn(5000).astype("<f4")
    file.write_bytes(struct.pack("<4i", 0, 2, 0, 0) + weights.tobytes())
    with pytest.raises(T7FormatError, match=r"are not Torch7 objects: .* by another program, such as Darknet"):
        dpnn_bridge.read_t7(file)


@pytest.mark.parametrize("first", [b"", dumps(LuaTensor.empty("torch.DoubleTensor"))], ids=["nil", "empty tensor"])
def test_zeros_up_to_the_end_are_not_read_as_objects(first: bytes, tmp_path: Path) -> None:
    with open(tmp_path / "zeros.t7", "wb") as file:
        file.write(first)
        file.truncate(1 << 30)
    with pytest.raises(T7FormatError, match="bytes after the first object are not Torch7 objects"):
        dpnn_bridge.read_t7(tmp_path / "zeros.t7")
