"""A picture or an HDF5 file that a script reads is data: it selects no program and no other file."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.text import from_system

pytest.importorskip("lupa")


@pytest.fixture(scope="module")
def bridge() -> LuaBridge:
    return LuaBridge()


def test_a_picture_of_another_format_is_passed_to_no_program(
    bridge: LuaBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eps = pytest.importorskip("PIL.EpsImagePlugin")
    passed = []
    monkeypatch.setattr(eps, "Ghostscript", lambda *given: passed.append(given))
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(LuaBridgeError, match="is not a readable image"):
        bridge.execute("require('image').load(...)", str(path))
    assert passed == []


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tif", "webp"])
def test_pictures_of_the_usual_formats_are_read(bridge: LuaBridge, suffix: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (5, 4), (10, 20, 30)).save(tmp_path / f"x.{suffix}")
    picture = bridge.execute("return require('image').load(..., 3, 'byte')", str(tmp_path / f"x.{suffix}"))
    assert picture.shape == (3, 4, 5)


def stored_outside(h5py: Any, file: Any, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(24))
    file.create_dataset("x", (3,), "f8", external=[(str(folder / "raw"), 0, 24)])


def seen_outside(h5py: Any, file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (3,))
    file.create_virtual_dataset("x", layout)


def filtered(h5py: Any, file: Any, folder: Path) -> None:
    """For a filter that HDF5 does not contain, it loads every library in its plugin folder."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((3,))
    made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, made).write_direct_chunk((0,), bytes(24), 0)


def linked(h5py: Any, file: Any, folder: Path) -> None:
    file["x"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def linked_twice(h5py: Any, file: Any, folder: Path) -> None:
    file["group/outside"] = h5py.ExternalLink(str(folder / "other.h5"), "/")
    file["x"] = h5py.SoftLink("group/outside/x")


@pytest.mark.parametrize("make", [stored_outside, seen_outside, linked, linked_twice, filtered])
def test_an_hdf5_file_leads_to_no_other_file(
    bridge: LuaBridge, make: Callable[[Any, Any, Path], None], tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3.0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(h5py, file, tmp_path)
    before = (tmp_path / "other.h5").read_bytes()
    for how in ("read('x'):all()", "all()", "write('x', torch.ones(3))", "append('x', torch.ones(3))"):
        with pytest.raises(LuaBridgeError, match=r"another file|other files|the filter 32001"):
            bridge.execute(f"local file = require('hdf5').open(..., 'r+') file:{how}", str(tmp_path / "x.h5"))
    assert (tmp_path / "other.h5").read_bytes() == before


def write_group_with_filter(h5py: Any, path: Path) -> None:
    """Write a group whose names are stored with the filter 32001, which HDF5 lacks."""
    hdf5 = ctypes.CDLL(h5py.h5p.__file__)
    hdf5.H5Pset_filter.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p]
    hdf5.H5Pset_link_phase_change.argtypes = [ctypes.c_int64, ctypes.c_uint, ctypes.c_uint]
    kind = ctypes.CFUNCTYPE(*[ctypes.c_size_t, ctypes.c_uint] + 2 * [ctypes.c_size_t, ctypes.c_void_p], ctypes.c_void_p)
    call = kind(lambda flags, count, values, size, room, data: size)

    class FilterClass(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int) for name in ("version", "id", "encodes", "decodes")),
            *((name, ctypes.c_void_p) for name in ("name", "can_apply", "set_local")),
            ("call", kind),
        )

    assert hdf5.H5Zregister(ctypes.byref(FilterClass(1, 32001, 1, 1, None, None, None, call))) >= 0
    try:
        with h5py.File(path, "w", libver="latest") as file:
            made = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
            assert hdf5.H5Pset_link_phase_change(made.id, 0, 0) >= 0
            assert hdf5.H5Pset_filter(made.id, 32001, 0, 0, None) >= 0
            group = h5py.Group(h5py.h5g.create(file.id, b"g", gcpl=made))
            for i in range(50):
                group[f"x{i}"] = np.ones(2)
    finally:
        h5py.h5z.unregister_filter(32001)


@pytest.mark.skipif(os.name != "posix" or not shutil.which("cc"), reason="compiles a library")
def test_an_hdf5_file_loads_no_library(bridge: LuaBridge, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "plugins").mkdir()
    code = "void __attribute__((constructor)) run(void) { creat(RAN, 0600); }"
    library = ["-shared", "-fPIC", f'-DRAN="{tmp_path}/ran"', "-o", f"{tmp_path}/plugins/libx.so"]
    subprocess.run(["cc", "-x", "c", "-include", "fcntl.h", *library, "-"], input=code.encode(), check=True)
    write_group_with_filter(h5py, tmp_path / "x.h5")
    h5py.h5pl.prepend(os.fsencode(tmp_path / "plugins"))
    before = [h5py.h5pl.get(i) for i in range(h5py.h5pl.size())]
    try:
        for how in ("all()", "read('g'):all()", "read('g/x0'):all()", "write('g/y', torch.ones(1))"):
            with pytest.raises(LuaBridgeError):
                bridge.execute(f"local file = require('hdf5').open(..., 'r+') file:{how}", str(tmp_path / "x.h5"))
        assert [h5py.h5pl.get(i) for i in range(h5py.h5pl.size())] == before
    finally:
        h5py.h5pl.remove(0)
    assert not (tmp_path / "ran").exists()


