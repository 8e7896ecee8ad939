"""Data without a model: written from Python, converted to other formats."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge.errors import (
    ConversionError,
    ConversionLimitError,
    LuaValueError,
    ModelNotFoundError,
    NotT7Error,
    OptionError,
    VerificationError,
)
from dpnn_bridge.files.converting import data_difference, is_converted
from dpnn_bridge.files.summary import _output, lines, summarize
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.outputs import pt_writer
from dpnn_bridge.outputs.data import collect
from dpnn_bridge.outputs.data_difference import first_difference

DATA: dict[str, Any] = {
    "mean": torch.tensor([0.4, 0.5]),
    "train": {"x": np.arange(6, dtype=np.int64).reshape(2, 3), "names": ["cat", "dög"], "lr": 0.5, "done": True},
    "batches": [torch.zeros(2, dtype=torch.uint8), torch.ones(2, dtype=torch.float64)],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    dpnn_bridge.write_t7(tmp_path / "stats.t7", DATA)
    return tmp_path / "stats.t7"


def test_python_data_as_lua_holds_it(source: Path) -> None:
    root = dpnn_bridge.read_t7(source)
    assert root["mean"].class_name == "torch.FloatTensor"
    assert root["train"]["x"].class_name == "torch.LongTensor"
    assert root["train"]["names"][2] == "dög"
    assert root["batches"][1].class_name == "torch.ByteTensor"
    np.testing.assert_array_equal(np.asarray(root["train"]["x"]), DATA["train"]["x"])
    assert torch.equal(torch.from_dlpack(root["mean"]), DATA["mean"])
    assert np.asarray(root["mean"], dtype=np.float64).dtype == np.float64
    assert np.asarray(root["mean"].storage).tolist() == root["mean"].numpy().tolist()


@pytest.mark.parametrize(
    "value",
    [torch.arange(3.0), np.float32(2.5), 3, "text", [1, None, 3], {"a": {1: "x"}}, torch.tensor(True), b"\xff\x00", ()],
)
def test_every_kind_of_value(value: Any, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "v.t7", value)
    found = dpnn_bridge.read_t7(tmp_path / "v.t7")
    if isinstance(value, list):
        assert dict(found) == {1: 1, 3: 3}
    elif isinstance(value, bytes):
        assert found.encode("utf-8", "surrogateescape") == value
    elif isinstance(value, torch.Tensor):
        assert torch.equal(found.torch().reshape(value.shape), value.byte() if value.dtype == torch.bool else value)


def test_modules_among_data(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    dpnn_bridge.write_t7(tmp_path / "c.t7", {"model": net, "again": [net], "opt": {"lr": 1}})
    root = dpnn_bridge.read_t7(tmp_path / "c.t7")
    assert root["model"] is root["again"][1]
    assert dpnn_bridge.load_checkpoint(tmp_path / "c.t7").options == {"lr": 1}


def test_what_no_tensor_holds(tmp_path: Path) -> None:
    with pytest.raises(LuaValueError, match="Torch7 has no tensor of type complex"):
        dpnn_bridge.write_t7(tmp_path / "c.t7", np.zeros(2, complex))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"opt": [1, {"x": {1}}]}, r"opt\[2\]\.x: builtins.set is not a Lua value"),
        (LuaTable({"opt": LuaTable({"x": [1]})}), r"opt\.x: builtins.list is not a Lua value"),
        ({"names": np.array(["a"])}, r"names: Torch7 has no tensor of type <U1; write it as a list"),
        ({"m": np.ma.masked_array([1.0, 2.0], mask=[0, 1])}, r"m: the array is masked; pass an array without a mask"),
        ({"m": np.ma.masked}, r"m: the array is masked"),
        ({"x": torch.eye(2).to_sparse()}, r"x: the tensor is torch.sparse_coo"),
        ({"x": torch.ones(2, dtype=torch.complex64).conj().imag}, r"x: the tensor is a lazily negated"),
        ({"opt": {b"a": 1, "a": 2}}, r"opt: two keys of the dict are 'a' in Lua"),
    ],
)
def test_a_value_that_lua_lacks_is_named_with_its_place(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LuaValueError, match=f"^{message}"):
        dpnn_bridge.write_t7(tmp_path / "c.t7", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keys", [(1, "1"), (True, "true"), (1.5, "1.5"), ("\udcff", "\\xff")])
@pytest.mark.parametrize("suffix", [".npz", ".json", ".pt"])
def test_keys_with_one_name_are_not_merged(keys: tuple[Any, Any], suffix: str, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "d.t7", LuaTable({"a": LuaTable((k, i) for i, k in enumerate(keys))}))
    with pytest.raises(ConversionError, match=r"^two keys of a have the name"):
        dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / f"d{suffix}")
    dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "again.t7")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.t7", "d.t7"]


def test_npz_and_safetensors_have_names_with_dots(source: Path, tmp_path: Path) -> None:
    report = dpnn_bridge.convert(source, tmp_path / "s.npz")
    assert report.metadata["tensors"] == 4
    with np.load(tmp_path / "s.npz") as archive:
        assert sorted(archive) == [
            *("batches.1", "batches.2", "mean", "train.done", "train.lr", "train.names.1", "train.names.2", "train.x")
        ]
        assert (archive["train.lr"], archive["train.names.2"]) == (0.5, "dög")
    dpnn_bridge.convert(source, tmp_path / "s.safetensors")
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["batches.1", "batches.2", "mean", "train.x"]
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["values"])["train.names.1"] == "cat"


def test_json_and_pt_keep_the_nesting(source: Path, tmp_path: Path) -> None:
    dpnn_bridge.convert(source, tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["train"]["names"] == ["cat", "dög"]
    dpnn_bridge.convert(source, tmp_path / "s.pt")
    found = torch.load(tmp_path / "s.pt", weights_only=True)
    assert torch.equal(found["batches"][1], torch.ones(2, dtype=torch.float64))
    dpnn_bridge.convert(source, tmp_path / "train.json", key="train")
    assert json.loads((tmp_path / "train.json").read_text())["x"] == [[0, 1, 2], [3, 4, 5]]
    dpnn_bridge.convert(source, tmp_path / "again.t7")
    assert (tmp_path / "again.t7").read_bytes() == source.read_bytes()


def test_objects_functions_and_circles(tmp_path: Path) -> None:
    obj = LuaObject("my.Data", LuaTable({"x": LuaTensor.from_numpy(np.ones(2)), "f": LuaFunction(b"")}))
    obj["self"] = obj
    dpnn_bridge.write_t7(tmp_path / "o.t7", LuaTable({"d": obj}))
    report = dpnn_bridge.convert(tmp_path / "o.t7", tmp_path / "o.json")
    assert json.loads((tmp_path / "o.json").read_text()) == {"d": {"torch class": "my.Data", "x": [1, 1]}}
    assert [d.path for d in report.dropped] == ["d.f: a Lua function", "d.self: a table inside itself"]
    report = dpnn_bridge.convert(tmp_path / "o.t7", tmp_path / "again.t7")
    assert not report.dropped
    assert isinstance(dpnn_bridge.read_t7(tmp_path / "again.t7")["d"]["f"], LuaFunction)


def test_a_table_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    table = LuaTable({"leaf": 1})
    for _ in range(250):
        table = LuaTable({"a": table})
    dpnn_bridge.write_t7(tmp_path / "d.t7", table)
    (dropped,) = dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "d.json").dropped
    assert dropped.path.endswith(".a: a table nested deeper than 200 levels")


def test_every_value_of_pt_data_is_compared(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pt_writer.save
    monkeypatch.setattr(
        pt_writer, "save", lambda value, path: real({**value, "train": {**value["train"], "lr": 1}}, path)
    )
    with pytest.raises(VerificationError, match="the data differ after reading back"):
        dpnn_bridge.convert(source, tmp_path / "s.pt")
    assert not (tmp_path / "s.pt").exists()


def test_tables_that_are_reached_in_very_many_ways_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    from dpnn_bridge.outputs import data

    monkeypatch.setattr(data, "MAX_VALUES", 10_000)
    table = LuaTable({"x": 1})
    for _ in range(40):
        table = LuaTable({"a": table, "b": table})
    dpnn_bridge.write_t7(tmp_path / "d.t7", table)
    with pytest.raises(ConversionLimitError):
        dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "d.json")


def test_a_table_that_many_share_is_looked_at_once(tmp_path: Path) -> None:
    shared = LuaTable({i: float(i) for i in range(1, 401)})
    dpnn_bridge.write_t7(tmp_path / "d.t7", LuaTable.from_list([LuaTable({"t": shared}) for _ in range(4000)]))
    entries = list(dpnn_bridge.load_checkpoint(tmp_path / "d.t7").rest.values())
    assert len(entries) == 4000
    assert all(entry["t"] is entries[0]["t"] for entry in entries)
    calls: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, arg: calls.update([event]))
    try:
        list(lines(summarize(tmp_path / "d.t7")))
    finally:
        sys.setprofile(None)
    assert calls["call"] < 1_000_000  # it takes 250,000; with each table each time, 9,900,000


def test_what_is_a_model_is_no_data_and_the_reverse(source: Path, tmp_path: Path) -> None:
    rnn = SAMPLES / "char-rnn__lstm" / "model.t7"
    with pytest.raises(ConversionError, match=r"contains a model, and \.json stores only data"):
        dpnn_bridge.convert(rnn, tmp_path / "m.json")
    dpnn_bridge.convert(rnn, tmp_path / "vocab.json", key="vocab")
    assert json.loads((tmp_path / "vocab.json").read_text())["^"] == 30
    with pytest.raises(ModelNotFoundError, match=r"It can be converted as data to \.npz"):
        dpnn_bridge.convert(source, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_file_that_only_names_a_model_points_there(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "latest.t7", LuaTable({"epoch": 5, "modelFile": "model_5.t7"}))
    report = dpnn_bridge.convert(tmp_path / "latest.t7", tmp_path / "latest.pt")
    assert report.notes == [
        "the file contains no model; its field modelFile is the path of a model file: convert model_5.t7",
    ]


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors", ".json"])
def test_views_that_repeat_an_element_take_what_the_file_is_worth(suffix: str, tmp_path: Path) -> None:
    one = LuaStorage("torch.ByteStorage", 1, np.ones(1, dtype=np.uint8))
    views = {f"v{i}": LuaTensor("torch.ByteTensor", (1 << 28,), (0,), 0, one) for i in range(20)}
    dpnn_bridge.write_t7(tmp_path / "views.t7", LuaTable(views), verify=False)
    with pytest.raises(ConversionLimitError, match="memory"):
        dpnn_bridge.convert(tmp_path / "views.t7", tmp_path / f"out{suffix}")
    assert not (tmp_path / f"out{suffix}").exists()


def test_a_checkpoint_of_views_takes_what_the_file_is_worth(tmp_path: Path) -> None:
    storage = LuaStorage("torch.FloatStorage", 6000, np.ones(6000, dtype=np.float32))
    views = [LuaTensor("torch.FloatTensor", (6000,), (1,), 0, storage) for _ in range(6000)]
    dpnn_bridge.write_t7(tmp_path / "views.t7", LuaTable.from_list(views), verify=False)
    with pytest.raises(ConversionLimitError, match="memory"):
        dpnn_bridge.load_checkpoint(tmp_path / "views.t7")


def test_a_long_key_is_not_repeated_for_each_of_its_entries(tmp_path: Path) -> None:
    entries = LuaTable({f"e{i}": LuaTable() for i in range(3000)})
    dpnn_bridge.write_t7(tmp_path / "key.t7", LuaTable({"k" * 100_000: entries}), verify=False)
    with pytest.raises(ConversionLimitError, match="characters"):
        dpnn_bridge.convert(tmp_path / "key.t7", tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("names", "suffix", "refused"),
    [
        (["a\0b"], ".npz", "a"),  # where a name ends in a zip archive
        (["k" * 70_000], ".npz", "kkk"),
        (["x", "x.npy"], ".npz", "x.npy"),
        (["__metadata__"], ".safetensors", "__metadata__"),
        (["file", "self", "x.npy", "\udcff", "../../x"], ".npz", None),
        (["a\0b", "k" * 70_000, "x", "x.npy"], ".safetensors", None),
        (["a\0b", "k" * 70_000, "x", "x.npy", "__metadata__"], ".pt", None),
    ],
)
def test_names_that_a_format_does_not_have(names: list[str], suffix: str, refused: str | None, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "d.t7", LuaTable({name: LuaTensor.from_numpy(np.ones(2)) for name in names}))
    if refused is None:
        dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / f"d{suffix}")
        return
    with pytest.raises(ConversionError, match=f"{suffix} cannot store an entry named '{refused}") as raised:
        dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / f"d{suffix}")
    assert len(str(raised.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["d.t7"]


def test_arrays_of_any_byte_order_and_gaps_of_a_list(tmp_path: Path) -> None:
    for array in (np.arange(3, dtype=">f4"), np.arange(3, dtype="<f4")):
        tensor = LuaTensor.from_numpy(array)
        assert (tensor.class_name, tensor.numpy().tolist()) == ("torch.FloatTensor", [0, 1, 2])
        assert LuaTensor.from_numpy(array, "torch.FloatTensor").dtype == np.float32
    with pytest.raises(KeyError, match="bool"):
        LuaTensor.from_numpy(np.array([True]))
    table = LuaTable.from_list([1, None, 3])
    assert dict(table) == {1: 1, 3: 3}
    dpnn_bridge.write_t7(tmp_path / "t.t7", table)


# ---------------------------------------------------------------------- keys and names
def test_a_key_of_a_converted_file_is_the_one_it_was_converted_with(tmp_path: Path) -> None:
    net = dpnn_bridge.to_lua(nn.Linear(2, 3))
    other = dpnn_bridge.to_lua(nn.Linear(5, 3))
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaTable({"a": net, "b": other}))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "one.pt", key="a")
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "both.pt")
    assert dpnn_bridge.load(tmp_path / "one.pt", key="a").in_features == 2
    assert dpnn_bridge.inspect(tmp_path / "both.pt", key="b").models[0].parameters == 18
    for name, keys in (("one.pt", "a"), ("both.pt", "a, b")):
        for read in (dpnn_bridge.load, dpnn_bridge.inspect):
            with pytest.raises(ModelNotFoundError, match=f"no entry at key 'c'. Models in the file: {keys}"):
                read(tmp_path / name, key="c")


def test_the_next_command_does_not_write_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.save("my net.safetensors", nn.Linear(2, 3))
    assert dpnn_bridge.inspect("my net.safetensors").next == [
        "dpnn-convert 'my net.safetensors' 'my net.onnx' --input 1x2"
    ]
    assert _output("model.pt", ".pt") == "model-converted.pt"
    dpnn_bridge.save("net.t7", nn.Linear(2, 3))
    Path("net.t7").rename("net.pt")
    with pytest.raises(NotT7Error, match=r"net.pt: a Torch7 file, not a file of torch.save; rename it to \*.t7"):
        dpnn_bridge.inspect("net.pt")


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_an_option_at_its_default_is_no_option_of_the_format(suffix: str, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / f"m{suffix}", nn.Linear(2, 3), dynamic=False, input_names=[])
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(2, 3))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / f"n{suffix}", dynamic=[])
    with pytest.raises(OptionError, match="does not take dynamic="):
        dpnn_bridge.save(tmp_path / f"o{suffix}", nn.Linear(2, 3), dynamic=True)


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("kind", ["string", "class"])
def test_a_text_in_a_table_that_occurs_often_is_not_written_as_often(kind: str, suffix: str, tmp_path: Path) -> None:
    """A file of a megabyte took all memory."""
    text = "q" * 1_000_000
    shared: Any = LuaTable({"text": text}) if kind == "string" else LuaObject(f"my.{text}", LuaTable({"a": 1}))
    for count in (3, 3000):
        dpnn_bridge.write_t7(tmp_path / f"{count}.t7", LuaTable.from_list([shared] * count))
    dpnn_bridge.convert(tmp_path / "3.t7", tmp_path / f"3{suffix}")
    with pytest.raises(ConversionLimitError, match="more memory than the file contains"):
        dpnn_bridge.convert(tmp_path / "3000.t7", tmp_path / f"3000{suffix}")


def test_a_text_in_a_table_beside_a_model_is_not_written_as_often_as_it_occurs(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    shared = LuaTable({"text": "q" * 1_000_000})
    for count in (3, 300):
        model = dpnn_bridge.to_lua(nn.Tanh())
        path = tmp_path / f"{count}.t7"
        dpnn_bridge.write_t7(path, LuaTable({"model": model, "opt": LuaTable.from_list([shared] * count)}))
        dpnn_bridge.convert(path, path.with_suffix(".safetensors"))
    assert (tmp_path / "3.safetensors").stat().st_size > 3_000_000
    assert (tmp_path / "300.safetensors").stat().st_size < 100_000


# ---------------------------------------------------------------------- equal data in other bytes
def saved_again(path: Path, change: str) -> None:
    """Write the content of a file as the user of its format would, with one change."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        content["a"][0] += change == "value"
        content |= {"extra": 1} if change == "extra" else {}
        text = json.dumps(dict(reversed(content.items())), indent=3)
        path.write_text(text[:-1] + ', "n": 3}' if change == "twice" else text)
        return
    arrays = dict(np.load(path))
    arrays["a"] = np.asfortranarray(arrays["a"])
    arrays["a"][0, 0] += change == "value"
    arrays |= {"extra": arrays["a"]} if change == "extra" else {}
    arrays |= {"a": arrays["a"].astype(np.float32)} if change == "dtype" else {}
    np.savez(path, **dict(reversed(arrays.items())))


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        *((".json", change) for change in ("", "value", "extra", "twice")),
        *((".npz", change) for change in ("", "value", "extra", "dtype")),
    ],
)
def test_data_are_compared_by_value(suffix: str, change: str, tmp_path: Path) -> None:
    source, target = tmp_path / "d.t7", tmp_path / f"d{suffix}"
    rows = [1.5, float("nan")] if suffix == ".json" else np.arange(6.0).reshape(2, 3)
    dpnn_bridge.write_t7(source, {"a": rows, "n": 3, "name": "cat", "list": [1, True]})
    dpnn_bridge.convert(source, target)
    saved_again(target, change)
    assert is_converted(source, target) is (not change)


