"""A hostile .pt or .safetensors gives one error: no view beyond a storage, no code, no more memory than the file."""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false

from __future__ import annotations

import io
import json
import os
import pickletools
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import dpnn_bridge
from dpnn_bridge.__main__ import main
from dpnn_bridge.conversion.limits import extent
from dpnn_bridge.errors import ConversionError, ConversionLimitError, DpnnBridgeError, NotT7Error, T7FormatError
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs import pt_file, safetensors_file
from dpnn_bridge.outputs.container import is_small
from dpnn_bridge.outputs.decoded import decode

NODES: list[Any] = [
    {"object": "nn.Identity", "version": 1, "payload": [1], "header": []},
    {"table": [["_type", "torch.FloatTensor"], ["note", [2]]]},
    {"tensor": "torch.ByteTensor", "shape": [2], "stride": [1], "offset": 0, "storage": [3]},
    {"storage": "torch.ByteStorage", "size": 2, "data": 0},
]
CONTENT = {
    "format": "dpnn_bridge",
    "version": 1,
    "constants": [torch.ones(2, dtype=torch.uint8)],
    "state_dict": {},
    "metadata": {},
}


def content(change: Callable[[list[Any]], Any] = lambda nodes: None, **changes: Any) -> dict[str, Any]:
    nodes = json.loads(json.dumps(NODES))
    change(nodes)
    return {"graph": json.dumps({"root": [0], "nodes": nodes}), **CONTENT, **changes}


def write(path: Path, value: dict[str, Any]) -> Path:
    if path.suffix == ".pt":
        torch.save(value, path)
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        strings = {k: value[k] if isinstance(value[k], str) else json.dumps(value[k]) for k in ("format", "graph")}
        rest = {"version": str(value["version"]), "metadata": json.dumps(value["metadata"]), "aliases": "{}"}
        tensors = {**value["state_dict"], **{f"constant:{i}": t for i, t in enumerate(value["constants"])}}
        safetensors.save_file(tensors, path, metadata=strings | rest)
    return path


def sets(index: int, **fields: Any) -> Callable[[list[Any]], Any]:
    return lambda nodes: nodes[index].update(fields)