def test_names_in_an_hdf5_file_are_bytes_of_utf_8(bridge: LuaBridge, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["é/漢"] = np.arange(3.0)
    code = """
    local file = require('hdf5').open(..., 'r+')
    local values = file:all()['é']['漢']
    file:write('ü/字', values)
    file:close()
    return values
    """
    lua = code.encode().decode("latin-1")
    assert bridge.execute(lua, str(tmp_path / "x.h5")).tolist() == [0, 1, 2]
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["ü/字"][()].tolist() == [0, 1, 2]


def endless(file: Any) -> None:
    group = file.create_group("a")
    group["up"] = group


def wide(file: Any) -> None:
    group = file.create_group("a")
    group["one"], group["other"] = group, file["/"]


def deep(file: Any) -> None:
    file.create_group("a/" * 3000)


def doubled(file: Any) -> None:
    group = file.create_group("a0")
    for i in range(1, 40):
        group["x"] = group["y"] = file.create_group(f"a{i}")
        group = group["x"]


@pytest.mark.parametrize("make", [endless, wide, deep, doubled])
def test_all_of_an_hdf5_file_ends(bridge: LuaBridge, make: Callable[[Any], None], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        make(file)
    with pytest.raises(LuaBridgeError, match=r"contains itself, or is too deep|more names than the file can contain"):
        bridge.execute("require('hdf5').open(..., 'r'):all()", str(tmp_path / "x.h5"))


def test_all_of_a_deep_file_in_its_shortest_form_is_read(bridge: LuaBridge, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        for i in range(20):
            file[f"{'a/' * 190}{i}"] = float(i)
    code = "local v = require('hdf5').open(..., 'r'):all(); for _ = 1, 190 do v = v.a end; return v['7'][1]"
    assert bridge.execute(code, str(tmp_path / "x.h5")) == 7


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize(
    ("package", "script"),
    [
        ("h5py", "require('hdf5').open(..., 'r')"),
        ("h5py", "require('hdf5').open(..., 'w')"),
        ("PIL", "image.load(...)"),
    ],
)
def test_a_pipe_is_not_waited_for(bridge: LuaBridge, package: str, script: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(LuaBridgeError, match="is not a regular file"):
        bridge.execute(f"require 'image'; require 'hdf5'; {script}", str(tmp_path / "x.png"))


@pytest.mark.parametrize(("package", "script"), [("h5py", "hdf5.open"), ("PIL", "image.load")])
def test_a_folder_is_named(bridge: LuaBridge, package: str, script: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    (tmp_path / "caf\u00e9").mkdir()
    with pytest.raises(LuaBridgeError, match=r"caf\u00e9: is a directory; name a file in it\n"):
        bridge.execute(f"require 'image'; hdf5 = require 'hdf5'; {script}(...)", from_system(tmp_path / "caf\u00e9"))


def test_links_within_an_hdf5_file_are_followed(bridge: LuaBridge, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/x"] = np.arange(3.0)
        file["a/relative"], file["b/absolute"] = h5py.SoftLink("x"), h5py.SoftLink("/a/relative")
        file["circle"], file["nothing"] = h5py.SoftLink("/circle"), h5py.SoftLink("/none")
    code = """
    local file = require('hdf5').open(..., 'r')
    local values = file:read('b/absolute'):all()
    local found = {}
    for i, path in ipairs {'circle', 'nothing', 'a/x/y'} do found[i] = select(2, pcall(file.read, file, path)) end
    file:close()
    return values, found
    """
    values, found = bridge.execute(code, str(tmp_path / "x.h5"))
    assert values.tolist() == [0, 1, 2]
    assert all("no such child" in error for error in found), found  # and not the error of pytest's time limit


def test_errors_name_a_file_with_any_characters(bridge: LuaBridge, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    code = """
    local file = require('hdf5').open(..., 'w')
    file:write('x', torch.ones(2))
    local data = file:read('x')
    data._path = '/none'
    return data:dataspaceSize()
    """
    with pytest.raises(LuaBridgeError, match=r"no such child '/none' in .*模型\.h5"):
        bridge.execute(code, str(tmp_path / "模型.h5"))
    with pytest.raises(LuaBridgeError, match="has rows of"):
        bridge.execute(
            "local file, options = hdf5.open(..., 'w'), hdf5.DataSetOptions():setChunked(2) "
            "file:write('x', torch.ones(2), options) file:append('x', torch.Tensor())",
            str(tmp_path / "y.h5"),
        )


def test_a_complete_data_set_of_small_chunks_is_read(bridge: LuaBridge, tmp_path: Path) -> None:
    """In the shortest form a chunk takes its elements and an address."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=np.arange(24_000, dtype="u1"), chunks=(2,))
    read = bridge.execute("return require('hdf5').open(..., 'r'):read('x'):all()", str(tmp_path / "x.h5"))
    assert len(read) == 24_000


def many_chunks(h5py: Any, file: Any) -> None:
    """Memory for each chunk is 4 KB, although no element is stored."""
    file.create_dataset("x", (1 << 20,), "u1", chunks=(1,))


def empty_set(h5py: Any, file: Any) -> None:
    file["x"] = h5py.Empty("f8")


def named_type(h5py: Any, file: Any) -> None:
    file["x"] = np.dtype("f8")


@pytest.mark.parametrize("make", [many_chunks, empty_set, named_type])
@pytest.mark.parametrize("how", ["read('x'):all()", "all()", "read('x'):partial({1, 1})", "read('x'):dataspaceSize()"])
def test_an_hdf5_object_without_stored_elements_is_one_error(
    make: Callable[[Any, Any], None], how: str, bridge: LuaBridge, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(h5py, file)
    with pytest.raises(LuaBridgeError, match=r"1,048,576 chunks, more than the file|has no elements: it is a type or"):
        bridge.execute(f"local file = require('hdf5').open(..., 'r') return file:{how}", str(tmp_path / "x.h5"))
