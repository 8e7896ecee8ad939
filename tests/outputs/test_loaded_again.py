"""What is written is loaded again as its user does before the file appears."""

from __future__ import annotations

import json
import runpy
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES
from torch import nn
from torch.nn.utils import spectral_norm

import dpnn_bridge
from dpnn_bridge import LuaClass, lua_class, to_torch
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, LuaValueError, OptionError, T7FormatError
from dpnn_bridge.modules.dpnn import Convert, FireModule, OneHot, SpatialGlimpse
from dpnn_bridge.modules.nn import Add
from dpnn_bridge.modules.nn.container import ConcatTable
from dpnn_bridge.modules.rnn import Sequencer
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable
from dpnn_bridge.outputs.reloaded import _check_names
from dpnn_bridge.training import shared_clone

#: models of different make: a stock network, a graph, tied weights, several layers of the project's own
NAMES = (
    "torch-demos__mnist_convnet",
    "char-rnn__lstm",
    "stnbhwd__spatial_transformer",
    "DeepDeblur_release__ResNet_scale",
)


class Forgetful(nn.Module):
    """Written without its size: what is read is another module, or none."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        if size < 1:
            raise ValueError("no size")
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input * self.weight


@lua_class("test.Forgetful")
class ForgetfulClass(LuaClass):
    torch_type = Forgetful
    tensors = {"weight": "weight"}

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: Any) -> dict[str, Any]:
        return {"size": 0}


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.safetensors", "m.safetensors.index.json", "m.t7"])
def test_what_cannot_be_loaded_is_not_written(name: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), Forgetful(3))
    with pytest.raises(ConversionError, match=r"(?s)cannot be loaded again: .*modules\[2\] \(test\.Forgetful\)"):
        dpnn_bridge.save(tmp_path / name, model)
    assert list(tmp_path.iterdir()) == []


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch", reason="optional extra is not installed")
        return safetensors.load_file(path)
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_go_into_the_program(name: str, suffix: str, tmp_path: Path, python: list[str]) -> None:
    model = dpnn_bridge.load(SAMPLES / name / "model.t7")
    path = tmp_path / f"m{suffix}"
    dpnn_bridge.save(tmp_path / "net.py", model)
    dpnn_bridge.save(path, model)
    weights, expected = weights_of(path), model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(same_bits(weights[n], t) for n, t in expected.items())
    code = (
        "import sys; sys.modules['dpnn_bridge'] = None\n"
        "import torch, net\n"
        f"model = net.load({str(path)!r})\n"
        "torch.save({n: p for n, p in model.named_parameters()}, 'loaded.pt')\n"
    )
    subprocess.run([*python, "-c", code], check=True, cwd=tmp_path)
    loaded = torch.load(tmp_path / "loaded.pt")
    assert len(loaded) == len(dict(model.named_parameters()))
    assert all(same_bits(a, b) for a, b in zip(loaded.values(), model.parameters(), strict=True))


def test_weights_go_into_a_stock_network(tmp_path: Path) -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    dpnn_bridge.save(tmp_path / "m.safetensors", model)
    other = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    other.load_state_dict(weights_of(tmp_path / "m.safetensors"))
    assert torch.equal(other(torch.ones(4)), model(torch.ones(4)))
    again = dpnn_bridge.load(tmp_path / "m.safetensors")
    assert again[0].weight is again[2].weight


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".py"])
def test_children_keep_their_names(suffix: str, tmp_path: Path) -> None:
    shared = nn.Sequential(OrderedDict(q=nn.Linear(2, 2)))
    gap = nn.Sequential(nn.Linear(2, 2))
    gap.add_module("5", nn.Linear(2, 2))
    both = ConcatTable(OrderedDict([("a-b", nn.Linear(2, 2)), ("0", nn.Tanh()), ("c", shared)]))  # type: ignore[arg-type]
    model = nn.Sequential(OrderedDict([("fc", shared), ("1", nn.ReLU()), ("0", gap), ("class", both)]))
    path, x = tmp_path / f"m{suffix}", torch.randn(3, 2)
    dpnn_bridge.save(path, model)
    again = runpy.run_path(str(path))["build"]() if suffix == ".py" else dpnn_bridge.load(path)
    again.load_state_dict(model.state_dict())
    assert [n for n, _ in again.named_modules()] == [n for n, _ in model.named_modules()]
    assert all(torch.equal(a, b) for a, b in zip(again(x), model(x), strict=True))


@pytest.mark.parametrize("suffix", [".pt", ".py"])
def test_what_was_added_to_a_layer_is_named(suffix: str, tmp_path: Path) -> None:
    sequence, layer = nn.Sequential(nn.Linear(2, 2)), nn.ReLU()
    sequence.extra, layer.child = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)
    for added, what in ((sequence, "parameter 'extra'"), (layer, r"child 'child' \(Linear\)")):
        with pytest.raises(
            ConversionError, match=rf"its {what} is not created by .*own class, registered .*\.npz"
        ) as caught:
            dpnn_bridge.save(tmp_path / f"m{suffix}", nn.Sequential(OrderedDict(part=added)))
        assert (caught.value.path, caught.value.class_name) == ("part", type(added).__name__)
        assert list(tmp_path.iterdir()) == []


def test_a_mapping_that_lacks_an_argument_is_named_behind_a_placeholder() -> None:
    placeholder = Placeholder(LuaObject("nn.Linear"), "0")
    again = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    _check_names(nn.Sequential(placeholder, nn.Linear(2, 2)), again)
    with pytest.raises(
        ConversionError, match=r"1\.bias of shape none would be loaded from the written file with shape \(2,\)"
    ):
        _check_names(nn.Sequential(placeholder, nn.Linear(2, 2, bias=False)), again)


def test_a_spectral_norm_is_written_without_a_step_of_its_iteration() -> None:
    layer = spectral_norm(nn.Linear(3, 2))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    dpnn_bridge.to_lua(layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("names", [["a.b", "c"], ["a", "a"], ["forward", "a"], ["", "a"], "ab", [1, 2]])
def test_damaged_names_of_children(names: Any, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.pt", nn.Sequential(OrderedDict(a=nn.Tanh(), b=nn.Tanh())))
    content = torch.load(tmp_path / "m.pt")
    content["graph"] = json.dumps(json.loads(content["graph"]) | {"names": {"": names}})
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(T7FormatError, match=r"m\.pt: the object graph is damaged .*convert the \.t7 file again"):
        dpnn_bridge.load(tmp_path / "m.pt")


def test_a_parameter_with_two_names_has_one_value(tmp_path: Path) -> None:
    """A file in which one of them was changed is refused: one of the values would be dropped."""
    layer = nn.Linear(3, 3)
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(layer, nn.Tanh(), layer))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["state_dict"] = {name: t.clone() for name, t in content["state_dict"].items()}
    torch.save(content, tmp_path / "apart.pt")
    loaded = dpnn_bridge.load(tmp_path / "apart.pt")
    assert loaded[0].weight is loaded[2].weight
    content["state_dict"]["2.weight"][0, 0] += 1e-3
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(T7FormatError, match=r"0\.weight and 2\.weight are the same parameter"):
        dpnn_bridge.load(tmp_path / "changed.pt")
    with pytest.raises(T7FormatError, match=r"0\.weight and 2\.weight are the same parameter"):
        dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "changed.pt")


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors"])
def test_a_class_to_ignore_is_numbered_as_the_model_numbers_classes(suffix: str, tmp_path: Path) -> None:
    fields = {"ignoreIndex": 3, "sizeAverage": True}
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaObject("nn.ClassNLLCriterion", LuaTable(fields)))
    criterion = dpnn_bridge.load(tmp_path / "m.t7", index_base=0)
    dpnn_bridge.save(tmp_path / f"again{suffix}", criterion)
    ignored = {dpnn_bridge.load(tmp_path / f"again{suffix}", index_base=i).ignore_index for i in (0, 1)}
    assert ignored == {2, 3}


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    "create",
    [
        lambda: Sequencer(nn.Linear(4, 3)),
        lambda: FireModule.create(3, 2, 3, 3),
        lambda: SpatialGlimpse(3, 2, 2),
        lambda: Add(4, scalar=True),
    ],
    ids=["Sequencer", "FireModule", "SpatialGlimpse", "Add"],
)
def test_modules_of_lua_that_were_created_in_python_are_loaded_again(create: Any, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = create()
    dpnn_bridge.save(tmp_path / f"m{suffix}", module)
    again = dpnn_bridge.load(tmp_path / f"m{suffix}")
    assert type(again) is type(module)
    assert [p.tolist() for p in again.parameters()] == [p.tolist() for p in module.parameters()]


def test_files_of_earlier_versions_load(tmp_path: Path) -> None:
    """They hold constants as tensors, and tied tensors once."""
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    dpnn_bridge.save(tmp_path / "m.safetensors", model)
    data = (tmp_path / "m.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    strings = header["__metadata__"]
    assert json.loads(strings.pop("constants")) == []
    strings["aliases"] = json.dumps({"2.weight": "0.weight", "2.bias": "0.bias"})
    tensors = {name: shared.state_dict()[name[2:]].numpy().tobytes() for name in ("0.weight", "0.bias")}
    at, entries = 0, {}
    for name, content in tensors.items():
        entries[name] = {**header[name], "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps({"__metadata__": strings, **entries}).encode()
    (tmp_path / "old.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
    again = dpnn_bridge.load(tmp_path / "old.safetensors")
    assert torch.equal(again(torch.ones(4)), model(torch.ones(4)))
    assert again[0].weight is again[2].weight


# ---------------------------------------------------------------------- values that no file holds
@pytest.mark.parametrize("wrong", ["torch.Bogus", 3, "torch.LongTensor", "torch.FloatStorage", "nn.Linear", ""])
def test_a_tensor_type_that_there_is_not(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"tensor_type.*expected a (class of floating point tensors|string)"):
        dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(2, 2), tensor_type=wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_no_table_has(tmp_path: Path) -> None:
    with pytest.raises(LuaValueError, match="a key that is nil or nan"):
        dpnn_bridge.write_t7(tmp_path / "d.t7", {float("nan"): 1})
    assert list(tmp_path.iterdir()) == []


CHANGED = [
    ("nn.SpatialConvolution", nn.Conv2d(2, 3, 3), "dilation", (2, 2)),
    ("nn.SpatialConvolution", nn.Conv2d(2, 3, 3), "padding_mode", "circular"),
    ("nn.SpatialMaxPooling", nn.MaxPool2d(2), "dilation", 2),
    ("nn.SpatialMaxPooling", nn.MaxPool2d(2), "return_indices", True),
    ("nn.VolumetricAveragePooling", nn.AvgPool3d(2), "ceil_mode", True),
    ("nn.BatchNormalization", nn.BatchNorm1d(3), "momentum", None),
    ("nn.MSECriterion", nn.MSELoss(), "reduction", "none"),
]


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors"])
@pytest.mark.parametrize(("name", "layer", "setting", "value"), CHANGED)
def test_a_setting_that_the_lua_class_lacks_is_refused(
    name: str, layer: nn.Module, setting: str, value: Any, suffix: str, tmp_path: Path
) -> None:
    model = to_torch(dpnn_bridge.to_lua(nn.Sequential(layer) if "Criterion" not in name else layer))
    changed = model[0] if isinstance(model, nn.Sequential) else model
    assert dpnn_bridge.to_lua(changed).class_name == name
    dpnn_bridge.save(tmp_path / f"before{suffix}", model)
    setattr(changed, setting, value)
    with pytest.raises(ConversionError, match=rf"its {setting} is .* its Lua class has no such setting; create a new"):
        dpnn_bridge.save(tmp_path / f"after{suffix}", model)
    assert not (tmp_path / f"after{suffix}").exists()


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors"])
def test_attributes_without_effect_are_not_refused(suffix: str, tmp_path: Path) -> None:
    model: Any = to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))))
    model[0].sparse, model[1].in_features, model[1].label = True, 7, "logits"
    dpnn_bridge.save(tmp_path / f"m{suffix}", model)


def test_a_setting_of_another_form_is_refused_by_name() -> None:
    model: Any = to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.Conv2d(2, 3, 3))))
    model[0].padding = "same"
    with pytest.raises(ConversionError, match=r"its padding is 'same', expected 2 numbers for the Lua fields pad"):
        dpnn_bridge.to_lua(model)


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors", ".py"])
def test_parameters_on_one_memory_stay_shared(suffix: str, tmp_path: Path) -> None:
    first = nn.Linear(3, 3)
    model = nn.Sequential(first, nn.Tanh(), shared_clone(first, True, False))
    dpnn_bridge.save(tmp_path / f"m{suffix}", model)
    again: Any
    if suffix == ".py":
        again = runpy.run_path(str(tmp_path / "m.py"))["build"]()
    else:
        again = dpnn_bridge.load(tmp_path / f"m{suffix}")
    assert again[0].weight.data_ptr() == again[2].weight.data_ptr()
    assert again[0].bias.data_ptr() == again[2].bias.data_ptr()


def test_other_entries_of_a_checkpoint_keep_their_indices(tmp_path: Path) -> None:
    table = {
        "model": dpnn_bridge.to_lua(nn.Linear(2, 2)),
        "steps": LuaTable.from_list(["a", LuaFunction(b"", None), "b"]),
    }
    dpnn_bridge.write_t7(tmp_path / "c.t7", LuaTable(table))
    assert dpnn_bridge.load_checkpoint(tmp_path / "c.t7").rest == {"steps": {1: "a", 3: "b"}}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".py"])
def test_a_frozen_view_of_a_parameter_stays_frozen(suffix: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = nn.Parameter(model[0].weight.data, requires_grad=False)
    dpnn_bridge.save(tmp_path / f"m{suffix}", model)
    file = tmp_path / f"m{suffix}"
    again = runpy.run_path(str(file))["build"]() if suffix == ".py" else dpnn_bridge.load(file)
    assert [p.requires_grad for p in again.parameters()] == [True, False]


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors", ".py"])
@pytest.mark.parametrize("layer", [Convert("bf", "fb", dtype=torch.double), OneHot(3, dtype=torch.double)], ids=repr)
def test_the_dtype_of_results_is_that_of_the_cast(layer: nn.Module, suffix: str, tmp_path: Path) -> None:
    """The layer has no parameters, and is from a file in another precision."""
    read: Any = to_torch(dpnn_bridge.to_lua(layer))
    assert read.like.dtype == torch.double
    model, file = nn.Sequential(nn.Linear(3, 3), read).float(), tmp_path / f"m{suffix}"
    dpnn_bridge.save(file, model)
    again = runpy.run_path(str(file))["build"]() if suffix == ".py" else dpnn_bridge.load(file)
    assert again[1].like.dtype == torch.float
