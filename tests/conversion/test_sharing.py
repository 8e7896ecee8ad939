"""What shares memory in Torch7 stays one thing here: one module, one parameter, one gradient."""

from __future__ import annotations

import copy
import pickle
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpnn_bridge
from dpnn_bridge import training
from dpnn_bridge.compare.memory import relocate
from dpnn_bridge.conversion import sharing, to_lua, to_torch
from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.ties import Site
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor


def storage(n: int) -> LuaStorage:
    return LuaStorage("torch.DoubleStorage", n, np.random.default_rng(0).normal(size=n))


def view(s: LuaStorage, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> LuaTensor:
    return LuaTensor("torch.DoubleTensor", shape, stride, offset, s)


def linear(weight: LuaTensor, bias: LuaTensor | None = None) -> LuaObject:
    fields = {"weight": weight, "_type": "torch.DoubleTensor"} | ({"bias": bias} if bias else {})
    return LuaObject("nn.Linear", LuaTable(fields))


def sequential(*modules: LuaObject) -> LuaObject:
    return LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list(modules)}))


@pytest.fixture
def autoencoder() -> torch.nn.Module:
    """4 -> 3 -> 4 whose decoder weight is the encoder's transposed."""
    s = storage(12)
    return to_torch(sequential(linear(view(s, (3, 4), (4, 1))), linear(view(s, (4, 3), (1, 4)))))


def test_one_object_is_one_module() -> None:
    layer = linear(view(storage(9), (3, 3), (3, 1)))
    model = to_torch(sequential(layer, layer))
    assert model[0] is model[1]


def test_same_region_is_one_parameter() -> None:
    s = storage(9)
    model = to_torch(sequential(linear(view(s, (3, 3), (3, 1))), linear(view(s, (3, 3), (3, 1)))))
    assert model[0] is not model[1]
    assert model[0].weight is model[1].weight