DAMAGE: dict[str, Callable[[list[Any]], Any]] = {
    "shape": sets(2, shape=[100_000]),
    "offset": sets(2, offset=1),
    "negative offset": sets(2, offset=-1),
    "negative size": sets(2, shape=[-1]),
    "negative stride": sets(2, stride=[-1]),
    "fraction": sets(2, shape=[1.5]),
    "boolean": sets(2, shape=[True]),
    "strides missing": sets(2, stride=[]),
    "many dimensions": sets(2, shape=[1] * 33, stride=[1] * 33),
    "repeated": sets(2, shape=[1 << 40], stride=[0]),
    "storage of another type": sets(2, tensor="torch.FloatTensor"),
    "storage that is a table": sets(2, storage=[1]),
    "no tensor class": sets(2, tensor="nn.Linear"),
    "size of the storage": sets(3, size=100_000),
    "negative constant": sets(3, data=-1),
    "unknown constant": sets(3, data=1),
    "another type than the constant": sets(3, storage="torch.FloatStorage"),
    "storage without elements": lambda nodes: nodes.__setitem__(3, {"storage": "torch.ByteStorage", "size": 1 << 40}),
    "no such key": lambda nodes: nodes.__setitem__(3, {"storage": "torch.ByteStorage", "size": 2, "key": "x"}),
    "negative node": sets(1, table=[["note", [-1]]]),
    "unknown node": sets(1, table=[["note", [9]]]),
    "key that is nothing": sets(1, table=[[None, 1]]),
    "entry that is no pair": sets(1, table=[[1]]),
    "object that is a tensor": sets(0, object="torch.FloatTensor"),
    "object without a name": sets(0, object=None),
    "object without a payload": lambda nodes: nodes[0].pop("payload"),
    "module in itself": sets(1, table=[["modules", [4]]]),
    "large number": sets(1, table=[["x", 10**400]]),
    "surrogate": sets(1, table=[["x", "\ud800"]]),
    "no node": lambda nodes: nodes.append(3),
    "constant used often": lambda nodes: nodes.extend([{"bytes": 0}] * 100),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_graph(name: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"m{suffix}", content(DAMAGE[name]))
    with pytest.raises(DpnnBridgeError) as caught:
        dpnn_bridge.load(path)
    assert str(path) in str(caught.value) or "nn." in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_whole_is_read(suffix: str, tmp_path: Path) -> None:
    model = dpnn_bridge.load(write(tmp_path / f"m{suffix}", content()))
    dpnn_bridge.save(tmp_path / "m.t7", model)
    assert dpnn_bridge.read_t7(tmp_path / "m.t7")["note"].numpy().tolist() == [1, 1]


def test_other_content(tmp_path: Path) -> None:
    for i, changes in enumerate(
        [
            {"version": "1"},
            {"version": 2},
            {"graph": "[" * 100_000},
            {"graph": b"{}"},
            {"constants": {}},
            {"constants": [1]},
            {"state_dict": {"weight": 3}},
            {"state_dict": {"weight": torch.ones(1)}},
            {"metadata": None},
        ]
    ):
        path = tmp_path / f"{i}.pt"
        torch.save(content(**changes), path)
        with pytest.raises(DpnnBridgeError):
            dpnn_bridge.load(path)


def test_a_graph_without_an_object_and_an_empty_archive_name_the_file(tmp_path: Path) -> None:
    torch.save(content(graph='{"root": 1.5, "nodes": []}'), tmp_path / "x.pt")
    with pytest.raises(T7FormatError, match=r"x\.pt: the object graph is damaged .*a float, expected an object"):
        dpnn_bridge.load(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(archive_of())
    with pytest.raises(NotT7Error, match=r"x\.pt: a zip archive without files"):
        dpnn_bridge.load(tmp_path / "x.pt")
    with pytest.raises(T7FormatError, match=r"damaged.*the archive contains no records"):
        pt_file.read(tmp_path / "x.pt")


@pytest.mark.parametrize("view", [b"K\0K\x09\x85", b"K\x01K\x02\x85"], ids=["size", "offset"])
def test_a_view_beyond_its_storage_is_refused_before_it_is_made(view: bytes, tmp_path: Path) -> None:
    torch.save({"x": torch.arange(2.0)}, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    assert data.count(b"K\0K\x02\x85") == 1  # offset and size
    (tmp_path / "x.pt").write_bytes(data.replace(b"K\0K\x02\x85", view))
    with pytest.raises(T7FormatError, match="reaches beyond its storage of 2 elements"):
        pt_file.read(tmp_path / "x.pt")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


@pytest.mark.parametrize("value", [Evil(), nn.Linear(2, 2), {(1, 2): 3}, {1, 2}, 1j])
def test_more_than_plain_data(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(value, "x.pt")
    with pytest.raises(T7FormatError, match=r"x\.pt: damaged, or more than plain data"):
        dpnn_bridge.load("x.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torchscript_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Linear(2, 2))
    for words in ("inspect", path), ("verify", tmp_path / "m.t7", path), ("convert", path, tmp_path / "o.t7"):
        result = CliRunner().invoke(main, [*map(str, words)])
        assert result.exit_code
        assert f"{path.name}: TorchScript, whose layers cannot be read. Load torch.jit.load(" in result.output
    with pytest.raises(NotT7Error, match="TorchScript"):
        dpnn_bridge.load(path)


#: instructions of a pickle that the reader carries out
_READ_NAMES = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL
    BINFLOAT BININT BININT1 BININT2 LONG1 BINUNICODE BINUNICODE8 SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES
    BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET APPEND APPENDS SETITEM SETITEMS BINPERSID REDUCE BUILD
"""
READ = _READ_NAMES.split()
#: an argument of each instruction that has one, by the number of its bytes; else so many zero bytes
ARGUMENTS = {"stringnl": b"''\n", "stringnl_noescape_pair": b"a\nb\n", pickletools.UP_TO_NEWLINE: b"0\n"}
SIZES = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
SIZES |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}


@pytest.mark.parametrize("instruction", [op for op in pickletools.opcodes if op.name not in READ], ids=lambda o: o.name)
def test_an_instruction_that_plain_data_do_not_need_is_refused(instruction: Any, tmp_path: Path) -> None:
    """Also where skipping it would leave a whole value."""
    form, argument = instruction.arg, b""
    if form is not None:
        argument = ARGUMENTS.get(form.name, ARGUMENTS.get(form.n, bytes(max(0, SIZES.get(form.n, form.n)))))
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}" + instruction.code.encode("latin1") + argument + b".")
    with pytest.raises(T7FormatError, match=f"has the instruction {instruction.name},|contains an object of a class"):
        pt_file.read(tmp_path / "x.pt")


def test_elements_in_another_byte_order_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(2.0)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, zipfile.ZipFile(tmp_path / "big.pt", "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, b"big" if name.endswith("/byteorder") else archive.read(name))
    with pytest.raises(T7FormatError, match="another byte order"):
        pt_file.read(tmp_path / "big.pt")


def test_what_contains_itself(tmp_path: Path) -> None:
    value: dict[str, Any] = content()
    value["metadata"] = {"self": value}
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(T7FormatError, match="contain themselves"):
        dpnn_bridge.load(tmp_path / "x.pt")


def test_reads_what_torch_saves(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = [base, base[2:8].view(2, 3).t(), torch.ones(2, dtype=torch.bfloat16), torch.empty(0, 3), torch.tensor(5)]
    tensors += [nn.Parameter(torch.ones(2)), torch.zeros(1).expand(4), torch.tensor([True]), torch.ones(2).half()]
    torch.save({"t": tensors, "rest": (1, 2.5, "ü", None, b"x", [True])}, tmp_path / "x.pt")
    read = pt_file.read(tmp_path / "x.pt")
    assert read["rest"] == (1, 2.5, "ü", None, b"x", [True])
    for mine, theirs in zip(read["t"], tensors, strict=True):
        assert (mine.dtype, mine.stride()) == (theirs.dtype, theirs.stride())
        assert torch.equal(mine, theirs)
    assert read["t"][0].untyped_storage().data_ptr() == read["t"][1].untyped_storage().data_ptr()


def test_an_archive_with_compressed_or_overlapping_records(tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    with pytest.raises(T7FormatError, match="compressed"):
        dpnn_bridge.load(tmp_path / "y.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 42 : entry + 46] = bytes(4)  # the last record begins where the first does
    (tmp_path / "z.pt").write_bytes(data)
    with pytest.raises(DpnnBridgeError):
        dpnn_bridge.load(tmp_path / "z.pt")


def archive_of(*records: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are duplicate
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


PLAIN = b"\x80\x02}."
#: a tuple of lists, each of which contains the one before it twice
DOUBLING = b"(]q\0" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 27)) + b"t"
HUGE = b"\x8a\xff" + b"\x7f" * 255


def storage(kind: bytes = b"ctorch\nFloatStorage\n", size: bytes = b"K\1", after: bytes = b"") -> bytes:
    """Return a pickle that reads a storage, or a tensor if ``after`` has its offset, sizes and strides."""
    before = b"ctorch._utils\n_rebuild_tensor_v2\n(" if after else b""
    texts = [b"X%c\0\0\0%s" % (len(text), text) for text in (b"storage", b"0", b"cpu")]
    return b"\x80\x02" + before + b"(" + texts[0] + kind + texts[1] + texts[2] + size + b"tQ" + (after or b".")


TRICKS: dict[str, Callable[[], bytes]] = {
    "a record twice": lambda: archive_of(("a/data.pkl", PLAIN), ("a/data.pkl", b"\x80\x02].")),
    "a record in two folders": lambda: archive_of(("a/data.pkl", PLAIN), ("b/data.pkl", PLAIN)),
    "a bomb": lambda: archive_of(("a/data.pkl", bytes(50_000_000)), method=zipfile.ZIP_DEFLATED),
    "a bomb beside it": lambda: archive_of(
        ("a/data.pkl", PLAIN), ("a/data/0", bytes(1 << 20)), method=zipfile.ZIP_LZMA
    ),
    "no pickle": lambda: archive_of(("a/version", b"3")),
    "names that lead out": lambda: archive_of(("../../data.pkl", PLAIN), ("/etc/passwd", b"x"), ("a/../b", b"x")),
    "many records": lambda: archive_of(("a/data.pkl", b"\x80"), *((f"a/data/{i}", b"") for i in range(5_000))),
    "a name of 60,000 characters": lambda: archive_of(("a/" + "x" * 60_000, b""), ("a/data.pkl", b"c")),
    "a directory that says more": lambda: archive_of(("a/data.pkl", PLAIN))[:-12] + b"\xff\xff" * 4 + bytes(4),
    "a pickle that is deep": lambda: archive_of(("a/data.pkl", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")),
    "a pickle with a huge number": lambda: archive_of(("a/data.pkl", b"\x80\x02\x8b\xff\xff\xff\x7f.")),
    "a pickle with a huge text": lambda: archive_of(("a/data.pkl", b"\x80\x02X\xff\xff\xff\x7f.")),
    "a type that doubles": lambda: archive_of(("a/data.pkl", storage(kind=DOUBLING))),
    "a size that doubles": lambda: archive_of(("a/data.pkl", storage(size=DOUBLING)), ("a/data/0", bytes(4))),
    "a size of nothing that doubles": lambda: archive_of(("a/data.pkl", storage(size=DOUBLING))),
    "a shape of huge numbers": lambda: archive_of(
        ("a/data.pkl", storage(after=b"K\0(" + HUGE + b"q\2" + b"h\2" * 2000 + b"tq\3h\3tR.")),
        ("a/data/0", bytes(4)),
    ),
    "a pickle that doubles": lambda: archive_of(("a/data.pkl", b"\x80\x02)" + b"q\0h\0h\0\x86" * 200 + b".")),
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_of_archives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pt").write_bytes(TRICKS[name]())
    start = time.process_time()
    with pytest.raises(DpnnBridgeError) as caught:
        dpnn_bridge.load("x.pt")
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 5000
    assert os.listdir() == ["x.pt"]


def test_what_an_archive_repeats_is_refused(tmp_path: Path) -> None:
    """Each alone is a file that would be read."""
    (tmp_path / "twice.pt").write_bytes(archive_of(("a/data.pkl", PLAIN), ("a/data.pkl", PLAIN)))
    torch.save(torch.zeros(1).expand(pt_file.MAX_REPEATED + 2), tmp_path / "often.pt")
    torch.save(torch.zeros(1).as_strided((1,), (1 << 50,)), tmp_path / "far.pt")
    text = b"c_codecs\nencode\nq\0X\x10\0\0\0" + b"x" * 16 + b"q\1X\6\0\0\0latin1q\2" + b"h\0h\1h\2\x86R" * 50
    (tmp_path / "text.pt").write_bytes(archive_of(("a/data.pkl", b"\x80\x02" + text + b".")))
    for name, reason in (
        ("text", "encodes strings again and again"),
        ("twice", "duplicate"),
        ("often", "repeat their elements"),
        ("far", "and strides"),
    ):
        with pytest.raises(T7FormatError, match=reason):
            pt_file.read(tmp_path / f"{name}.pt")


#: a type, a function or a key that torch.save does not write for plain data, each alone, and the reason of the refusal
UNUSUAL: dict[str, tuple[bytes, str]] = {
    "a storage of another kind": (storage().replace(b"X\7\0\0\0storage", b"X\6\0\0\0module"), "a storage has the type"),
    "a storage of six values": (storage().replace(b"tQ", b"NtQ"), "a storage has 6 values, expected 5"),
    "a storage of a text as type": (
        storage().replace(b"ctorch\nFloatStorage\n", b"X\x12\0\0\0torch FloatStorage"),
        "a storage has the type",
    ),
    "a storage that is too large": (storage(size=b"K\0"), "has another size"),
    "a parameter of a number": (b"ctorch._utils\n_rebuild_parameter\nK\1\x85R.", "expected Tensor, got int"),
    "a dict of pairs": (b"ccollections\nOrderedDict\n]\x85R.", r"OrderedDict with other arguments"),
    "a text as a function": (b"X\x17\0\0\0collections OrderedDict)R.", "calls a value"),
    "another encoding": (b"c_codecs\nencode\nX\1\0\0\0xX\5\0\0\0utf-8\x86R.", "encode with other arguments"),
    "a function as a value": (b"ctorch\nFloatStorage\n.", "not plain data"),
    "a key that is nothing": (b"}NK\1s.", "a key is a NoneType"),
    "a key that is bytes": (b"}C\1aK\1s.", "a key is a bytes"),
    "a key that is a function": (b"}ctorch\nload\nK\1s.", "a key is a _Name"),
    "a key without a value": (b"}(K\1u.", "a key without a value"),
    "a list that is deep": (b"]" * 250 + b"a" * 249 + b".", "nested too deeply"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_plain_data_do_not_contain_is_refused(name: str, tmp_path: Path) -> None:
    pickled, reason = UNUSUAL[name]
    data = archive_of(("a/data.pkl", b"\x80\2" + pickled.removeprefix(b"\x80\2")), ("a/data/0", bytes(4)))
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(T7FormatError, match=reason):
        pt_file.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(8, 1, "no record at byte 0"), (10, 8, "is compressed"), (10, 12, "is compressed"), (24, 3, "is compressed")],
    ids=["encrypted", "deflated to its own size", "another method", "another size"],
)
def test_a_record_is_what_its_entry_says(place: int, value: int, reason: str, tmp_path: Path) -> None:
    data = bytearray(archive_of(("a/data.pkl", PLAIN)))
    data[data.index(b"PK\1\2") + place] = value
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(T7FormatError, match=reason):
        pt_file.read(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.zip"])
def test_a_directory_larger_than_any_model_needs(name: str, tmp_path: Path) -> None:
    """It would be read whole, and take ten times its size in memory."""
    size = 3 << 30
    with open(tmp_path / name, "wb") as file:
        file.write(b"PK\x03\x04".ljust(30, b"\0"))
        file.seek(30 + size)  # no block of the disk holds the zeros
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 30, 0))
    with pytest.raises(DpnnBridgeError, match="directory has 3,221,225,472 bytes"):
        dpnn_bridge.load(tmp_path / name)


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    for value in ("NaN", "Infinity", "1e999", "9" * 5000, "[0, NaN]", "-0.0", '"4"', "true"):
        for entry in (f'"shape": [{value}], "data_offsets": [0, 4]', f'"shape": [1], "data_offsets": [0, {value}]'):
            text = f'{{"a": {{"dtype": "F32", {entry}}}}}'.encode()
            (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
            with pytest.raises(DpnnBridgeError, match=r"m\.safetensors"):
                dpnn_bridge.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_loaded_file_may_be_overwritten(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    dpnn_bridge.save(path, nn.Linear(300, 300))
    model = dpnn_bridge.load(path)
    before = model.weight.sum().item()
    with open(path, "r+b") as file:
        file.truncate(10)
    assert model.weight.sum().item() == before
    with pytest.raises((NotT7Error, T7FormatError)):
        dpnn_bridge.load(path)


def header(entries: dict[str, Any], data: int) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        (1 << 62).to_bytes(8, "little") + b"{}",
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, 4),
        header({"a": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 0]}}, 0),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 8),
        header({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, 4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, 4),
        header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, 4),
        header({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}, 4),
        header({"a": 1}, 0),
        header({"__metadata__": {"format": 1}}, 0),
        header({"__metadata__": {"format": "dpnn_bridge"}}, 0),
        (6).to_bytes(8, "little") + b"[[[[[[",
    ],
)
def test_damaged_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    reason = "damaged|header is missing" + ("|contains no model of dpnn_bridge" if b"__metadata__" in data else "")
    with pytest.raises(DpnnBridgeError, match=rf"m\.safetensors.*({reason})"):
        dpnn_bridge.load(tmp_path / "m.safetensors")


#: fields of a tensor of four bytes beside those that are right, or in place of them
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "one more": ({"offset": 0}, "other fields"),
    "true as a size": ({"shape": [True]}, r"has shape \[True\]"),
    "a huge size": ({"shape": [1 << 48, 0], "data_offsets": [0, 0]}, "has shape"),
    "a negative size": ({"shape": [-1, -1]}, "has shape"),
    "a shape that is none": ({"shape": "1"}, "has shape"),
    "offsets that are none": ({"data_offsets": {"0": 0, "4": 4}}, "has shape"),
    "a type that is none": ({"dtype": ["F32"]}, "has the type"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_tensor_of_safetensors_has_a_type_a_shape_and_a_place(name: str, tmp_path: Path) -> None:
    fields, reason = FIELDS[name]
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | fields
    (tmp_path / "m.safetensors").write_bytes(header({"a": entry}, 4))
    with pytest.raises(T7FormatError, match=f"header is damaged: 'a' .*{reason}"):
        safetensors_file.read(tmp_path / "m.safetensors")


@pytest.mark.parametrize("metadata", [1, ["x"], {"x": 1}, {"x": None}, {"x": {}}])
def test_metadata_of_safetensors_are_strings(metadata: object, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(header({"__metadata__": metadata}, 0))
    with pytest.raises(
        T7FormatError, match=r"its metadata is not a JSON object|a value of its metadata is not a string"
    ):
        safetensors_file.read_metadata(tmp_path / "m.safetensors")


def test_a_name_occurs_once_in_a_safetensors_header(tmp_path: Path) -> None:
    """The reader of another program may take the other one."""
    names = [header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 4) for name in ("a", "b")]
    text = b", ".join(data[9:-5] for data in names).join([b"{", b"}"])
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.replace(b'"b"', b'"a"') + bytes(4))
    with pytest.raises(T7FormatError, match="a name is a duplicate"):
        dpnn_bridge.load(tmp_path / "m.safetensors")


def test_a_shape_of_many_sizes_is_not_multiplied(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [(1 << 48) - 1] * 65, "data_offsets": [0, 0]}
    (tmp_path / "m.safetensors").write_bytes(header({"a": entry}, 0))
    with pytest.raises(DpnnBridgeError, match="'a' has 65 dimensions; at most 64"):
        dpnn_bridge.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("where", ["version", "metadata"])
def test_shared_lists_are_not_printed_as_often_as_they_are_used(where: str, tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(26):
        value = [value, value]
    torch.save(content(**{where: {"source": value} if where == "metadata" else value}), tmp_path / "m.pt")
    start = time.process_time()
    with pytest.raises(DpnnBridgeError, match=r"a list|a shared table too often"):
        dpnn_bridge.load(tmp_path / "m.pt")
    assert time.process_time() - start < 5


TEXT = "x" * 40_000
SHARED = {
    "string": [TEXT] * 20_000,
    "bytes": [TEXT.encode()] * 20_000,
    "key": [{TEXT: i} for i in range(20_000)],
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_shared_text_counts_as_often_as_it_is_printed(kind: str, tmp_path: Path) -> None:
    torch.save(content(metadata={"source": SHARED[kind]}), tmp_path / "m.pt")
    with pytest.raises(T7FormatError, match="a shared table too often"):
        dpnn_bridge.load(tmp_path / "m.pt")


def test_a_shared_number_counts_with_its_digits() -> None:
    """A pickle may contain it once."""
    assert not is_small([10**600] * 200_000)
    assert is_small([10**600 + i for i in range(50_000)])


@pytest.mark.parametrize("layer", ["TransformerDecoder", "TransformerEncoder", "AdaptiveLogSoftmaxWithLoss"])
def test_a_layer_with_modules_is_not_built_from_arguments(layer: str) -> None:
    """PyTorch copies the layer that it gets, here a number, a billion times."""
    name = f"{layer.removeprefix('Transformer').lower()}_layer"
    arguments = json.dumps({name: 1, "num_layers": 10**9})
    fields = LuaTable({"arguments": arguments, "passed": "", "train": True})
    with pytest.raises(ConversionError, match="a layer that contains modules is not stored by its arguments"):
        dpnn_bridge.to_torch(LuaObject(f"pytorch.nn.{layer}", fields))


LARGE = {
    "texts of their own": {f"{i:05}" * 200: f"{i:05}" * 300 for i in range(10_000)},
    "a word": ["x" * 100] * 200_000,
    "a licence": dict.fromkeys(map(str, range(20_000)), "x" * 1140),
    "rows": [{"x" * 100: i, "y" * 100: i, "z" * 100: i} for i in range(50_000)],
    "numbers": [float(i) for i in range(200_000)],
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", LARGE)
def test_large_metadata_are_loaded(kind: str, suffix: str, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / f"m{suffix}", nn.Linear(2, 2), metadata={"about": LARGE[kind]})
    assert dpnn_bridge.load(tmp_path / f"m{suffix}") is not None


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("container", [nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict])
def test_a_container_without_content_is_stored(container: type[nn.Module], suffix: str, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / f"m{suffix}", nn.Sequential(nn.Linear(3, 2), container()))
    assert type(dpnn_bridge.load(tmp_path / f"m{suffix}")[1]) is container


def test_every_cut_of_a_pt_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content(), buffer)
    data = buffer.getvalue()
    for stop in range(0, len(data), 37):
        (tmp_path / "cut.pt").write_bytes(data[:stop])
        with pytest.raises((NotT7Error, T7FormatError)):
            dpnn_bridge.load(tmp_path / "cut.pt")


def test_a_safetensors_header_is_no_larger_than_its_file_and_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 3) + b"{}")
    with pytest.raises(NotT7Error, match="its header is missing or larger than the file"):
        safetensors_file.read(path)
    path.write_bytes(struct.pack("<Q", 4) + b"{  }")
    assert safetensors_file.read(path) == ({}, {})
    monkeypatch.setattr(safetensors_file, "MAX_HEADER", 3)
    with pytest.raises(NotT7Error, match="its header is missing or larger than the file"):
        safetensors_file.read(path)


def test_a_safetensors_header_of_any_depth_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000)
    with pytest.raises(T7FormatError, match="the safetensors header is damaged"):
        safetensors_file.read(path)


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".npz", ".safetensors"])
def test_the_error_of_a_truncated_file_says_what_to_do(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    dpnn_bridge.save(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DpnnBridgeError, match="; copy or download the file again"):
        dpnn_bridge.verify(path, path)


class Program:
    """An object whose pickle creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("variable", ["UNRELATED", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_pickle_in_a_pt2_runs_no_code(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.export.load`` reads members without a restriction if the restricted reader fails."""
    monkeypatch.setenv(variable, "1")
    dpnn_bridge.save(tmp_path / "m.pt2", nn.Tanh(), input=torch.ones(2))
    dpnn_bridge.save(tmp_path / "m.t7", nn.Tanh())
    pickled = io.BytesIO()
    torch.save((Program(tmp_path / "created"),), pickled)
    with zipfile.ZipFile(tmp_path / "m.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        assert any(name.endswith(".pt") for name in good.namelist())
        for name in good.namelist():
            bad.writestr(name, pickled.getvalue() if name.endswith(".pt") else good.read(name))
    with pytest.raises(DpnnBridgeError, match="Weights only load failed"):
        dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "bad.pt2", input=torch.ones(2))
    assert not (tmp_path / "created").exists()
    assert os.environ[variable] == "1"
    assert dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.pt2", input=torch.ones(2)).ok


def test_a_tensor_that_the_state_dict_lists_often_gives_memory_once(tmp_path: Path) -> None:
    net = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.BatchNorm1d(2), nn.Tanh())))
    dpnn_bridge.save(tmp_path / "net.pt", net)
    value = torch.load(tmp_path / "net.pt")
    graph = json.loads(value["graph"])
    for node in [n for n in graph["nodes"] if n.get("shape") == [2]]:
        node["shape"], storage = [4 * 10**7], graph["nodes"][node["storage"][0]]
        storage.update(size=4 * 10**7)
        for name in ("data", "key"):
            storage.pop(name, None)
    value["graph"] = json.dumps(graph)
    value["state_dict"].update(dict.fromkeys([f"view{i}" for i in range(1000)], torch.zeros(20_000)))
    torch.save(value, tmp_path / "net.pt")
    with pytest.raises(ConversionLimitError, match="require more memory than the file contains"):
        dpnn_bridge.load(tmp_path / "net.pt")


def test_storages_with_one_tensor_of_the_state_dict_count_once() -> None:
    tensor = torch.zeros(100)
    nodes = [{"storage": "torch.FloatStorage", "size": 100, "key": f"view{i}"} for i in range(9)]
    table = {"table": [[i, [i + 1]] for i in range(9)]}
    text = json.dumps({"root": [0], "nodes": [table, *nodes]})
    root = decode(text, [], {f"view{i}": tensor for i in range(9)}).root
    assert extent(root)[0] == tensor.nbytes
    parts = torch.zeros(900).split(100)  # one storage, of which each tensor is another part
    assert extent(decode(text, [], {f"view{i}": part for i, part in enumerate(parts)}).root)[0] == 3600


def test_a_name_that_is_unmapped_often_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpnn_bridge.save(tmp_path / "net.pt", nn.Sequential(nn.Sequential(nn.Linear(1, 1))))
    value = torch.load(tmp_path / "net.pt")
    value["graph"] = json.dumps({**json.loads(value["graph"]), "unmapped": ["0.0", "0", ""] * 1000})
    torch.save(value, tmp_path / "net.pt")
    calls: list[nn.Module] = []
    original = nn.Module.state_dict
    monkeypatch.setattr(nn.Module, "state_dict", lambda self, **kw: calls.append(self) or original(self, **kw))
    dpnn_bridge.load(tmp_path / "net.pt")
    assert len(calls) < 20


def test_metadata_without_elements_are_not_large(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "net.pt", nn.Sequential(nn.Linear(1, 1)), metadata={"x": torch.empty(3, 2, 0)})
    dpnn_bridge.convert(tmp_path / "net.pt", tmp_path / "out.safetensors")
    value = torch.load(tmp_path / "net.pt")
    torch.save({**value, "metadata": {"x": torch.empty(10**7, 0)}}, tmp_path / "net.pt")
    with pytest.raises(ConversionLimitError, match="size 10000000x0: too many lists for JSON"):
        dpnn_bridge.convert(tmp_path / "net.pt", tmp_path / "out.safetensors", force=True)
