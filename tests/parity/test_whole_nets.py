"""Whole nets stay what they are while they are trained, copied and stored, whatever form the checkpoint has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import nn

import dpnn_bridge
from dpnn_bridge import optim, parity, read_t7, to_lua, to_torch, training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import noise
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.parity import gradients

NETS = [e for e in manifest(kind="module", set="nn") if "__net_" in e["name"]]
FLATTENED = [e for e in NETS if "getparameters" in e["name"]]
SAME = parity.Tolerance(1e-12, 1e-6)


def differences(name: str, actual: Any, expected: Any, tolerance: parity.Tolerance | None = None) -> list[str]:
    return [f"{d.name}: {d.message}" for d in parity.compare(name, actual, expected, tolerance) if not d.ok]


def gradient(net: nn.Module, fixture: LuaTable) -> torch.Tensor:
    """The flat gradient of a net after the fixture's forward and backward."""
    gradients.zero_grad(net)
    with noise.replayed(net, fixture.get("after")):
        output = net(nested.require_grad(to_value(fixture["input"])))
    nested.backward(output, to_value(fixture["gradOutput"]))
    return training.flatten(net, gradients=True)


def flat(fixture: LuaTable, field: str) -> torch.Tensor:
    """Torch7's vector of the parameters or gradients of a net whose tensors are all its own."""
    return torch.cat([v.torch().reshape(-1) for v in fixture[field].as_list()])


def storages(fixture: LuaTable) -> set[int]:
    return {id(v.storage) for v in fixture["params"].as_list()}


@pytest.mark.parametrize("entry", NETS, ids=fixture_id)
def test_copies_compute_the_same_gradient(entry: dict[str, Any], tmp_path: Path) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    if "gradOutput" not in fixture:
        assert "nogradients" in entry["name"]
        return
    expected = gradient(to_torch(fixture["module"]), fixture)
    net = to_torch(fixture["module"])
    dpnn_bridge.save(tmp_path / "net.pt", net)
    dpnn_bridge.write_t7(tmp_path / "net.t7", net)
    forms = {
        "deepcopy": copy.deepcopy(net),
        ".pt": dpnn_bridge.load(tmp_path / "net.pt"),
        ".t7": dpnn_bridge.load(tmp_path / "net.t7"),
    }
    for name, form in forms.items():
        assert differences(name, gradient(form, fixture), expected, SAME) == []


@pytest.mark.parametrize("entry", NETS, ids=fixture_id)
def test_a_step_keeps_tied_parameters_tied(entry: dict[str, Any], tmp_path: Path) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    net = to_torch(fixture["module"])
    before = training.flatten(net)
    if not before.numel() or "gradOutput" not in fixture:
        return
    step = gradient(net, fixture)
    optim.SGD(net.parameters(), lr=0.5).step()
    assert differences("stepped", training.flatten(net), before - 0.5 * step, SAME) == []
    dpnn_bridge.write_t7(tmp_path / "net.t7", net)
    loaded = dpnn_bridge.load(tmp_path / "net.t7")
    assert differences("written", training.flatten(loaded), training.flatten(net), SAME) == []


@pytest.mark.parametrize("entry", FLATTENED, ids=fixture_id)
def test_the_flat_storage_of_a_checkpoint_is_the_flat_vector(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    first = next(parameter_tensors(fixture["module"]))
    storage = first.storage.torch()
    net = to_torch(fixture["module"])
    assert torch.equal(training.flatten(net), storage)
    dpnn_bridge.load_flat(net, storage + 1)
    assert torch.equal(training.flatten(net), storage + 1)


def parameter_tensors(obj: Any) -> Any:
    for name in ("weight", "bias"):
        if isinstance(obj.get(name), LuaTensor):
            yield obj[name]
    for child in obj["modules"].as_list() if "modules" in obj else ():
        yield from parameter_tensors(child)


@pytest.mark.parametrize("entry", FLATTENED, ids=fixture_id)
def test_neighbours_in_one_storage_become_independent(entry: dict[str, Any]) -> None:
    net = to_torch(read_t7(FIXTURES / entry["file"])["module"])
    for p in net.parameters():
        assert p.untyped_storage().nbytes() == p.numel() * p.element_size()
    parameter = next(net.parameters())
    others = [p.clone() for p in net.parameters() if p is not parameter]
    with torch.no_grad():
        parameter.zero_()
    assert all(torch.equal(p, q) for p, q in zip(list(net.parameters())[1:], others, strict=True))


def net(name: str) -> LuaTable:
    return read_t7(FIXTURES / next(e for e in NETS if f"__net_{name}__" in e["name"])["file"])


def test_branches_of_a_siamese_net_are_one_set_of_parameters() -> None:
    fixture = net("siamese")
    siamese = to_torch(fixture["module"])
    assert len(list(siamese.parameters())) == 4
    assert len(training.parameters(siamese)[0]) == 8
    left, right = siamese[0][0], siamese[0][1]  # type: ignore[index]
    assert left is not right
    assert left[0].weight is right[0].weight
    gradient(siamese, fixture)
    grads = to_value(fixture["gradParams"])
    assert differences("gradParams", training.parameters(siamese)[1], grads) == []


def test_a_branch_that_is_one_object_is_one_module() -> None:
    siamese = to_torch(net("siamese_sameobject")["module"])
    assert siamese[0][0] is siamese[0][1]  # type: ignore[index]
    table = to_lua(siamese)["modules"][1]["modules"]
    assert table[1] is table[2]


def test_a_decoder_stays_the_transpose_of_its_encoder() -> None:
    fixture = net("tied_autoencoder")
    autoencoder = to_torch(fixture["module"])
    gradient(autoencoder, fixture)
    optim.SGD(autoencoder.parameters(), lr=1).step()
    autoencoder(to_value(fixture["input"]))
    encoder, decoder = autoencoder[0], autoencoder[2]  # type: ignore[index]
    assert torch.equal(decoder.weight, encoder.weight.t())
    written = to_lua(autoencoder)["modules"]
    assert written[1]["weight"].storage is written[3]["weight"].storage


def test_a_loaded_net_is_trained_like_any_other() -> None:
    fixture = net("mlp_bn_dropout")
    module = to_torch(fixture["module"]).train()
    x = to_value(fixture["input"])
    target = torch.arange(len(x)) % module(x).shape[1]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert dpnn_bridge.to_torch(to_lua(module.eval())).training is False