@pytest.fixture
def incompatible_device() -> Iterator[None]:
    """Every cast makes new parameters, as a move to a device of another kind of tensor does (XLA, PrivateUse1)."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.usefixtures("incompatible_device")
def test_one_parameter_stays_one_on_any_device() -> None:
    s = storage(12)
    square = view(s, (3, 3), (3, 1))
    model = to_torch(sequential(linear(square), sequential(linear(square), linear(view(s, (3, 3), (1, 3))))))
    whole = torch.nn.Sequential(model, torch.nn.Linear(3, 3))
    before = model[0].weight
    whole.float()
    assert model[0].weight is not before
    assert model[0].weight is model[1][0].weight
    assert model[1][1].weight.data_ptr() == model[0].weight.data_ptr()
    model[0].weight = torch.nn.Parameter(torch.ones(3, 3))
    whole.double()
    assert model[0].weight.sum() == 9
    assert model[0].weight is not model[1][0].weight


@pytest.mark.usefixtures("incompatible_device")
def test_copies_and_pickles_keep_a_shared_parameter_one() -> None:
    square = view(storage(9), (3, 3), (3, 1))
    model = to_torch(sequential(linear(square), linear(square)))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.float()
        assert other[0].weight is other[1].weight
        assert type(other).__name__ == "Sequential"


def test_neighbours_in_a_flat_storage_become_compact() -> None:
    s = storage(100)
    model = to_torch(linear(view(s, (3, 3), (3, 1), 10), view(s, (3,), (1,), 19)))
    weight = model.get_parameter("weight")
    assert weight.untyped_storage().nbytes() == 72
    assert len(list(model.parameters())) == 2
    np.testing.assert_array_equal(weight.detach(), s.numpy()[10:19].reshape(3, 3))


def check_tied(model: torch.nn.Module) -> None:
    assert len(list(model.parameters())) == 1
    (weight,) = model.parameters()
    x = torch.randn(2, 4, dtype=weight.dtype)
    torch.testing.assert_close(model(x), x @ weight.T @ weight)
    with torch.no_grad():
        weight.mul_(2)
    torch.testing.assert_close(model(x), x @ weight.T @ weight)


def test_transposed_weight_is_tied(autoencoder: torch.nn.Module) -> None:
    check_tied(autoencoder)


def test_tied_weight_gets_one_gradient(autoencoder: torch.nn.Module) -> None:
    x = torch.randn(2, 4, dtype=torch.float64)
    autoencoder(x).square().sum().backward()
    weight = next(autoencoder.parameters()).detach().clone().requires_grad_()
    (x @ weight.T @ weight).square().sum().backward()
    (first, second), (grad, transposed) = training.parameters(autoencoder)
    torch.testing.assert_close(grad, weight.grad)
    torch.testing.assert_close(transposed, weight.grad.T)
    assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.float(),
        lambda m: m.bfloat16().double(),
        lambda m: m.to("cpu"),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: to_torch(to_lua(m)),
        lambda m: relocate(m, 3),
    ],
    ids=["float", "bfloat16_double", "to", "deepcopy", "pickle", "to_lua", "relocated"],
)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_ties_survive(autoencoder: torch.nn.Module, change, used: bool) -> None:
    if used:
        autoencoder(torch.randn(2, 4, dtype=torch.float64)).sum().backward()
    check_tied(change(autoencoder))


@pytest.mark.parametrize("suffix", [".pt", ".t7"])
def test_ties_survive_files(autoencoder: torch.nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    (dpnn_bridge.save if suffix == ".pt" else dpnn_bridge.write_t7)(path, autoencoder)
    check_tied(dpnn_bridge.load(path))


def test_a_tied_parameter_may_be_a_part_of_one_vector(autoencoder: torch.nn.Module, tmp_path: Path) -> None:
    """As ``getParameters`` makes it, and as a ``.pt`` file of such a model gives it back."""
    dpnn_bridge.save(tmp_path / "net.py", autoencoder)
    program = runpy.run_path(str(tmp_path / "net.py"))["build"]()
    for model in (autoencoder, program):
        _, weight = training.get_parameters(torch.nn.Sequential(torch.nn.Linear(2, 2).double(), model))
        assert len(weight) == 18
        assert next(model.parameters()).storage_offset() == 6
        check_tied(model)
    dpnn_bridge.save(tmp_path / "net.pt", autoencoder)
    check_tied(dpnn_bridge.load(tmp_path / "net.pt"))


def test_ties_survive_state_dict(autoencoder: torch.nn.Module) -> None:
    state = {k: v * 3 for k, v in autoencoder.state_dict().items()}
    autoencoder.load_state_dict(state)
    check_tied(autoencoder)


def test_ties_are_compiled() -> None:
    s = storage(12)
    model = to_torch(sequential(linear(view(s, (3, 4), (4, 1))), linear(view(s, (4, 3), (1, 4)))))
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))


def test_partial_overlap_is_one_flat_parameter() -> None:
    """Two 2 x 3 weights, the second starting one row into the first."""
    s = storage(9)
    model = to_torch(sequential(linear(view(s, (2, 3), (3, 1))), linear(view(s, (3, 2), (2, 1), 3))))
    (flat,) = model.parameters()
    assert flat.shape == (9,)
    x = torch.randn(1, 3, dtype=torch.float64)
    expected = x @ flat[:6].view(2, 3).T @ flat[3:].view(3, 2).T
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".py", ".safetensors"])
def test_weights_and_biases_overlap_partially(suffix: str, tmp_path: Path) -> None:
    """Each of the two flat parameters of one layer keeps its elements."""
    s, biases = storage(6), storage(3)
    model = to_torch(
        sequential(
            linear(view(s, (2, 2), (2, 1)), view(biases, (2,), (1,))),
            linear(view(s, (2, 2), (2, 1), 2), view(biases, (2,), (1,), 1)),
        )
    )
    assert sorted(p.numel() for p in model.parameters()) == [3, 6]
    x = torch.randn(3, 2, dtype=torch.float64)
    w, b = torch.from_numpy(s.copy()), torch.from_numpy(biases.copy())
    expected = (x @ w[:4].view(2, 2).T + b[:2]) @ w[2:].view(2, 2).T + b[1:]
    torch.testing.assert_close(model(x), expected)
    dpnn_bridge.save(tmp_path / f"model{suffix}", model)
    if suffix != ".py":  # saving it has compared the module that it builds
        torch.testing.assert_close(dpnn_bridge.load(tmp_path / f"model{suffix}")(x), expected)


def test_interleaved_views_without_common_elements_are_independent() -> None:
    s = storage(12)
    model = to_torch(sequential(linear(view(s, (3, 2), (4, 1))), linear(view(s, (3, 2), (4, 1), 2))))
    assert len(list(model.parameters())) == 2


def test_an_empty_parameter_is_not_tied_to_its_neighbour() -> None:
    s, shared = storage(12), sharing.Sharing()
    layers = [torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(4, 3, bias=False)]
    for layer, tensor in zip(layers, (view(s, (3, 4), (4, 1)), view(s, (0, 4), (4, 1), 5)), strict=True):
        shared.assign(Site(layer, "weight", Field("weight"), layer, "weight"), tensor, None, lambda t: t, None)
    shared.tie(layers)
    assert [tuple(layer._parameters["weight"].shape) for layer in layers] == [(3, 4), (0, 4)]
    assert sharing.extent_of(view(s, (0, 4), (4, 1), 5)) == (5, 5)


def test_sharing_is_written_to_t7(autoencoder: torch.nn.Module, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", autoencoder)
    modules = dpnn_bridge.read_t7(tmp_path / "m.t7")["modules"]
    first, second = modules[1]["weight"], modules[2]["weight"]
    assert first.storage is second.storage
    assert (first.stride, second.stride) == ((4, 1), (1, 4))
    assert modules[1]["gradWeight"].storage is modules[2]["gradWeight"].storage


def test_a_tied_weight_is_right_whenever_it_is_read(autoencoder: torch.nn.Module) -> None:
    autoencoder.float()
    encoder, decoder = autoencoder[0], autoencoder[1]
    assert decoder.weight.dtype == torch.float32
    with torch.no_grad():
        encoder.weight.mul_(2)
    assert torch.equal(decoder.weight, encoder.weight.T)
    decoder.weight.square().sum().backward()
    torch.testing.assert_close(encoder.weight.grad, 2 * encoder.weight)


def test_a_tied_layer_alone_takes_its_source_along(autoencoder: torch.nn.Module) -> None:
    expected = autoencoder[1].weight.float()
    for decoder in (copy.deepcopy(autoencoder[1]), pickle.loads(pickle.dumps(autoencoder[1])), autoencoder[1]):
        decoder.float()
        assert torch.equal(decoder.weight, expected)
        assert decoder(torch.ones(1, 3)).dtype == torch.float32


def test_a_tied_layer_is_still_the_class_that_people_know(autoencoder: torch.nn.Module) -> None:
    assert repr(autoencoder[1]) == "Linear(in_features=3, out_features=4, bias=False)"
    assert isinstance(autoencoder[1], torch.nn.Linear)


def test_the_source_may_come_after_what_is_tied_to_it() -> None:
    s = storage(12)
    model = to_torch(sequential(linear(view(s, (3, 4), (1, 3))), linear(view(s, (4, 3), (3, 1)))))
    (weight,) = model.parameters()
    assert weight is model[1].weight
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), x @ weight @ weight.T)


def normalizations() -> torch.nn.Module:
    """Two batch normalizations that share everything, as ``sharedClone`` makes them."""
    tensors = {}
    for i, name in enumerate(("weight", "bias", "running_mean", "running_var")):
        tensors[name] = LuaStorage("torch.DoubleStorage", 3, np.random.default_rng(i).uniform(1, 2, size=3))
    settings = {"eps": 1e-5, "momentum": 0.1, "affine": True, "nDim": 2, "_type": "torch.DoubleTensor"}

    def module() -> LuaObject:
        views = {name: view(s, (3,), (1,)) for name, s in tensors.items()}
        return LuaObject("nn.BatchNormalization", LuaTable({**settings, **views}))

    return to_torch(sequential(module(), module()))


@pytest.mark.parametrize(
    "change", [lambda m: m.float(), lambda m: m[0].float(), copy.deepcopy], ids=["model", "clone", "copy"]
)
def test_clones_keep_one_set_of_running_statistics(change) -> None:
    model = normalizations()
    changed = change(model)
    model = changed if len(list(changed.children())) else model
    first, second = model[0], model[1]
    assert first.running_mean is second.running_mean
    model.train()(torch.randn(4, 3, dtype=first.running_mean.dtype))
    assert torch.equal(first.running_mean, second.running_mean)


def test_gradients_become_grad_on_request() -> None:
    obj = linear(view(storage(6), (2, 3), (3, 1)))
    obj["gradWeight"] = view(storage(12), (2, 3), (3, 1), 6)
    assert to_torch(obj).weight.grad is None
    assert torch.equal(to_torch(obj, gradients=True).weight.grad, obj["gradWeight"].torch())


def test_only_the_part_that_is_viewed_is_read() -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("the whole storage was read")

    s = LuaStorage("torch.DoubleStorage", 10**9, refuse, lambda start, stop: np.arange(start, stop, dtype=float))
    model = to_torch(sequential(linear(view(s, (2, 3), (3, 1), 100)), linear(view(s, (3, 2), (1, 3), 500))))
    assert model[0].weight.flatten().tolist() == list(range(100, 106))
    assert torch.equal(model[1].weight, torch.arange(500.0, 506).view(2, 3).T)


def test_a_gradient_of_a_shared_weight_is_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was compared with all gradients before it."""
    compared = 0

    class Region(tuple[Any, ...]):
        __hash__ = tuple.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

    region_of = sharing.region_of
    monkeypatch.setattr(sharing, "region_of", lambda tensor: Region(region_of(tensor)))
    counts = []
    for layers in (20, 40):
        compared, weight = 0, view(storage(4), (2, 2), (2, 1))
        tied = [linear(weight) for _ in range(layers)]
        for layer in tied:
            layer["gradWeight"] = view(storage(4), (2, 2), (2, 1))
        to_torch(sequential(*tied))
        counts.append(compared)
    assert counts[1] < 2.5 * counts[0]


