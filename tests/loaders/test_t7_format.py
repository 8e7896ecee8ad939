"""The reader gives what Torch7 itself found in the same file, for every file of ``fixtures/format``."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES

from dpnn_bridge.errors import NotT7Error, T7Error, T7FormatError
from dpnn_bridge.loaders import Serializer, loads, read_all, read_t7
from dpnn_bridge.loaders.serializers import SERIALIZERS
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

FORMAT = FIXTURES / "format"
EXPECTATIONS = sorted(FORMAT.rglob("*.expect.json"))


def load(expectation: Path) -> tuple[dict[str, Any], Path]:
    expected = json.loads(expectation.read_text())
    return expected, expectation.with_name(expected["file"])


VALID = [p for p in EXPECTATIONS if "objects" in load(p)[0]]
INVALID = [p for p in EXPECTATIONS if load(p)[0].get("invalid")]


class CustomIO(Serializer):
    """The class of ``class_custom_write.t7``: an int, then an object."""

    def read(self, obj: LuaObject, file: Any) -> Any:
        obj.payload = LuaTable()
        obj["n"] = file.int()
        obj["payload"] = yield

    def write(self, obj: LuaObject, file: Any) -> Any:
        file.int(obj["n"])
        yield obj["payload"]


@pytest.fixture
def custom_io(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERIALIZERS, "fixture.CustomIO", CustomIO())


class Comparison:
    """Compares a graph with its description; identities must match in both directions."""

    def __init__(self, handwritten: bool) -> None:
        self.handwritten = handwritten
        self.by_id: dict[int, Any] = {}
        self.ids: dict[int, int] = {}

    def check(self, node: dict[str, Any], value: Any, where: str) -> None:
        kind = node["t"]
        if kind == "ref":
            assert value is self.by_id[node["id"]], where
            return
        if "id" in node:
            assert id(value) not in self.ids, f"{where} is shared here and not in Torch7"
            self.by_id[node["id"]], self.ids[id(value)] = value, node["id"]
        getattr(self, kind)(node, value, where)

    def nil(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert value is None, where

    def bool(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert value is node["v"], where

    def num(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) in (int, float), where
        if node["v"] == "nan":
            assert math.isnan(value), where
        else:
            assert struct.pack(">d", value).hex() == node["bits"], where
            assert isinstance(value, float) or abs(value) <= 2**53

    def str(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert value.encode("utf-8", "surrogateescape").hex() == node["hex"], where

    def table(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) is LuaTable, where
        self.pairs(node["pairs"], value, where)

    def object(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) is LuaObject, where
        assert value.class_name == node["class"]
        assert self.handwritten or value.version == node["version"]
        self.pairs(node["pairs"], value.fields, where)

    def tds_hash(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) is LuaObject, where
        assert value.class_name.lower() in ("tds.hash", "tds_hash")
        self.pairs(node["pairs"], value.payload, where)

    def tds_vec(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert value.class_name.lower() in ("tds.vec", "tds_vec")
        assert len(value.payload) == len(node["items"])
        for i, item in enumerate(node["items"], 1):
            self.check(item, value.payload[i], f"{where}[{i}]")

    def opaque(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert value.class_name == node["class"], where
        if node["class"] == "torch.Timer":
            assert value.payload is None
        elif node["class"] == "torch.Generator":
            assert len(value.payload) == 5048

    def pairs(self, pairs: list[list[dict[str, Any]]], table: LuaTable, where: str) -> None:
        assert len(table) == len(pairs), where
        for k, v in pairs:
            key = self.key(k, table, where)
            assert key in table, f"{where}: {key!r}"
            self.check(v, table[key], f"{where}[{key!r}]")

    def key(self, node: dict[str, Any], table: LuaTable, where: str) -> Any:
        if node["t"] == "str":
            return bytes.fromhex(node["hex"]).decode("utf-8", "surrogateescape")
        if node["t"] == "num":
            return struct.unpack(">d", bytes.fromhex(node["bits"]))[0]
        if node["t"] == "bool":
            return node["v"]
        if node["t"] == "ref":
            return self.by_id[node["id"]]
        for key in table:  # compound keys have no order: the one that fits
            if isinstance(key, (LuaTable, LuaObject, LuaTensor)) and id(key) not in self.ids:
                before = dict(self.by_id), dict(self.ids)
                try:
                    self.check(node, key, f"{where}, key")
                    return key
                except AssertionError:
                    self.by_id, self.ids = before
        raise AssertionError(f"{where}: no key {node}")

    def func(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) is LuaFunction, where
        assert len(value.bytecode) == node["dump_len"]
        upvalues = value.upvalues.as_list()
        assert len(upvalues) == len(node["upvalues"])
        for expected, found in zip(node["upvalues"], upvalues, strict=True):
            assert found["name"] == expected["name"]
            self.check(expected["value"], found.get("value"), f"{where}.{expected['name']}")

    def tensor(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) is LuaTensor, where
        assert value.class_name == node["type"]
        assert list(value.shape) == node["size"]
        assert list(value.stride) == node["stride"]
        assert value.offset == node["offset"] - 1
        self.check(node["storage"], value.storage, f"{where}.storage")
        same_values(node["values"], value.numpy(), where)
        same_values(node["values"], value.torch().numpy(), where)

    def storage(self, node: dict[str, Any], value: Any, where: str) -> None:
        assert type(value) is LuaStorage, where
        assert value.class_name == node["type"]
        assert value.size == node["n"]
        same_values(node["values"], value.numpy(), where)


def same_values(expected: list[Any], array: np.ndarray, where: str) -> None:
    assert array.flags.aligned
    assert array.dtype.isnative
    found = array.reshape(-1).tolist()
    assert len(found) == len(expected), where
    for e, f in zip(expected, found, strict=True):
        if isinstance(e, str) and array.dtype.kind == "i":
            e = int(e)
        elif isinstance(e, str):
            e = float(e)
        assert e == f or (e != e and f != f), where


@pytest.mark.usefixtures("custom_io")
@pytest.mark.parametrize("expectation", VALID, ids=lambda p: p.name.removesuffix(".expect.json"))
def test_reads_what_torch7_read(expectation: Path) -> None:
    expected, file = load(expectation)
    values = read_all(file) if len(expected["objects"]) > 1 else [read_t7(file)]
    comparison = Comparison(expected["handwritten"])
    assert len(values) == len(expected["objects"])
    for i, (node, value) in enumerate(zip(expected["objects"], values, strict=True)):
        comparison.check(node, value, f"object {i}")


@pytest.mark.usefixtures("custom_io")
@pytest.mark.parametrize("expectation", VALID, ids=lambda p: p.name.removesuffix(".expect.json"))
def test_stated_properties_read_the_same(expectation: Path) -> None:
    expected, file = load(expectation)
    options = {
        "mode": "ascii" if expected["ascii"] else "binary",
        "big_endian": expected["endian"] == "big",
        "long_size": expected["longSize"],
        "referenced": expected["referenced"],
        "lazy": False,
    }
    comparison = Comparison(expected["handwritten"])
    comparison.check(expected["objects"][0], read_t7(file, **options), "object")
    comparison = Comparison(expected["handwritten"])
    comparison.check(expected["objects"][0], loads(file.read_bytes(), **options), "object")


def test_an_encoding_that_the_file_does_not_have_is_named_as_each_interface_calls_it() -> None:
    with pytest.raises(T7Error, match=r"omit mode= \(--mode\), big_endian= \(--big-endian\) and long_size="):
        loads(b"\1\0\0\0" + bytes(8), mode="ascii")


@pytest.mark.parametrize("expectation", INVALID, ids=lambda p: p.name.removesuffix(".expect.json"))
def test_refuses_what_torch7_refused(expectation: Path) -> None:
    _, file = load(expectation)
    with pytest.raises(T7Error, match=r"\bbyte \d+") as caught:
        read_t7(file)
    assert isinstance(caught.value, NotT7Error) or isinstance(getattr(caught.value, "offset", None), int)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ignores_what_stands_behind_the_first_object() -> None:
    assert read_t7(FORMAT / "trailing_bytes.t7")[1].numpy().tolist() == [1, 2, 3, 4, 5]
    with pytest.warns(UserWarning, match="unknown type code .*; returned 1 complete object before it"):
        assert len(read_all(FORMAT / "trailing_bytes.t7")) == 1


def test_a_second_guess_must_make_sense_of_the_whole_file() -> None:
    """With 4-byte longs the first object of a damaged file may be one by chance."""
    tensor = LuaTensor.from_numpy(np.arange(6.0).reshape(2, 3))
    narrow = dumps(tensor, long_size=4)
    for whole in (narrow, narrow + dumps(7, long_size=4)):
        value = loads(whole)
        assert isinstance(value, LuaTensor)
        assert value.shape == (2, 3)
    for behind in (b"\xff" * 20, narrow[:-1], bytes(4)):
        with pytest.raises(T7FormatError):
            loads(narrow + behind)


@pytest.mark.parametrize("order", "<>")
def test_a_nil_leaves_the_byte_order_open(order: str) -> None:
    assert read_all(bytes(4) + struct.pack(f"{order}id", 1, 2.0)) == [None, 2]


def test_a_table_of_more_pairs_than_bytes_is_refused_before_its_pairs_are_read() -> None:
    with pytest.raises(T7FormatError, match="5 entries, but only 36 bytes are left"):
        loads(struct.pack("<iii", 3, 1, 5) + 2 * struct.pack("<id", 1, 2.0))


def test_an_unknown_framing_is_explained() -> None:
    with pytest.raises(T7FormatError, match=r"fixture\.CustomIO.*register_serializer"):
        read_t7(FORMAT / "class_custom_write.t7")


def test_strings_and_storages_that_hold_a_serialized_object() -> None:
    holder = read_t7(FORMAT / "serialized_string.t7")
    assert loads(holder["payload"])["t"].numpy().tolist() == [1, 2, 3]
    assert loads(holder["ascii"])["x"] == 1
    holder = read_t7(FORMAT / "serialized_storage.t7")
    assert loads(holder["payload"])["t"].numpy().tolist() == [1, 2, 3]


def test_the_specification_names_every_framing_and_type() -> None:
    page = (Path(__file__).parents[2] / "docs" / "t7-format.md").read_text()
    for name in [*SERIALIZERS, "\\x04"]:
        assert name in page
    assert r"invalid load key '\x04'" in page
