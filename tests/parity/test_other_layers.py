"""Without an input, dpnn-verify finds layers of another class, layers that a file lacks, and added layers."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formula import linear, lua, random
from torch import nn

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import convert as conversion
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity import exported
from dpnn_bridge.parity.converted import _same_class
from dpnn_bridge.parity.exported import NOTE
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify

SUFFIXES = [".t7", ".pt", ".safetensors", ".py"]
LINEAR = nn.Linear(3, 3)


def compared(folder: Path, suffix: str, model: list[nn.Module], other: list[nn.Module]) -> Verification:
    dpnn_bridge.write_t7(folder / "model.t7", nn.Sequential(*model).eval())
    dpnn_bridge.write_t7(folder / "other.t7", nn.Sequential(*other).eval())
    dpnn_bridge.save(folder / f"file{suffix}", dpnn_bridge.load(folder / "other.t7"))
    return verify(folder / "model.t7", converted=folder / f"file{suffix}")


def messages(result: Verification) -> list[str]:
    found = [*result.whole, *(d for layer in result.layers for d in layer.converted)]
    return [f"{d.name}: {d.message}" for d in found if not d.ok]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_activation_is_named(suffix: str, tmp_path: Path) -> None:
    result = compared(tmp_path, suffix, [LINEAR, nn.Tanh()], [LINEAR, nn.Sigmoid()])
    assert messages(result) == ["class: Sigmoid instead of Tanh"]
    assert result.verdict is Verdict.DIFFERENT
    assert [layer.path for layer in result.layers if not layer.ok] == ["modules[2]"]


def test_a_subclass_of_the_layer_is_another_layer(tmp_path: Path) -> None:
    convolution = nn.Conv2d(1, 1, 1)
    for name, divide in (("model.t7", True), ("other.t7", False)):
        pooling = dpnn_bridge.to_lua(nn.Sequential(convolution, nn.AvgPool2d(3, 2, 1, ceil_mode=True)))
        pooling["modules"][2]["divide"] = divide
        dpnn_bridge.write_t7(tmp_path / name, pooling)
    result = verify(tmp_path / "model.t7", converted=tmp_path / "other.t7")
    assert messages(result) == ["class: UndividedAvgPool2d instead of AvgPool2d"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_added_layer_is_named(suffix: str, tmp_path: Path) -> None:
    result = compared(tmp_path, suffix, [LINEAR], [LINEAR, nn.Tanh()])
    assert messages(result) == ["converted 1: the model has no such module"]
    assert result.verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_layer_that_the_file_lacks_is_named(suffix: str, tmp_path: Path) -> None:
    if suffix == ".py":
        with pytest.raises(VerificationError, match=r"file\.py creates no 1 \(Tanh\)"):
            compared(tmp_path, suffix, [LINEAR, nn.Tanh()], [LINEAR])
        return
    result = compared(tmp_path, suffix, [LINEAR, nn.Tanh()], [LINEAR])
    assert messages(result) == ["class: the converted file has no Tanh"]
    assert result.verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_layer_whose_name_ends_with_a_number(suffix: str, tmp_path: Path) -> None:
    """A program appends numbers to the names of classes that it contains, not to those of PyTorch."""
    result = compared(tmp_path, suffix, [LINEAR, nn.ReLU()], [LINEAR, nn.ReLU6()])
    assert messages(result) == ["class: ReLU6 instead of ReLU"]


def test_a_program_with_a_layer_in_the_place_of_a_container(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"file\.py creates no 0\.0 \(Tanh\)"):
        compared(tmp_path, ".py", [nn.Sequential(nn.Tanh(), nn.Sigmoid())], [nn.ReLU()])


def test_a_reference_whose_model_has_another_structure_is_different(tmp_path: Path) -> None:
    norm = nn.Sequential(nn.BatchNorm1d(4), nn.Tanh())
    model, other = nn.Sequential(norm, nn.Tanh()).double(), nn.Sequential(nn.Tanh(), norm).double()
    x = torch.randn(3, 4).double()
    after = dpnn_bridge.to_lua(other.eval())
    after["output"] = lua_value(other(x).detach())
    table = {"mode": "eval", "input": lua_value(x), "output": after["output"], "after": after}
    dpnn_bridge.write_t7(tmp_path / "model.t7", model.eval())
    dpnn_bridge.write_t7(tmp_path / "ref.t7", LuaTable(table))
    assert verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7").verdict == Verdict.DIFFERENT


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layers_with_computed_weights_are_the_same(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [dpnn_bridge.to_torch(dpnn_bridge.to_lua(LINEAR)), nn.Dropout(0.2)]
    assert compared(tmp_path, suffix, layers, layers).verdict is Verdict.EQUAL


BORN = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.SiLU(), nn.Softmax(1))


@pytest.mark.parametrize("given", [None, torch.ones(2, 4)], ids=["plain", "example"])
@pytest.mark.parametrize("value", [None, torch.ones(2, 4)], ids=["tensors", "outputs"])
@pytest.mark.parametrize("names", [("model.pt", "file.t7"), ("file.t7", "model.pt")], ids=" ".join)
def test_layers_of_pytorch_are_compared_as_they_are_exported(
    given: Any, value: Any, names: tuple[str, str], tmp_path: Path
) -> None:
    dpnn_bridge.save(tmp_path / "model.pt", BORN)
    dpnn_bridge.save(tmp_path / "file.t7", BORN, input=given)
    model, converted = (tmp_path / name for name in names)
    result = verify(model, converted=converted, input=value)
    assert messages(result) == []
    assert result.verdict is Verdict.EQUAL
    assert f"{'MODEL' if names[0] == 'model.pt' else 'model.pt'} {NOTE}." in result.notes
    changed = dpnn_bridge.read_t7(tmp_path / "file.t7")
    changed["modules"][1]["weight"].torch()[0, 0] += 1e-3
    dpnn_bridge.write_t7(tmp_path / "file.t7", changed, force=True)
    result = verify(model, converted=converted, input=value)
    assert result.verdict is Verdict.DIFFERENT
    assert any(message.startswith("weight: ") for message in messages(result))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Upsample(scale_factor=2), (1, 3, 4, 4)),
        (nn.Upsample(scale_factor=2), (1, 3, 4)),
        (nn.Linear(3, 4), (2, 5, 3)),
        (nn.Linear(3, 4), (2, 5, 2, 3)),
        (nn.Flatten(2), (2, 3, 4, 5)),
        (nn.Softmax(1), (2, 3, 4, 5)),
        (nn.LocalResponseNorm(3, k=2.0), (2, 3, 4, 5)),
    ],
    ids=str,
)
def test_an_export_for_other_numbers_of_dimensions_is_found_without_the_example(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = nn.Sequential(layer, nn.PReLU(1))
    dpnn_bridge.save(tmp_path / "model.pt", model)
    dpnn_bridge.save(tmp_path / "file.t7", model, input=torch.ones(shape))
    assert messages(verify(tmp_path / "model.pt", converted=tmp_path / "file.t7")) == []
    with torch.no_grad():
        model.get_parameter("1.weight").add_(1e-3)
    dpnn_bridge.save(tmp_path / "file.t7", model, input=torch.ones(shape))
    assert len(messages(verify(tmp_path / "model.pt", converted=tmp_path / "file.t7"))) == 1


def test_the_layer_behind_an_embedding_gets_one_dimension_more(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    dpnn_bridge.save(tmp_path / "model.pt", model)
    dpnn_bridge.save(tmp_path / "file.t7", model, input=torch.ones(2, 4, dtype=torch.int64))
    assert messages(verify(tmp_path / "model.pt", converted=tmp_path / "file.t7")) == []


def test_a_layer_that_is_used_twice_is_found_under_both_names(tmp_path: Path) -> None:
    """A ``.t7`` contains it twice, a ``.pt`` once."""
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    for name in ("m.pt", "m.t7"):
        dpnn_bridge.save(tmp_path / name, model)
    for one, other in (("m.pt", "m.t7"), ("m.t7", "m.pt")):
        assert messages(verify(tmp_path / one, converted=tmp_path / other)) == []


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".t7"])
def test_an_edge_of_a_graph_is_compared_without_an_input(suffix: str, tmp_path: Path) -> None:
    for name, sources in (("model.t7", (1, 2)), (f"same{suffix}", (1, 2)), (f"other{suffix}", (2, 1))):
        nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((0,), "1"), GraphNode(sources, "2"), GraphNode((3,))]
        dpnn_bridge.save(tmp_path / name, GModule(nn.Tanh(), nn.ReLU(), CAddTable(), nodes=nodes))
    assert messages(verify(tmp_path / "model.t7", converted=tmp_path / f"same{suffix}")) == []
    result = verify(tmp_path / "model.t7", converted=tmp_path / f"other{suffix}")
    # nngraph accepts one use of the input node, so x1 is the input
    assert messages(result) == ["graph: x4 = (2)([x3, x2]) instead of x4 = (2)([x2, x3])"]


def test_a_program_numbers_classes_of_one_name() -> None:
    first, second = (type("Same", (nn.Module,), {}) for _ in range(2))
    numbered = type("Same2", (nn.Module,), {})
    assert all(_same_class(first, kind, program=True) for kind in (second, numbered))
    assert not _same_class(numbered, first, program=True)
    assert _same_class(type("Graph", (GModule,), {}), nn.Module, program=True)


def test_other_models_of_the_file_need_no_conversion(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    dpnn_bridge.save(tmp_path / "a.pt", model)
    unknown = LuaObject("my.Unknown", LuaTable())
    dpnn_bridge.write_t7(tmp_path / "two.t7", LuaTable({"a": dpnn_bridge.to_lua(model), "b": unknown}))
    assert messages(verify(tmp_path / "a.pt", converted=tmp_path / "two.t7", key="a")) == []


@pytest.mark.parametrize(("layer", "differ"), [(nn.Conv2d(1, 1, 1), False), (nn.Softmax(1), True)], ids=str)
def test_a_file_is_compared_with_one_export_unless_the_exports_differ(
    layer: nn.Module, differ: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    convert = exported.convert_object
    monkeypatch.setattr(exported, "convert_object", lambda *args: (converted.append(args), convert(*args))[1])
    model, value = nn.Sequential(layer, nn.PReLU(1)), torch.ones(1, 1, 2, 2)
    assert exported.as_exported(model, nn.Sequential(nn.Tanh()), value, Options()) is not None
    assert (len(converted) > 1) is differ


def test_every_error_of_an_export_with_assumed_dimensions_is_an_error_of_the_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(module: nn.Module) -> nn.Module:
        raise AttributeError("no such attribute")

    monkeypatch.setattr(conversion, "unshared", fail)
    with pytest.raises(ConversionError, match="converting: AttributeError: no such attribute"):
        conversion.to_lua_assuming(nn.Tanh(), 2)


NAMED = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), act=nn.SiLU(), flat=nn.Flatten()))


def test_weights_with_other_names_are_compared_in_their_order(tmp_path: Path) -> None:
    for suffix in (".t7", ".npz"):
        dpnn_bridge.save(tmp_path / f"net{suffix}", NAMED)
    result = verify(tmp_path / "net.t7", converted=tmp_path / "net.npz")
    assert result.verdict is Verdict.EQUAL
    assert "in their order" in " ".join(result.notes)
    arrays = dict(np.load(tmp_path / "net.npz"))
    arrays["norm.running_mean"][0] += 1e-3
    np.savez(tmp_path / "net.npz", **arrays)
    assert [m[:13] for m in messages(verify(tmp_path / "net.t7", converted=tmp_path / "net.npz"))] == ["running_mean:"]


@pytest.mark.parametrize(
    "network", [nn.Sequential(layer) for layer in (nn.GroupNorm(2, 4), nn.Conv1d(3, 4, 3), nn.LayerNorm(4))]
)
def test_dimensions_of_size_1_that_the_export_adds_are_no_difference(network: nn.Module, tmp_path: Path) -> None:
    for suffix in (".t7", ".npz"):
        dpnn_bridge.save(tmp_path / f"net{suffix}", network)
    assert verify(tmp_path / "net.t7", converted=tmp_path / "net.npz").verdict is Verdict.EQUAL
    arrays = dict(np.load(tmp_path / "net.npz"))
    arrays["0.bias"][0] += 1e-3
    np.savez(tmp_path / "net.npz", **arrays)
    assert verify(tmp_path / "net.t7", converted=tmp_path / "net.npz").verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("layer", "other"),
    [(nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False)), (nn.Conv2d(2, 2, (1, 3)), nn.Conv2d(2, 2, (3, 1)))],
)
def test_another_shape_of_as_many_dimensions_is_a_difference(
    layer: nn.Module, other: nn.Module, tmp_path: Path
) -> None:
    with torch.no_grad():
        for mine, its in zip(other.parameters(), layer.parameters(), strict=True):
            mine.copy_(its.reshape(mine.shape))
    dpnn_bridge.save(tmp_path / "net.t7", nn.Sequential(layer))
    dpnn_bridge.save(tmp_path / "net.npz", nn.Sequential(OrderedDict(own=other)))
    assert verify(tmp_path / "net.t7", converted=tmp_path / "net.npz").verdict is Verdict.DIFFERENT


def test_an_array_with_another_name_is_named_with_all_differences(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    for suffix in (".t7", ".npz"):
        dpnn_bridge.save(tmp_path / f"net{suffix}", network)
    arrays = dict(np.load(tmp_path / "net.npz"))
    arrays["1.bias_"] = arrays.pop("1.bias")
    arrays["0.weight"][0, 0] += 1e-3
    np.savez(tmp_path / "net.npz", **arrays)
    result = verify(tmp_path / "net.t7", converted=tmp_path / "net.npz")
    assert [layer.path for layer in result.layers if not layer.ok] == ["modules[1]", "modules[2]"]


@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(3, 4), nn.Sequential(LINEAR, nn.LayerNorm(3)), nn.Conv2d(4, 4, 3, groups=2, bias=False)],
    ids=["lstm", "norm", "conv"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "alone"])
def test_the_weights_of_divided_layers_are_not_compared(layer: nn.Module, inside: bool, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Tanh(), layer) if inside else layer
    for suffix in (".t7", ".npz"):
        dpnn_bridge.save(tmp_path / f"net{suffix}", network)
    with pytest.raises(VerificationError, match="compare the file with the network's own file"):
        verify(tmp_path / "net.t7", converted=tmp_path / "net.npz")


def test_a_model_without_weights_has_no_note_about_their_order(tmp_path: Path) -> None:
    for suffix in (".t7", ".npz"):
        dpnn_bridge.save(tmp_path / f"tanh{suffix}", nn.Tanh())
    notes = verify(tmp_path / "tanh.t7", converted=tmp_path / "tanh.npz").notes
    assert notes == ["tanh.npz contains weights and no layers."]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npz"])
def test_a_file_converted_with_a_key_is_compared_with_this_key(suffix: str, tmp_path: Path) -> None:
    model = dpnn_bridge.to_lua(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Sequential(nn.Linear(2, 4))))
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    inner, file = "modules[3]", tmp_path / f"inner{suffix}"
    dpnn_bridge.convert(tmp_path / "model.t7", file, key=inner)
    assert verify(tmp_path / "model.t7", converted=file, key=inner).verdict is Verdict.EQUAL
    if suffix == ".py":
        with pytest.raises(VerificationError, match="pass this key"):
            verify(tmp_path / "model.t7", converted=file)
    else:
        result = verify(tmp_path / "model.t7", converted=file)
        assert result.verdict is Verdict.DIFFERENT
        assert "pass this key" in " ".join(result.notes)


def test_a_weight_norm_of_torch7_is_no_layer_of_pytorch_and_has_the_mode_of_its_layer(tmp_path: Path) -> None:
    norm = lua("nn.WeightNorm", linear(4, 3), v=random(3, 4), g=random(3, 1), bias=random(3), outputDim=1)
    dpnn_bridge.write_t7(tmp_path / "model.t7", dpnn_bridge.to_torch(norm).eval())
    dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "model.pt")
    for names in (("model.t7", "model.pt"), ("model.pt", "model.t7")):
        result = verify(*(tmp_path / name for name in names))
        assert result.verdict is Verdict.EQUAL
        assert NOTE not in " ".join(result.notes)
    assert not any(m.training for m in dpnn_bridge.load(tmp_path / "model.pt").modules())