def test_a_module_that_was_not_finished_is_compared_with_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them visited the parameters of all modules: 2.5 s for 800."""
    entries: list[int] = []
    for count in (5, 20):
        s, kept = storage(9 * count), sharing.Sharing()
        layers = [torch.nn.Linear(3, 3) for _ in range(count)]
        for i, layer in enumerate(layers):
            weight = view(s, (3, 3), (3, 1), 9 * i)
            kept.assign(Site(layer, "weight", Field("weight"), layer, "weight"), weight, None, torch.Tensor.clone, None)
        with monkeypatch.context() as counted:
            counted.setattr(sharing._Entry, "__setattr__", lambda *_, count=count: entries.append(count))
            kept.discard(layers[0])
    assert entries == [5, 20]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".t7"])
def test_a_view_that_repeats_elements_is_stored_once(suffix: str, tmp_path: Path) -> None:
    """A file of 8 kB became one of 56 MB."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="optional extra is not installed")
    values = LuaTensor.from_numpy(np.arange(6.0)).storage
    views = {
        "expanded": LuaTensor("torch.DoubleTensor", (1000, 2, 1000), (0, 3, 0), 1, values),
        "windows": LuaTensor("torch.DoubleTensor", (3, 3, 2), (1, 0, 1), 2, values),
        "transposed": LuaTensor("torch.DoubleTensor", (2, 3), (1, 2), 0, values),
    }
    dpnn_bridge.write_t7(tmp_path / "a.t7", LuaObject("nn.Tanh", LuaTable(views)))
    dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / f"out{suffix}")
    assert (tmp_path / f"out{suffix}").stat().st_size < 10_000
    dpnn_bridge.write_t7(tmp_path / "again.t7", dpnn_bridge.load(tmp_path / f"out{suffix}"))
    again = dpnn_bridge.read_t7(tmp_path / "again.t7")
    assert all(np.array_equal(again[name].numpy(), view.numpy()) for name, view in views.items())


@pytest.mark.parametrize(("name", "field"), [("nn.CMul", "weight"), ("nn.CAdd", "bias")])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".t7"])
def test_a_row_of_another_weight_multiplies_or_is_added(name: str, field: str, suffix: str, tmp_path: Path) -> None:
    matrix = storage(6)
    row = LuaObject(name, LuaTable({field: view(matrix, (3,), (1,), 3), "train": False}))
    model = to_torch(sequential(row, linear(view(matrix, (2, 3), (3, 1)))))
    dpnn_bridge.save(tmp_path / f"a{suffix}", model)
    x = torch.randn(4, 3, dtype=torch.float64)
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3)))
    expected = (x * weight[1] if field == "weight" else x + weight[1]) @ weight.t()
    for loaded in (model, dpnn_bridge.load(tmp_path / f"a{suffix}")):
        torch.testing.assert_close(loaded(x), expected)
        assert sum(p.numel() for p in loaded.parameters()) == 6
