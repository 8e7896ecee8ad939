"""An input that does not fit: every place that runs a model names the layer, what it is, and what it got."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.registry import mapping_of
from dpnn_bridge.errors import (
    ConversionError,
    FileAccessError,
    T7FormatError,
    UnsupportedClass,
    UnsupportedClassError,
)
from dpnn_bridge.loaders.source import FileSource
from dpnn_bridge.pictures import model_graph

WHERE = "modules[2].modules[1], Linear(in_features=3, out_features=2, bias=True), got 1x2: mat1 and mat2"


def test_every_run_names_the_layer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2)))
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt")
    x, loaded = torch.zeros(1, 3), dpnn_bridge.load(tmp_path / "m.t7")
    runs = {
        "convert": lambda: dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.onnx", input=x),
        "verify": lambda: dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.pt", input=x),
        "reference": lambda: dpnn_bridge.verify(tmp_path / "m.t7", input=x, output=x),
        "picture": lambda: model_graph(loaded, x),
    }
    for name, run in runs.items():
        with pytest.raises(ConversionError, match="cannot run on") as caught:
            run()
        assert WHERE in str(caught.value), name
    assert dpnn_bridge.inspect(tmp_path / "m.t7", input=x).models[0].refused.startswith(WHERE)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes"):
        loaded(x)  # a loaded model is stock: its error is PyTorch's


def test_classes_that_cannot_be_converted_are_counted_by_their_reason() -> None:
    plain = [UnsupportedClass(name, [name]) for name in ("nn.A", "nn.B")]
    misfit, absent = UnsupportedClass("nn.C", ["c"], reason="size"), UnsupportedClass("nn.D", ["d"], mapped_by="my.lua")
    assert str(UnsupportedClassError([*plain, misfit, absent])).startswith(
        "2 Lua classes without a mapping and 1 Lua class whose mapping cannot convert an object "
        "and 1 Lua class of a plugin or Lua file that is not loaded:"
    )


def test_modules_without_a_lua_class_have_their_name_in_pytorch() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    with pytest.raises(RuntimeError) as caught:
        Own()(torch.zeros(1, 4))
    assert failure_reason(caught.value).startswith("body, Linear(in_features=3")
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(3, 2)(torch.zeros(1, 4))
    assert failure_reason(caught.value).startswith("mat1 and mat2")


def test_errors_of_workers_reach_their_parent() -> None:
    """Processes send errors as pickles."""
    for error in (
        UnsupportedClassError([UnsupportedClass("nn.Mine", ["model.modules[1]"], ("weight",))]),
        T7FormatError("truncated", offset=3, path="model", source="m.t7"),
        ConversionError("no weight", path="model", class_name="nn.Linear"),
    ):
        sent = pickle.loads(pickle.dumps(error))
        assert (type(sent), str(sent), vars(sent)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("fault", ["truncated", "disk", "memory"])
@pytest.mark.parametrize("allow_unsupported", [False, True])
def test_an_error_of_reading_is_none_of_a_class(
    allow_unsupported: bool, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was truncated gave a model with placeholders."""
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(nn.Linear(100, 100), nn.Tanh()))
    obj = dpnn_bridge.read_t7(tmp_path / "m.t7")
    if fault == "truncated":
        os.truncate(tmp_path / "m.t7", 1000)
        expected = T7FormatError, "truncated after it was opened"
    else:
        error = OSError(errno.EIO, "Input/output error", "m.t7") if fault == "disk" else MemoryError()
        monkeypatch.setattr(FileSource, "fill", Mock(side_effect=error))
        expected = (FileAccessError, r"m\.t7: .*input/output") if fault == "disk" else (ConversionError, "not enough")
    with pytest.raises(expected[0], match=expected[1]) as caught:
        dpnn_bridge.to_torch(obj, allow_unsupported=allow_unsupported)
    assert not isinstance(caught.value, UnsupportedClassError)


def test_an_error_of_a_mapping_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping of a plugin may read a file of its own, without permission."""
    model = nn.Sequential(nn.Identity(), nn.Tanh())
    obj = dpnn_bridge.to_lua(model)
    mapping = mapping_of(model[1])
    denied = PermissionError(errno.EACCES, "Permission denied", "table.bin")
    monkeypatch.setattr(mapping, "build", Mock(side_effect=denied))
    with pytest.raises(FileAccessError, match=r"^table\.bin: converting modules\[2\] \(nn\.Tanh\): permission denied"):
        dpnn_bridge.to_torch(obj)
    monkeypatch.setattr(mapping, "to_lua", Mock(side_effect=denied))
    with pytest.raises(FileAccessError, match=r"^table\.bin: converting 1 \(Tanh\): permission denied; check the perm"):
        dpnn_bridge.to_lua(model)
    monkeypatch.setattr(mapping, "to_lua", Mock(side_effect=ValueError("bad table")))
    with pytest.raises(ConversionError, match=r"^1 \(Tanh\): converting the module: ValueError: bad table"):
        dpnn_bridge.to_lua(model)
    monkeypatch.setattr(mapping, "to_lua", Mock(side_effect=RecursionError()))
    with pytest.raises(ConversionError, match=r"^converting: the data are nested too deeply"):
        dpnn_bridge.to_lua(model)
