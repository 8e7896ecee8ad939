"""What users do with a model on a device beside the CPU gives what the CPU gives: ``pytest --device strict``, cuda, …

The parity suite, traces, training runs and whole architectures take the same option.
"""

from __future__ import annotations

import copy
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import FIXTURES, RESIDUAL
from samples import SAMPLES, cases
from torch import Tensor, nn
from torch.testing._internal.distributed import fake_pg

import dpnn_bridge
from dpnn_bridge import parity, training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.outputs.formats import suffixes
from dpnn_bridge.parity.verify import verify

#: samples of several models
SEVERAL = {"OpenNMT__rnn_LSTM_general", "VQA_LSTM_CNN__weights_only", "mc-cnn__slow_net_te"}
AUTOENCODER = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "train_distributed.py"))["autoencoder"]
LENET = FIXTURES / "samples" / "torch-demos__mnist_convnet" / "model.t7"


@pytest.fixture
def beside(device: str) -> str:
    if device == "cpu":
        pytest.skip("needs a device beside the CPU, such as --device strict")
    return device


def tied() -> nn.Module:
    """A decoder whose weight is its encoder's, transposed; all parameters are parts of one flat vector."""
    return dpnn_bridge.to_torch(AUTOENCODER()["model"])


def shared() -> nn.Module:
    """Two linear layers that are one, and a third that has the same parameters."""
    torch.manual_seed(0)
    first, other = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    other.weight, other.bias = first.weight, first.bias
    return dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(first, nn.Tanh(), first, nn.Tanh(), other)))


def sized(make: Callable[[], nn.Module]) -> Tensor:
    """An input."""
    width = next(make().parameters()).shape[1]
    return torch.linspace(-1, 1, 4 * width, dtype=torch.float64).reshape(4, width)


def trained(make: Callable[[], nn.Module], device: str) -> list[Tensor]:
    """What two steps of training leave, by dpnn's functions and by an optimizer."""
    net, x = make().to(device), sized(make).to(device)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    results = []
    for _ in range(2):
        training.zero_grad_parameters(net)
        net(x).square().mean().backward()
        training.grad_param_clip(net, 0.5)
        training.weight_decay(net, 0.01)
        training.update_grad_parameters(net, 0.9)
        training.update_parameters(net, 0.1)
        training.max_param_norm(net, 1.5)
        optimizer.step()
        results += [training.flatten(net), net(x)]
    clone = training.shared_clone(net)
    training.load_flat(net, training.flatten(net) / 2)
    results += [clone(x), *training.parameters(clone)[0], *training.parameters(clone)[1], *training.get_parameters(net)]
    return [value.detach().cpu() for value in results]


MODELS = pytest.mark.parametrize("make", [tied, shared])


