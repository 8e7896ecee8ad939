"""What is written reads as the same graph, in every variant, and exactly as Torch7's File.lua lays it out."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES
from fuzz.graphs import walk
from test_t7_differential import FILES, SAMPLE

from dpnn_bridge.base.writing import WrittenBytes
from dpnn_bridge.errors import LuaValueError, OptionError, OutputExistsError, T7FormatError, VerificationError
from dpnn_bridge.loaders import WriteOptions, dumps, loads, read_all, read_t7, write_all, write_t7
from dpnn_bridge.loaders import t7_writer as t7_writer_module
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

FORMAT = FIXTURES / "format"
VARIANTS: list[dict[str, Any]] = [
    {},
    {"mode": "ascii"},
    {"big_endian": True},
    {"long_size": 4},
    {"big_endian": True, "long_size": 4},
]


def has_wide_longs(value: Any) -> bool:
    """Whether some Long storage holds what no 4-byte long can; uninitialised memory often does."""
    found: list[LuaStorage] = []
    for part in walk(value):
        if isinstance(part, LuaStorage) and "Long" in part.class_name:
            found.append(part)
    return any(np.any(s.numpy() != s.numpy().astype(np.int32)) for s in found)


def vector(values: list[Any]) -> LuaObject:
    """A ``tds.Vec``, which counts nil among its values."""
    obj = LuaObject("tds.Vec", LuaTable(), version=0)
    obj.payload.entries.update(enumerate(values, 1))
    return obj


@pytest.mark.parametrize("path", [p for p in SAMPLE if "trailing" not in p.name], ids=lambda p: p.stem)
def test_reading_what_was_written_is_identity(path: Path) -> None:
    objects = vector(read_all(path))
    wide = has_wide_longs(objects)
    for options in VARIANTS:
        if options.get("long_size") == 4 and wide:
            with pytest.raises(OverflowError):
                dumps(objects, **options)
            continue
        again = loads(dumps(objects, **options), **options)
        assert difference(objects, again, exact_nan="mode" not in options) is None, options


def test_every_fixture_goes_round() -> None:
    """All files, in the ordinary variant; ``SAMPLE`` above covers the others."""
    for path in FILES[::3]:
        value = read_t7(path)
        assert difference(value, loads(dumps(value))) is None, path


def test_bytes_are_those_of_torch7() -> None:
    """In the order of the file nothing is left to choose, but for records that Torch7 no longer writes so."""
    other = ("bad_", "legacy_", "class_custom_write", "trailing", "unreferenced", "lua51")
    for path in sorted(FORMAT.rglob("*.t7")):
        if not path.name.startswith(other) and not ("era_2015" in path.name and "ascii" in path.name):
            expected = json.loads(path.with_suffix(".expect.json").read_text())
            file = io.BytesIO()
            writer = WriteOptions(
                mode="ascii" if expected["ascii"] else "binary",
                long_size=expected["longSize"],
                big_endian=expected["endian"] == "big",
            ).writer(file)
            for value in read_all(path):
                writer.write(value)
            assert file.getvalue() == path.read_bytes(), path
    for path in sorted((FIXTURES / "nn").rglob("*.t7"))[::40]:
        assert dumps(read_t7(path)) == path.read_bytes(), path


def test_unreferenced() -> None:
    shared = LuaTable({"x": 1})
    tensor = LuaTensor.from_numpy(np.arange(3.0))
    value = LuaTable({"a": shared, "b": shared, "t": tensor, "u": tensor})
    data = dumps(value, referenced=False)
    again = loads(data)
    assert again["a"] is not again["b"]
    assert again["t"].storage is not again["u"].storage
    assert difference(value, again, shared=False) is None
    assert difference(value, again) == ".b is shared in one and not in the other"
    again["b"]["x"] = 2
    assert difference(value, again, shared=False) == ".b.x is 1 in one and 2 in the other"
    shared["self"] = value
    with pytest.raises(ValueError, match="contains itself"):
        dumps(value, referenced=False)


@pytest.mark.parametrize("mode", ["binary", "ascii"])
def test_a_data_set_may_lack_samples(mode: Any) -> None:
    data = LuaObject("nn.DataSet", LuaTable({"resized": False, "nbSamples": 9, 2: "x"}))
    assert difference(data, loads(dumps(data, mode=mode))) is None


def test_a_file_is_not_read_back_without_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WrittenBytes, "compare", lambda *_: pytest.fail("the file is read back"))
    write_t7(tmp_path / "m.t7", LuaTable({"a": 1}), verify=False)


@pytest.mark.parametrize("count", [10**9, None, "9", float("inf"), -1, True])
def test_a_data_set_needs_the_number_of_its_samples(count: Any) -> None:
    with pytest.raises(LuaValueError, match="nbSamples"):
        dumps(LuaObject("nn.DataSet", LuaTable({"resized": False, "nbSamples": count, 2: "x"})))


def test_unreferenced_streams_that_repeat_indices() -> None:
    data = dumps(LuaTable({"a": 1})) + dumps(LuaTable({"b": LuaTable({"c": 2})}))
    path_values = [LuaTable({"a": 1}), LuaTable({"b": LuaTable({"c": 2})})]
    assert difference(path_values[0], loads(data)) is None


def test_appended_files_are_read_without_references(tmp_path: Path) -> None:
    (tmp_path / "m.t7").write_bytes(dumps(LuaTable({"a": 1})) + dumps(LuaTable({"b": LuaTable({"c": 2})})))
    first, second = read_all(tmp_path / "m.t7", referenced=False)
    assert (first["a"], second["b"]["c"]) == (1, 2)


def test_several_objects_share(tmp_path: Path) -> None:
    shared = LuaTable({"x": 1})
    write_all(tmp_path / "m.t7", [shared, None, LuaTable({"again": shared})])
    first, nothing, third = read_all(tmp_path / "m.t7")
    assert nothing is None
    assert third["again"] is first


def test_functions_keep_their_type_code() -> None:
    for code in (6, 7, 8):
        function = LuaFunction(b"\x1bLJ\0bytes", LuaTable({1: 2}), type_code=code)
        again = loads(dumps(LuaTable.from_list([function, function])))
        assert (again[1].type_code, again[1].bytecode, again[1].upvalues[1]) == (code, b"\x1bLJ\0bytes", 2)
        assert (again[1] is again[2]) == (code != 6)


FRAMED: dict[str, LuaObject] = {
    "gpu": LuaObject("nn.GPU", LuaTable({"device": 2}), header=(LuaTable({1: "torch.CudaTensor", 2: 2}),)),
    "parallel_old": LuaObject("nn.DataParallelTable", LuaTable({"dimension": 1}), version=1),
    "parallel_new": LuaObject("nn.DataParallelTable", LuaTable({"a": 1}), version=3, header=(LuaTable({1: 1, 2: 2}),)),
    "model_parallel_old": LuaObject("nn.ModelParallelTable", LuaTable({"modules": LuaTable()})),
    "model_parallel_header": LuaObject("nn.ModelParallelTable", LuaTable({"a": 1}), header=(LuaTable({1: 1}),)),
    "dataset": LuaObject("nn.DataSet", LuaTable({"resized": True, "nbSamples": 2, 1: "x", 2: LuaTable()})),
    "datalist": LuaObject("nn.DataList", LuaTable({"resized": False, "nbSamples": 0})),
    "packer": LuaObject("nn.PyramidPacker", LuaTable({"a": 1}), header=(0.5, 1.0, 2.0)),
    "counter": LuaObject("tds.AtomicCounter", 12345, version=0),
    "timer": LuaObject("torch.Timer", None),
    "generator": LuaObject("torch.Generator", bytes(5048)),
    "generator_32": LuaObject("torch.Generator", bytes(24) + b"\xff" * 2520),
    "hash": LuaObject("tds.Hash", LuaTable({"a": 1, 2: "b", True: LuaTable()}), version=0),
    "vec": vector([1, "x", None, LuaTable()]),
}


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("name", FRAMED)
def test_classes_with_a_framing_of_their_own(name: str, options: dict[str, Any]) -> None:
    value = LuaTable({"before": "x", "object": FRAMED[name], "after": LuaTable({"again": FRAMED[name]})})
    again = loads(dumps(value, **options), **options)
    assert difference(value, again) is None


def test_branches_of_a_model_parallel_table() -> None:
    branches = [LuaObject("nn.Linear", LuaTable({"n": i})) for i in range(3)]
    fields = {"dimension": 1, "modules": LuaTable.from_list(branches), "gpuAssignments": LuaTable.from_list([1, 2, 3])}
    data = dumps(LuaTable({"m": LuaObject("nn.ModelParallelTable", LuaTable(fields)), "after": 1}))
    again = loads(data)
    assert again["after"] == 1
    assert [m["n"] for m in again["m"]["modules"].values()] == [0, 1, 2]
    assert data.index(b"nn.Linear") < data.index(b"dimension")
    assert dumps(again) == data


def test_long_size_4_refuses_what_does_not_fit() -> None:
    with pytest.raises(OverflowError, match="4 bytes"):
        dumps(LuaTensor.from_numpy(np.array([1 << 40])), long_size=4)
    data = dumps(LuaTensor.from_numpy(np.array([-5, 1 << 30])), long_size=4)
    assert loads(data).numpy().tolist() == [-5, 1 << 30]
    assert loads(data).numpy().dtype == np.int64


def test_numbers_are_exact() -> None:
    assert loads(
        dumps(LuaTable.from_list([2**53, -0.0, 2.0**60, np.float32(0.1), np.int64(7), np.bool_(True)]))
    ).as_list() == [
        2**53,
        0,
        2.0**60,
        float(np.float32(0.1)),
        7,
        True,
    ]
    with pytest.raises(ValueError, match="not exact"):
        dumps(2**53 + 1)


@pytest.mark.parametrize("value", [b"bytes", [1], {"a": 1}, np.zeros(3), object()])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not a Lua value"):
        dumps(LuaTable({"x": value}))


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.t7"
    with pytest.raises(TypeError):
        write_t7(path, LuaTable({"a": LuaTensor.from_numpy(np.zeros(9)), "b": object()}))
    assert os.listdir(tmp_path) == []
    write_t7(path, 1)
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~_umask())
    with pytest.raises(OutputExistsError):
        write_t7(path, 2, force=False)
    monkeypatch.setattr(t7_writer_module, "read_all", lambda *args, **options: [3])
    with pytest.raises(VerificationError, match=r"m\.t7: the content differs after reading back: \[1\] is 2 in one"):
        write_t7(path, 2)
    assert read_t7(path) == 1
    assert os.listdir(tmp_path) == ["m.t7"]


@pytest.mark.parametrize("number", [np.int64(-3), np.uint8(3), np.float32(0.1), np.float64(0.1), np.bool_(True)])
def test_numbers_of_numpy_are_numbers(number: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.t7"
    write_t7(path, LuaTable({"a": number, np.int64(7): "b"}))
    table = read_t7(path)
    assert (table["a"], type(table["a"])) == (number.item(), type(number.item()))
    assert table[7] == "b"


def test_a_vector_is_written_in_the_order_of_its_keys() -> None:
    vector = LuaObject("tds.Vec", LuaTable([(2, "b"), (1, "a")]))
    assert dict(loads(dumps(vector))) == {1: "a", 2: "b"}
    del vector[1]
    with pytest.raises(LuaValueError, match=r"a tds\.Vec has other keys than 1, 2, …"):
        dumps(vector)


def test_storages_of_numbers_are_no_serialized_strings() -> None:
    with pytest.raises(OptionError, match=r"a storage of bytes or characters, found <torch\.Double"):
        loads(LuaStorage("torch.DoubleStorage", 3, np.zeros(3)))


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_file_can_be_replaced_by_what_is_read_from_it(tmp_path: Path) -> None:
    path = tmp_path / "m.t7"
    write_t7(path, LuaTensor.from_numpy(np.arange(10_000.0)))
    tensor = read_t7(path)
    write_t7(path, LuaTable({"t": tensor}))
    assert tensor.storage is not None
    assert not tensor.storage.loaded
    assert read_t7(path)["t"].numpy()[-1] == 9999
    assert tensor.numpy()[-1] == 9999


def test_ascii_layout() -> None:
    value = LuaTable({"a b": LuaTensor.from_numpy(np.array([0.1, 2.0], np.float32)), "": -0.0})
    assert dumps(value, mode="ascii") == (
        b"3\n1\n2\n2\n3\na b\n4\n2\n3\nV 1\n17\ntorch.FloatTensor\n1\n2\n1\n1\n"
        b"4\n3\n3\nV 1\n18\ntorch.FloatStorage\n2\n0.100000001 2\n2\n0\n1\n-0\n"
    )


def test_ascii_bytes_and_specials() -> None:
    values = [np.array([0, 10, 255], np.uint8), np.array([np.nan, np.inf, -np.inf, -0.0]), np.array([0.1], np.float16)]
    tensors = LuaTable.from_list(LuaTensor.from_numpy(v) for v in values)
    again = loads(dumps(tensors, mode="ascii"))
    assert difference(tensors, again, exact_nan=False) is None
    assert np.signbit(again[2].numpy()).tolist()[1:] == [False, True, True]


def test_ascii_elements_are_checked_when_used() -> None:
    data = dumps(LuaTensor.from_numpy(np.array([1.5, 2.5])), mode="ascii")
    with pytest.raises(T7FormatError, match="2 elements of type float64"):
        loads(data.replace(b"1.5 2.5", b"1.5 x.5")).numpy()
    with pytest.raises(T7FormatError, match="elements of type int16"):
        loads(
            dumps(LuaTensor.from_numpy(np.array([1, 2], np.int16)), mode="ascii").replace(b"1 2\n", b"1 70000\n")
        ).numpy()


def test_windows_move_over_everything(tmp_path: Path) -> None:
    """Records of all lengths across the ends of the windows over the file."""
    rng = np.random.default_rng(1)
    table = LuaTable()
    for i in range(1, 30_000):
        kind = rng.integers(6)
        table[i] = [
            float(i) / 3,
            "x" * int(rng.integers(300)),
            LuaObject("nn.A" + "b" * int(rng.integers(9)), LuaTable({"i": i})),
            LuaTensor.from_numpy(np.arange(rng.integers(1, 5))),
            bool(i & 1),
            LuaTable({"n": LuaTable()}),
        ][kind]
    table["big"] = LuaTensor.from_numpy(np.arange(50_000.0))
    table["after"] = "y" * 100_000
    write_t7(tmp_path / "m.t7", table, verify=False)
    assert difference(table, read_t7(tmp_path / "m.t7")) is None


def test_graphs_can_be_copied_and_pickled(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", LuaTable([(True, LuaTensor.from_numpy(np.arange(5000.0))), (1, "one")]))
    value = read_t7(tmp_path / "m.t7")
    for again in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert difference(value, again) is None
        assert again[True].storage is not value[True].storage


def test_storages_load_once_and_lazily(tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", LuaTensor.from_numpy(np.arange(5000.0)))
    tensor = read_t7(tmp_path / "m.t7")
    assert isinstance(tensor.storage, LuaStorage)
    assert not tensor.storage.loaded
    assert tensor.numpy() is not tensor.numpy()
    assert np.shares_memory(tensor.numpy(), tensor.numpy())
    assert tensor.numpy().flags.writeable
    assert tensor.numpy().flags.aligned
    assert read_t7(tmp_path / "m.t7", lazy=False).storage.loaded


def test_head_of_a_file_is_file_lua() -> None:
    data = dumps(LuaObject("nn.Identity", LuaTable({"train": True})))
    assert data == (
        struct.pack("<3i", 4, 1, 3) + b"V 1" + struct.pack("<i", 11) + b"nn.Identity"
        + struct.pack("<3i", 3, 2, 1) + struct.pack("<2i", 2, 5) + b"train" + struct.pack("<2i", 5, 1)
    )  # fmt: skip


def test_an_integer_beyond_a_double_is_one_error() -> None:
    with pytest.raises(LuaValueError, match=r"x: an integer of 1329 bits is too large for a Lua number"):
        dumps(LuaTable({"x": 10**400}))


@pytest.mark.parametrize("value", ["a\ud800", LuaTable({"a\ud800": 1}), LuaObject("a\ud800", LuaTable())])
def test_half_of_a_character_is_one_error(value: Any, tmp_path: Path) -> None:
    with pytest.raises(LuaValueError, match=r"contains the surrogate U\+D800 at position 1"):
        write_t7(tmp_path / "x.t7", value)


def test_a_function_without_index_cannot_contain_itself() -> None:
    function = LuaFunction(b"", type_code=6)
    function.upvalues = LuaTable({1: function})
    with pytest.raises(LuaValueError, match="contains itself; set its type_code to 8"):
        dumps(function)
    function.type_code = 8
    assert loads(dumps(function)).upvalues[1].type_code == 8
