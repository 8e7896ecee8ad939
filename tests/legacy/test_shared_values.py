"""A value whose form changes is converted once, however many objects refer to it."""

from __future__ import annotations

import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import dpnn_bridge
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.errors import DpnnBridgeError, T7LimitError
from dpnn_bridge.legacy import nn
from dpnn_bridge.legacy.pickles import MAGIC, read
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.loaders.origin import LocalFile
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: numbers of objects, and of the entries in the value to which they refer
OBJECTS, ENTRIES = 1_000, 10_000


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def obj(class_name: str, **fields: bytes) -> bytes:
    return (
        f"ctorch.legacy.nn\n{class_name}\n)\x81".encode("latin-1")
        + b"}("
        + b"".join(text(name) + value for name, value in fields.items())
        + b"ub"
    )


def several(value: bytes, *objects: bytes) -> bytes:
    """A list of objects that refer to one value by ``h\\1``."""
    return value + b"q\1" + b"0](" + b"".join(objects) + b"e"


def write(path: Path, body: bytes, count: int = 2) -> LocalFile:
    """Write a pickle with a storage "a" of doubles, each of them 1."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    storages = pickle.dumps(["a"], 2) + struct.pack(f"<q{count}d", count, *[1.0] * count)
    head = b"".join(pickle.dumps(v, 2) for v in (MAGIC, 1001, facts))
    path.write_bytes(head + b"\x80\x02" + body + b"." + (storages if b"DoubleStorage" in body else pickle.dumps([])))
    return LocalFile(path, path.name, [])


def tensor(count: int, offset: int, shape: tuple[int, int], stride: tuple[int, int]) -> bytes:
    """A tensor of the storage "a", which has ``count`` elements."""
    number = [b"J" + struct.pack("<i", n) for n in (count, offset, *shape, *stride)]
    storage = text("storage") + b"ctorch\nDoubleStorage\n" + text("a") + text("cpu") + number[0]
    sizes = b"".join(number[2:4]) + b"\x86" + b"".join(number[4:6]) + b"\x86"
    return b"ctorch._utils\n_rebuild_tensor\n((" + storage + b"tQ" + number[1] + sizes + b"tR"


NUMBERS = b"](" + b"K\1" * ENTRIES + b"e"
FIELDS = [
    ("View", "size"),
    ("Reshape", "size"),
    ("MixtureTable", "size"),
    ("DepthConcat", "outputSize"),
    ("Transpose", "permutations"),
    ("PartialLinear", "partition"),
    ("LookupTable", "paddingValue"),
    ("SpatialConvolutionMap", "connTable"),
]


@pytest.mark.parametrize(("class_name", "field"), FIELDS)
def test_a_list_is_converted_once(class_name: str, field: str, tmp_path: Path) -> None:
    objects = [obj(class_name, **{field: b"h\1"})] * OBJECTS
    file = write(tmp_path / "x.pth", several(NUMBERS, *objects))
    tracemalloc.start()
    found = [o[field] for o in read(file).as_list()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == OBJECTS
    assert all(value is found[0] for value in found)
    assert len(found[0]) == ENTRIES
    assert peak < 20 << 20  # before: 80 to 500 MB


def test_a_list_that_a_list_contains_often_is_converted_once(tmp_path: Path) -> None:
    lists = b"](" + b"h\1" * ENTRIES + b"e"
    file = write(tmp_path / "x.pth", several(NUMBERS, obj("Transpose", permutations=lists)))
    start = time.process_time()
    found = read(file)[1]["permutations"].as_list()
    assert len(found) == len(found[0]) == ENTRIES
    assert all(value is found[0] for value in found)
    assert found[0][1] == 2
    assert time.process_time() - start < 2  # before: 200 s


def test_a_text_is_converted_before_it_counts(tmp_path: Path) -> None:
    name = text("torch.cuda." + "x" * 100_000)
    file = write(tmp_path / "x.pth", several(name, *[obj("Tanh", _type=b"h\1")] * OBJECTS))
    tracemalloc.start()
    with pytest.raises(T7LimitError, match="uses its strings or headers too often"):
        read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20  # before: 100 MB


def test_a_header_counts_for_each_object(tmp_path: Path) -> None:
    file = write(tmp_path / "x.pth", several(NUMBERS, *[obj("Tanh", _header=b"h\1")] * OBJECTS))
    with pytest.raises(T7LimitError, match="uses its strings or headers too often"):
        read(file)
    found = read(write(tmp_path / "x.pth", several(b"K\1\x85", *[obj("Tanh", _header=b"h\1")] * OBJECTS)))
    assert {o.header for o in found.as_list()} == {(1,)}


def test_headers_that_contain_objects_take_no_stack(tmp_path: Path) -> None:
    """Also if an object's header contains the object."""
    nested = b"N"
    for _ in range(3_000):
        nested = b"ctorch.legacy.nn\nTanh\n)\x81}" + text("_header") + nested + b"\x85sb"
    assert read(write(tmp_path / "x.pth", nested)).header[0].header[0].class_name == "nn.Tanh"
    own = b"ctorch.legacy.nn\nTanh\n)\x81q\1}" + text("_header") + b"h\1\x85sb"
    found = read(write(tmp_path / "x.pth", own))
    assert found.header == (found,)