@pytest.mark.parametrize(("number", "other"), [(float("nan"), 1.0), (-0.0, 0.0)])
def test_numbers_with_other_bits_are_other_data(number: float, other: float, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "d.t7", LuaTable({"x": number}))
    dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "d.pt")
    assert data_difference(tmp_path / "d.t7", tmp_path / "d.pt") == ""
    torch.save({"x": other}, tmp_path / "e.pt")
    assert data_difference(tmp_path / "d.t7", tmp_path / "e.pt") == f"x: expected {number}, found {other}"


def test_data_in_t7_are_compared_with_keys_in_any_order(tmp_path: Path) -> None:
    items = [("a", 1), (True, "x"), (1, "y"), (2.5, LuaTable({"b": 1, "c": 2}))]
    for name, entries in (("d", items), ("e", items[::-1]), ("f", [*items[1:], ("A", 1)])):
        dpnn_bridge.write_t7(tmp_path / f"{name}.t7", LuaTable(entries))
    assert data_difference(tmp_path / "d.t7", tmp_path / "e.t7") == ""
    assert data_difference(tmp_path / "d.t7", tmp_path / "f.t7") == "a: expected 1, found nothing"


def test_nans_that_differ_show_their_bits() -> None:
    one, other = np.array([1, np.nan], np.float16), np.array([1, np.nan], np.float16)
    other.view(np.uint16)[1] |= 5
    expected = "x[2]: expected nan with the bits 0x7e00, found nan with the bits 0x7e05"
    assert first_difference({"x": one}, {"x": other}) == expected
    assert first_difference({"x": one}, {"x": one.copy()}) == ""


