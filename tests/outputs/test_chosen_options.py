"""Options that are None, options for files without a model, and what is compared after writing."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.errors import OptionError, VerificationError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.outputs import export, safetensors_writer
from dpnn_bridge.outputs.data import collect
from dpnn_bridge.outputs.formats.onnx import Onnx
from dpnn_bridge.outputs.plain import as_plain


@pytest.mark.parametrize(
    ("name", "options"),
    [("m.safetensors.index.json", {"max_shard_size": None}), ("m.t7", {"mode": None, "long_size": None})],
)
def test_none_is_the_default_of_an_option(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """None was passed on as a value, and refused."""
    dpnn_bridge.save(tmp_path / name, nn.Linear(2, 2), **options)
    assert dpnn_bridge.load(tmp_path / name).weight.shape == (2, 2)


def test_data_are_written_with_the_options_of_the_format(tmp_path: Path) -> None:
    """The options were ignored."""
    dpnn_bridge.write_t7(tmp_path / "d.t7", {"a": torch.ones(2)})
    dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "ascii.t7", mode="ascii")
    assert (tmp_path / "ascii.t7").read_bytes().startswith(b"3\n")
    assert dpnn_bridge.read_t7(tmp_path / "ascii.t7")["a"].numpy().tolist() == [1, 1]
    with pytest.raises(OptionError, match="tensor_type= is an option for models"):
        dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "out.t7", tensor_type="torch.DoubleTensor")


def test_a_dropped_entry_of_the_file_itself_has_a_path() -> None:
    """The text began with a colon."""
    assert collect(LuaTable({LuaTensor.empty("torch.FloatTensor"): 1})).dropped == [
        "the file: an entry whose key is a LuaTensor"
    ]


def test_the_content_of_an_object_that_is_no_table_is_dropped() -> None:
    """It was omitted without a word."""
    found = collect(LuaTable({"a": LuaObject("my.Blob", "bytes")}))
    assert found.plain == {"a": {"torch class": "my.Blob"}}
    assert found.dropped == ["a: the content of a my.Blob, which is not a table"]


def test_a_string_of_an_enumeration_keeps_its_value() -> None:
    """It became the name of the member."""
    color = enum.Enum("Color", {"RED": "red"}, type=str)
    found = as_plain({"color": color.RED})
    assert found == {"color": "red"}
    assert type(found["color"]) is str


def write(source: Any, path: Path) -> None:
    if isinstance(source, nn.Module):
        dpnn_bridge.save(path, source, metadata={"a": 1})
    else:
        dpnn_bridge.convert(source, path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.safetensors.index.json", "d.safetensors"])
def test_the_metadata_of_safetensors_are_compared(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tensors were."""
    real = safetensors_writer.write

    def changing(path: Path, parts: Any, strings: dict[str, str]) -> None:
        changed = {"metadata": json.dumps({"a": 2})} if "metadata" in strings else {"values": "{}"}
        real(path, parts, strings | changed)

    dpnn_bridge.write_t7(tmp_path / "d.t7", {"a": torch.ones(2), "b": 1})
    monkeypatch.setattr(safetensors_writer, "write", changing)
    source = tmp_path / "d.t7" if name.startswith("d") else nn.Linear(2, 2)
    with pytest.raises(VerificationError, match="the metadata differ after reading back"):
        write(source, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_metadata_of_the_caller_do_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version was added to them."""
    monkeypatch.setattr(Onnx, "write", lambda self, module, path, context: context.metadata.update(version="1"))
    monkeypatch.setattr(Onnx, "verify", lambda self, module, path, context: path.write_bytes(b""))
    metadata = {"a": 1}
    export(nn.Linear(2, 2), tmp_path / "m.onnx", metadata=metadata, input=torch.ones(1, 2))
    assert metadata == {"a": 1}


@pytest.mark.parametrize("name", ["x.t7", b"x.t7", Path("x.t7")])
def test_the_name_of_a_file_is_no_input(name: Any, tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    dpnn_bridge.write_t7(tmp_path / "m.t7", layer)
    for call in (
        lambda: dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.onnx", input=name),
        lambda: dpnn_bridge.save(tmp_path / "m.pt2", layer, input=name),
        lambda: dpnn_bridge.to_lua(layer, input=name),
        lambda: dpnn_bridge.parity.record(layer, name, tmp_path / "fixture.t7"),
    ):
        with pytest.raises(OptionError, match=r"input= is the .* 'x\.t7'; pass a tensor, an array or a table"):
            call()
    assert [p.name for p in tmp_path.iterdir()] == ["m.t7"]
