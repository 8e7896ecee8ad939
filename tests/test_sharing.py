"""What shares memory in Torch7 stays one thing here: one module, one parameter, one gradient."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import dpnn_bridge
from dpnn_bridge import training
from dpnn_bridge.conversion import to_lua, to_torch
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
    ],
    ids=["float", "bfloat16_double", "to", "deepcopy", "pickle", "to_lua"],
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


def test_interleaved_views_without_common_elements_are_independent() -> None:
    s = storage(12)
    model = to_torch(sequential(linear(view(s, (3, 2), (4, 1))), linear(view(s, (3, 2), (4, 1), 2))))
    assert len(list(model.parameters())) == 2


def test_sharing_is_written_to_t7(autoencoder: torch.nn.Module, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", autoencoder)
    modules = dpnn_bridge.read_t7(tmp_path / "m.t7")["modules"]
    first, second = modules[1]["weight"], modules[2]["weight"]
    assert first.storage is second.storage
    assert (first.stride, second.stride) == ((4, 1), (1, 4))
    assert modules[1]["gradWeight"].storage is modules[2]["gradWeight"].storage
