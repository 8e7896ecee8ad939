"""A net whose parameters stand side by side in its file comes back so, and vectors of the checkpoint share them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, manifest
from torch.nn.utils import parametrizations

import dpnn_bridge
from dpnn_bridge import read_t7
from dpnn_bridge.base.contiguous import contiguous_strides
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.outputs import container
from dpnn_bridge.training import flatten


def checkpoint() -> LuaTable:
    """``{model, parameters, gradParameters}`` as after ``model:getParameters()``."""
    kind = "torch.DoubleTensor"
    weights = LuaStorage("torch.DoubleStorage", 26, np.arange(26, dtype=np.float64))
    gradients = LuaStorage("torch.DoubleStorage", 26, np.zeros(26))

    def linear(inputs: int, outputs: int, start: int) -> dict[str, LuaTensor]:
        fields = {}
        for prefix, storage in (("", weights), ("grad", gradients)):
            names = ("gradWeight", "gradBias") if prefix else ("weight", "bias")
            fields[names[0]] = LuaTensor(kind, (outputs, inputs), (inputs, 1), start, storage)
            fields[names[1]] = LuaTensor(kind, (outputs,), (1,), start + inputs * outputs, storage)
        return fields

    layers = [fresh("nn.Linear", kind, **linear(3, 4, 0)), fresh("nn.Linear", kind, **linear(4, 2, 16))]
    model = fresh("nn.Sequential", kind, *layers)
    vectors = [LuaTensor(kind, (26,), (1,), 0, s) for s in (weights, gradients)]
    return LuaTable({"parameters": vectors[0], "gradParameters": vectors[1], "model": model})


def moved(table: LuaTable) -> torch.nn.Module:
    model = to_torch(table["model"])
    with torch.no_grad():
        for p in model.parameters():
            p += 100
    return model


def test_parameters_come_back_in_one_storage() -> None:
    net = to_lua(moved(checkpoint()))
    tensors = [layer[name] for layer in net["modules"].as_list() for name in ("weight", "bias")]
    assert len({id(t.storage) for t in tensors}) == 1
    assert [t.offset for t in tensors] == [0, 12, 16, 24]
    assert tensors[0].storage.numpy().tolist() == [100 + i for i in range(26)]


def test_a_vector_has_the_order_of_the_storage() -> None:
    """As after ``getParameters()``, if the layers are put into another order afterwards."""
    table = checkpoint()
    layers = table["model"]["modules"].as_list()
    model = fresh("nn.Sequential", "torch.DoubleTensor", *layers[::-1])
    assert flatten(to_torch(model)).tolist() == list(range(26))
    cut = fresh("nn.Sequential", "torch.DoubleTensor", layers[1])  # the storage contains parameters of other layers
    assert flatten(to_torch(cut)).tolist() == list(range(16, 26))
    net = to_torch(model)
    both = flatten(torch.nn.Sequential(net, copy.deepcopy(net))).tolist()
    assert both == [*range(26), *range(16, 26), *range(16)]  # a copy has tensors of its own


def test_a_layer_that_was_resized_leaves_the_storage(tmp_path: Path) -> None:
    net: Any = to_torch(checkpoint()["model"])
    net[1].weight, net[1].bias = (torch.nn.Parameter(torch.ones(*s, dtype=torch.float64)) for s in ((3, 4), (3,)))
    net[1].out_features = 3
    dpnn_bridge.save(tmp_path / "m.t7", net)
    assert flatten(dpnn_bridge.load(tmp_path / "m.t7")).tolist() == [*range(16), *[1.0] * 15]


def test_a_vector_of_resized_layers_has_the_order_of_the_written_file() -> None:
    model = to_torch(fresh("nn.Sequential", "torch.DoubleTensor", *checkpoint()["model"]["modules"].as_list()[::-1]))
    assert isinstance(model[1], torch.nn.Linear)
    model[1].weight = torch.nn.Parameter(torch.ones(4, 5, dtype=torch.double))
    model[1].in_features = 5
    fields = [layer[name] for layer in to_lua(model)["modules"].as_list() for name in ("weight", "bias")]
    assert len({id(t.storage) for t in fields}) == 4  # in real Torch7, getParameters() has their order
    assert flatten(model).tolist() == np.concatenate([t.numpy().reshape(-1) for t in fields]).tolist()


def test_buffers_fill_a_storage_too() -> None:
    kind, storage = "torch.DoubleTensor", LuaStorage("torch.DoubleStorage", 8, np.arange(8, dtype=np.float64))
    order = ("running_mean", "bias", "running_var", "weight")
    fields = {name: LuaTensor(kind, (2,), (1,), 2 * i, storage) for i, name in enumerate(order)}
    model = fresh("nn.BatchNormalization", kind, **fields, eps=1e-5, momentum=0.1, affine=True)
    assert flatten(to_torch(model)).tolist() == [2, 3, 6, 7]
    assert flatten(to_torch(to_lua(to_torch(model)))).tolist() == [2, 3, 6, 7]


def test_tensors_on_one_place_that_are_set_apart_are_written_apart() -> None:
    kind, storage = "torch.DoubleTensor", LuaStorage("torch.DoubleStorage", 4, np.arange(4, dtype=np.float64))
    start = {"weight": 0, "bias": 0, "running_mean": 2, "running_var": 2}
    fields = {name: LuaTensor(kind, (2,), (1,), offset, storage) for name, offset in start.items()}
    norm = to_torch(fresh("nn.BatchNormalization", kind, **fields, eps=1e-5, momentum=0.1, affine=True, train=True))
    first, second = torch.tensor([5.0, 6.0]).double(), torch.tensor([7.0, 8.0]).double()
    norm.bias, norm.running_var = torch.nn.Parameter(first), second
    written = to_lua(norm)
    assert written["bias"].numpy().tolist() == first.tolist()
    assert written["running_var"].numpy().tolist() == second.tolist()


def test_a_shallow_copy_with_another_weight_is_written_apart() -> None:
    first, last = to_torch(checkpoint()["model"])
    other = copy.copy(first)
    other._parameters = {**first._parameters, "weight": torch.nn.Parameter(first.weight.detach() + 100)}
    layers = to_lua(torch.nn.Sequential(first, last, other))["modules"].as_list()
    assert layers[2]["weight"].numpy().tolist() == (layers[0]["weight"].numpy() + 100).tolist()


def test_a_copy_beside_the_original_has_its_own_weights(tmp_path: Path) -> None:
    net = to_torch(checkpoint()["model"])
    dpnn_bridge.save(tmp_path / "two.t7", torch.nn.Sequential(net, copy.deepcopy(net)))
    loaded = dpnn_bridge.load(tmp_path / "two.t7")
    assert flatten(loaded).tolist() == 2 * list(range(26))
    parametrizations.weight_norm(net[0])  # type: ignore[index, arg-type]
    written = to_lua(torch.nn.Sequential(net, copy.deepcopy(net)))["modules"].as_list()
    storages = [{id(layer["weight"].storage) for layer in part["modules"].as_list()} for part in written]
    assert len(storages[0]) == 1
    assert not storages[0] & storages[1]


def test_vector_of_the_checkpoint_shows_the_new_weights(tmp_path: Path) -> None:
    table = checkpoint()
    table["model"] = to_lua(moved(table))
    dpnn_bridge.write_t7(tmp_path / "c.t7", table)
    read = dpnn_bridge.read_t7(tmp_path / "c.t7")
    assert read["parameters"].numpy().tolist() == [100 + i for i in range(26)]
    layers = read["model"]["modules"].as_list()
    assert read["parameters"].storage is layers[0]["weight"].storage is layers[1]["bias"].storage
    assert read["gradParameters"].storage is layers[0]["gradWeight"].storage


def test_vector_follows_a_cast(tmp_path: Path) -> None:
    table = checkpoint()
    table["model"] = to_lua(moved(table).float())
    dpnn_bridge.write_t7(tmp_path / "c.t7", table)
    read = dpnn_bridge.read_t7(tmp_path / "c.t7")
    assert read["parameters"].class_name == "torch.FloatTensor"
    assert read["parameters"].storage is read["model"]["modules"][1]["weight"].storage


def test_two_models_of_one_file_stay_apart(tmp_path: Path) -> None:
    table = checkpoint()
    table["a"], table["b"] = to_lua(moved(table)), to_lua(to_torch(table["model"]))
    del table["model"]
    dpnn_bridge.write_t7(tmp_path / "c.t7", table)
    read = dpnn_bridge.read_t7(tmp_path / "c.t7")
    assert [read[k]["modules"][1]["weight"].numpy()[0, 0] for k in "ab"] == [100, 0]


def test_a_part_of_a_flat_storage_gets_its_own() -> None:
    half = to_lua(to_torch(checkpoint()["model"]["modules"][2]))
    assert half["weight"].storage.size == 8
    assert half["weight"].numpy().tolist() == [[16, 17, 18, 19], [20, 21, 22, 23]]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_converted_files_remember_the_storage(suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    dpnn_bridge.save(tmp_path / f"m{suffix}", moved(checkpoint()))
    net = to_lua(dpnn_bridge.load(tmp_path / f"m{suffix}"))
    for names in (("weight", "bias"), ("gradWeight", "gradBias")):
        tensors = [layer[name] for layer in net["modules"].as_list() for name in names]
        assert len({id(t.storage) for t in tensors}) == 1
        assert [t.offset for t in tensors] == [0, 12, 16, 24]


@pytest.mark.parametrize("flat", [3, {"0": 1}, {"9": {"weight": [0, 26, 0, 12]}}, {"0": {"weight": [0, -1, 0, "x"]}}])
def test_a_wrong_memory_of_the_storage_is_ignored(flat: Any) -> None:
    content = container.pack(moved(checkpoint()))
    graph = json.loads(content["graph"])
    assert graph["flat"]["0"]["weight"] == [0, 26, 0, 12]
    content["graph"] = json.dumps({**graph, "flat": flat})
    net = to_lua(container.unpack(content, Options())[0])
    assert net["modules"][1]["weight"].storage.size == 12


class Times(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.factor


def sharing(gradients: bool) -> torch.nn.Module:
    """``l`` and ``l:clone("weight", "bias")``, which may share gradients as well."""
    first = to_lua(torch.nn.Linear(2, 2).double())
    names = ("weight", "bias", "gradWeight", "gradBias")[: 4 if gradients else 2]
    flat = {name: LuaStorage("torch.DoubleStorage", 6, np.arange(6.0)) for name in ("", "grad")}
    for name in ("weight", "bias", "gradWeight", "gradBias"):
        own = first[name]
        start = 4 if name.lower().endswith("bias") else 0
        first[name] = LuaTensor(own.class_name, own.shape, own.stride, start, flat["grad" if "grad" in name else ""])
    second = to_lua(torch.nn.Linear(2, 2).double())
    for name in names:
        second[name] = first[name]
    return to_torch(fresh("nn.Sequential", "torch.DoubleTensor", first, second))


@pytest.mark.parametrize("gradients", [False, True])
def test_shared_weights_that_are_computed_in_different_ways_are_written_apart(gradients: bool) -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    net = sharing(gradients)
    for layer, factor in zip(net, (1.0, 2.0), strict=True):  # type: ignore[call-overload]
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", Times(factor))
    torch.testing.assert_close(to_torch(to_lua(net))(x), net(x), rtol=1e-12, atol=0)
    net = sharing(gradients)
    for layer, mask in zip(net, ([[1, 0], [1, 1]], [[0, 1], [1, 1]]), strict=True):  # type: ignore[call-overload]
        torch.nn.utils.prune.custom_from_mask(layer, "weight", torch.tensor(mask))
    torch.testing.assert_close(to_torch(to_lua(net))(x), net(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_layers_that_share_a_bias_may_lose_it(which: int) -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    net = sharing(True)
    net[which].bias = None  # type: ignore[index]
    torch.testing.assert_close(to_torch(to_lua(net))(x), net(x), rtol=1e-12, atol=0)


def flattened(model: LuaObject, sites: list[tuple[LuaObject, str]], spare: int = 0) -> LuaTable:
    """``{model, parameters}`` whose fields were moved into one storage, which has ``spare`` more elements."""
    values = [obj[name] for obj, name in sites]
    elements = np.concatenate([*(v.numpy().reshape(-1) for v in values), np.ones(spare)])
    storage = LuaStorage("torch.DoubleStorage", len(elements), elements)
    start = 0
    for (obj, name), value in zip(sites, values, strict=True):
        obj.fields[name] = LuaTensor(value.class_name, value.shape, contiguous_strides(value.shape), start, storage)
        start += value.size
    return LuaTable({"model": model, "parameters": LuaTensor("torch.DoubleTensor", (len(elements),), (1,), 0, storage)})


def weight_norm(spare: int, step: int = 1) -> LuaTable:
    """A linear layer and an ``nn.WeightNorm``, whose weight of 12 elements has a place in dpnn's vector only.

    Args:
        spare: number of elements after those of the parameters.
        step: -1 if the parameters are stored in reverse order.
    """
    norm = read_t7(FIXTURES / "dpnn/head/hidden/hidden_flat.t7")["cases"][1]["module"]
    linear = checkpoint()["model"]["modules"][2]
    model = fresh("nn.Sequential", "torch.DoubleTensor", linear, norm)
    sites = [(linear, "weight"), (linear, "bias"), (norm, "v"), (norm, "g"), (norm, "bias")]
    result = flattened(model, sites[::step], spare)
    norm["modules"][1].fields["bias"] = norm["bias"]
    return result


@pytest.mark.parametrize("spare", [0, 12])
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("through_pt", [False, True])
def test_vector_with_a_weight_norm_is_one_storage_again(
    spare: int, step: int, through_pt: bool, tmp_path: Path
) -> None:
    table = weight_norm(spare, step)
    model = moved(table)
    if through_pt:
        dpnn_bridge.save(tmp_path / "m.pt", model)
        model = dpnn_bridge.load(tmp_path / "m.pt")
    net = to_lua(model)
    linear, norm = net["modules"].as_list()
    tensors = [linear["weight"], linear["bias"], norm["v"], norm["g"], norm["bias"]]
    assert len({id(t.storage) for t in tensors}) == 1
    vector = tensors[0].storage.numpy()
    assert vector.tolist() == flatten(model, package="dpnn" if spare else "nn").tolist()


def test_a_storage_with_other_elements_is_not_restored() -> None:
    net = to_lua(moved(weight_norm(11)))
    assert net["modules"][1]["weight"].storage.size == 8


def test_vector_with_a_temporal_convolution_is_one_storage_again() -> None:
    entry = next(e for e in manifest(**{"class": "nn.TemporalConvolution"}) if e["dtype"] == "double")
    layer = read_t7(FIXTURES / entry["file"])["module"]
    net = to_lua(moved(flattened(layer, [(layer, "weight"), (layer, "bias")])))
    assert net["weight"].storage is net["bias"].storage
    assert net["weight"].numpy().tolist() == (layer["weight"].numpy() + 100).tolist()


def stored_in(storage: LuaStorage, offsets: dict[str, int], *shape: int) -> dict[str, LuaTensor]:
    return {
        n: LuaTensor("torch.DoubleTensor", shape, contiguous_strides(shape), o, storage) for n, o in offsets.items()
    }


def normalization(offsets: dict[str, int], size: int) -> Any:
    storage = LuaStorage("torch.DoubleStorage", size, np.arange(float(size)))
    options = {"eps": 1e-5, "momentum": 0.1, "affine": True, "train": True}
    return to_torch(fresh("nn.BatchNormalization", "torch.DoubleTensor", **stored_in(storage, offsets, 2), **options))


def test_a_storage_whose_first_elements_are_free_is_not_restored() -> None:
    """The sizes fit, with the elements that a weight norm computes, but the tensors lie elsewhere."""
    table = weight_norm(12)
    linear, norm = table["model"]["modules"].as_list()
    storage = table["parameters"].storage
    shifted = LuaStorage("torch.DoubleStorage", storage.size, np.roll(storage.numpy(), 12))
    for obj, name in [(linear, "weight"), (linear, "bias"), (norm, "v"), (norm, "g"), (norm, "bias")]:
        t = obj[name]
        obj.fields[name] = LuaTensor(t.class_name, t.shape, t.stride, t.offset + 12, shifted)
    norm["modules"][1].fields["bias"] = norm["bias"]
    expected = [obj[name].numpy().copy() for obj, name in ((linear, "weight"), (norm, "v"), (norm, "g"))]
    linear, norm = to_lua(to_torch(table["model"]))["modules"].as_list()
    for value, right in zip((linear["weight"], norm["v"], norm["g"]), expected, strict=True):
        assert np.array_equal(value.numpy(), right)


def test_a_storage_of_two_types_is_not_restored() -> None:
    model = moved(checkpoint())
    model[0].float()  # type: ignore[index]
    layers = to_lua(model)["modules"].as_list()
    for layer, kind in zip(layers, ("Float", "Double"), strict=True):
        for name in ("weight", "bias"):
            assert layer[name].class_name == f"torch.{kind}Tensor"
            assert layer[name].storage.class_name == f"torch.{kind}Storage"


def test_a_vector_of_two_types_has_the_order_of_the_layers() -> None:
    model: Any = to_torch(
        fresh("nn.Sequential", "torch.DoubleTensor", *checkpoint()["model"]["modules"].as_list()[::-1])
    )
    model[0].float()
    assert flatten(model).tolist() == [*range(16, 26), *range(16)]


def test_two_fields_at_one_place_are_not_taken_for_each_other() -> None:
    norm = normalization({"weight": 0, "bias": 0, "running_mean": 2, "running_var": 4}, 6)
    torch.nn.utils.parametrize.register_parametrization(norm, "weight", Times(2.0))
    written = to_lua(norm)
    assert written["weight"].numpy().tolist() == norm.weight.tolist()
    assert written["bias"].numpy().tolist() == norm.bias.tolist() == [0, 1]


def test_a_shallow_copy_with_another_buffer_is_written_apart() -> None:
    norm = normalization({"weight": 0, "bias": 2, "running_mean": 4, "running_var": 6}, 8)
    other = copy.copy(norm)
    other._buffers = {**norm._buffers, "running_mean": norm.running_mean + 100}
    layers = to_lua(torch.nn.Sequential(norm, other))["modules"].as_list()
    assert [layer["running_mean"].numpy().tolist() for layer in layers] == [[4, 5], [104, 105]]