def test_a_tensor_without_elements_is_no_long_list(tmp_path: Path) -> None:
    storage = LuaStorage("torch.DoubleStorage", 0, np.empty(0))
    for size in (3, 10**7):
        dpnn_bridge.write_t7(
            tmp_path / "a.t7", LuaTable({"x": LuaTensor("torch.DoubleTensor", (size, 0), (1, 1), 0, storage)})
        )
        if size == 3:
            dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / "a.json")
            assert json.loads((tmp_path / "a.json").read_text()) == {"x": [[], [], []]}
            continue
        with pytest.raises(ConversionLimitError, match="require more memory than the file contains"):
            dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / "b.json")
        dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / "b.npz")


@pytest.mark.parametrize("kind", ["sizes of 1", "nested tables"])
def test_lists_and_lines_count_as_memory_of_text(kind: str, tmp_path: Path) -> None:
    def data(size: int) -> Any:
        shape = (size, *[1] * 20) if kind == "sizes of 1" else (size,)
        value: Any = LuaTensor.from_numpy(np.ones(shape, np.uint8))
        for _ in range(0 if kind == "sizes of 1" else 150):
            value = LuaTable({"a": value})
        return value

    for size in (100, 10**6):
        dpnn_bridge.write_t7(tmp_path / "a.t7", LuaTable({"x": data(size)}), force=True)
        if size == 100:
            dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / "a.json")
            continue
        with pytest.raises(ConversionLimitError, match="require more memory than the file contains"):
            dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / "b.json")


def test_labels_are_written_as_text() -> None:
    labels = LuaTensor.from_numpy(np.ones((10**6, 1), np.uint8))
    assert collect(LuaTable({"y": labels}), text=True).tensors == 1