@MODELS
def test_training_gives_what_the_cpu_gives(make: Callable[[], nn.Module], beside: str) -> None:
    found, expected = trained(make, beside), trained(make, "cpu")
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@MODELS
@pytest.mark.parametrize("way", ["to", "load", "there and back", "copy", "to_empty"])
def test_what_is_shared_stays_one(make: Callable[[], nn.Module], way: str, beside: str, tmp_path: Path) -> None:
    net = make()
    count, x = len(list(net.parameters())), sized(make).to(beside)
    expected = net(x.cpu())
    if way == "load":
        dpnn_bridge.save(tmp_path / "model.pt", net)
        net = dpnn_bridge.load(tmp_path / "model.pt", device=beside)
    elif way == "to_empty":
        state = net.state_dict()
        net = net.to("meta").to_empty(device=beside)
        net.load_state_dict(state)
    else:
        net = net.to(beside)
        net = net.cpu().to(beside) if way == "there and back" else net
        net = copy.deepcopy(net) if way == "copy" else net
    assert {p.device.type for p in net.parameters()} == {torch.device(beside).type}
    assert len(list(net.parameters())) == count
    torch.testing.assert_close(net(x).cpu(), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        next(net.parameters()).mul_(2)
    written = dpnn_bridge.to_torch(dpnn_bridge.to_lua(net))
    assert len(list(written.parameters())) == count
    torch.testing.assert_close(written(x.cpu()), net(x).cpu(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("suffix", [suffix for suffix in suffixes() if suffix != ".json"])
def test_every_format_is_what_the_cpu_writes(suffix: str, beside: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="optional extra is not installed")
    for device in ("cpu", beside):
        model = dpnn_bridge.load(LENET, device=device).eval()
        (tmp_path / device).mkdir()
        example = {"example": torch.ones(1, 1, 32, 32, device=device)} if suffix in (".onnx", ".pt2") else {}
        dpnn_bridge.save(tmp_path / device / f"model{suffix}", model, **example)
    written, expected = ({p.name: p.read_bytes() for p in (tmp_path / d).iterdir()} for d in (beside, "cpu"))
    assert written.keys() == expected.keys()
    if not example:  # which hold where they were made
        assert written == expected


def test_parity_runs_there(beside: str, tmp_path: Path) -> None:
    assert verify(RESIDUAL, device=beside).ok
    net = dpnn_bridge.load(LENET, device=beside).eval()
    x = torch.randn(2, 1, 32, 32, dtype=next(net.parameters()).dtype)
    parity.record(net, x.to(beside), tmp_path / "recorded.t7")
    assert verify(tmp_path / "recorded.t7").ok
    parity.assert_parity(net, tmp_path / "recorded.t7")


def test_weights_are_ported_to_a_network_there(beside: str) -> None:
    source = dpnn_bridge.load(LENET, device=beside).eval()
    target = nn.Sequential(*map(copy.deepcopy, source)).to(beside)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.normal_()
    assert dpnn_bridge.port(source, target, torch.randn(2, 1, 32, 32, device=beside)).equal
    assert {p.device for p in target.parameters()} == {p.device for p in source.parameters()}


def outputs(case: dict[str, Any], device: str, autocast: bool, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What a model computes from its reference's input, as one vector."""
    inputs = to_value(dpnn_bridge.read_t7(SAMPLES / case["name"] / "ref.t7")["input"], device=device)
    inner = torch.float32 if autocast else dtype
    net = dpnn_bridge.load(SAMPLES / case["name"] / "model.t7", device=device, dtype=inner).eval()
    with torch.no_grad(), torch.autocast(torch.device(device).type, dtype, enabled=autocast):
        return torch.cat([v.cpu().float().flatten() for v in nested.leaves(net(nested.cast(inputs, inner)))])


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
@pytest.mark.parametrize("case", [c for c in cases() if c["name"] not in SEVERAL], ids=lambda c: c["name"])
def test_half_precision_is_as_exact_as_on_the_cpu(case: dict[str, Any], autocast: bool, beside: str) -> None:
    exact = outputs(case, "cpu", False, torch.float32)
    distances = [float((outputs(case, device, autocast) - exact).norm() / exact.norm()) for device in (beside, "cpu")]
    assert distances[0] < 2 * distances[1] + 0.01


def done(value: Tensor) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(value)
    return future


def test_distributed_data_parallel(beside: str) -> None:
    """One process; its group sends nothing."""
    expected = tied()
    expected(sized(tied)).square().mean().backward()
    kind = torch.device(beside).type
    dist.Backend.register_backend("alone", fake_pg._create_fake_pg, extended_api=True, devices=[kind])
    dist.init_process_group(f"{kind}:alone", store=fake_pg.FakeStore(), rank=0, world_size=1)
    try:
        net = tied().to(beside)
        wrapped = nn.parallel.DistributedDataParallel(net)
        wrapped.register_comm_hook(None, lambda _, bucket: done(bucket.buffer()))  # the group hands on nothing
        wrapped(sized(tied).to(beside)).square().mean().backward()
    finally:
        dist.destroy_process_group()
    for a, b in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12, check_device=False)