def test_fields_that_too_many_objects_share_are_refused(tmp_path: Path) -> None:
    fields = b"}(" + b"".join(text(f"f{i}") + b"K\1" for i in range(ENTRIES)) + b"u"
    parts = {"_typename": text("nn.Tanh"), "_version_number": b"K\1", "_obj": b"h\1"}
    shared = obj("TorchObject", **parts).replace(b"torch.legacy.nn", b"dpnn_bridge.legacy.decoding")
    with pytest.raises(T7LimitError, match="share tables so often"):
        read(write(tmp_path / "x.pth", several(fields, *[shared] * OBJECTS)))
    found = read(write(tmp_path / "x.pth", several(b"}" + text("f") + b"K\1s", *[shared] * OBJECTS)))
    assert [o["f"] for o in found.as_list()] == [1] * OBJECTS


@pytest.mark.parametrize(("class_name", "field"), FIELDS[4:])
def test_a_tensor_that_repeats_an_element_still_repeats_it(class_name: str, field: str, tmp_path: Path) -> None:
    repeated = tensor(1, 0, (1 << 14, 1 << 13), (0, 0))
    path = tmp_path / "x.pth"
    file = write(path, several(repeated, *[obj(class_name, **{field: b"h\1"})] * 3), 1)
    tracemalloc.start()
    first, second, _ = (o[field] for o in read(file).as_list())
    shown = CliRunner().invoke(inspect_command, [str(path)])
    with pytest.raises(DpnnBridgeError):  # the other fields of the class are missing
        dpnn_bridge.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown.exit_code == 0, shown.output
    assert first is second
    assert (first.shape, first.stride, first.storage.numpy().tolist()) == ((1 << 14, 1 << 13), (0, 0), [2.0])
    assert peak < 50 << 20  # before: 1 GB for each object


def test_tensors_of_one_storage_still_share_it(tmp_path: Path) -> None:
    parts = {name: tensor(4, i, (1, 2), (2, 1)) for i, name in enumerate(("allcolumns", "partition"))}
    found = read(write(tmp_path / "x.pth", obj("PartialLinear", **parts), 4))
    assert found["allcolumns"].storage is found["partition"].storage
    assert found["partition"].numpy().tolist() == [[2.0, 2.0]]


def test_load_lua_converts_a_shared_value_once(tmp_path: Path) -> None:
    sizes, pairs = LuaStorage("torch.LongStorage", 2, torch.tensor([3, 4]).numpy()), LuaTable.from_list([1, 2])
    one = LuaStorage("torch.FloatStorage", 1, torch.ones(1).numpy())
    repeated = LuaTensor("torch.FloatTensor", (1 << 20,), (0,), 0, one)
    fields = {
        "View": {"size": sizes, "numElements": 12},
        "Transpose": {"permutations": LuaTable.from_list([pairs, pairs])},
        "PartialLinear": {"partition": repeated},
    }
    modules = [LuaObject(f"nn.{name}", LuaTable(found)) for name, found in fields.items() for _ in range(2)]
    write_t7(tmp_path / "m.t7", LuaTable.from_list(modules))
    loaded: Any = dpnn_bridge.load_lua(tmp_path / "m.t7", unknown_classes=True)
    views, transposes, partials = loaded[:2], loaded[2:4], loaded[4:]
    assert all(isinstance(m, nn.View) for m in views)
    assert views[0].size == torch.Size([3, 4])
    assert views[0].size is views[1].size
    assert transposes[0].permutations == [[0, 1], [0, 1]]
    assert transposes[0].permutations[0] is transposes[0].permutations[1]
    assert partials[0].partition.untyped_storage().nbytes() == 4
    assert partials[0].partition[-1] == 0
