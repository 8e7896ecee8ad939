"""Training goes on over several processes: DDP and FSDP2, and comes back as one .t7 with the optimizer's state."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import forks
from torch import nn

import dpnn_bridge
from dpnn_bridge import optim
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaTable, LuaTensor

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this PyTorch has no gloo")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "train_distributed.py"
STEPS = 4


def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def alone(checkpoint: LuaTable, method: str, steps: int = STEPS) -> tuple[nn.Module, Any]:
    """The same run in this process, on whole batches."""
    batch = example()["batch"]
    model = dpnn_bridge.to_torch(checkpoint["model"])
    criterion = dpnn_bridge.to_torch(checkpoint["criterion"])
    optimizer: Any = optim.from_lua(method, checkpoint["optimState"], model)
    for step in range(steps):
        x = batch(step)

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            optimizer.zero_grad()
            loss = criterion(model(x), x)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model, optimizer


def same(found: Any, expected: Any) -> None:
    """Equal up to 1e-10, in every number, vector and name."""
    if isinstance(expected, LuaTensor):
        assert found.class_name == expected.class_name
        torch.testing.assert_close(found.torch(), expected.torch(), rtol=1e-10, atol=1e-12)
    elif isinstance(expected, LuaTable):
        assert set(found) == set(expected)
        for key in expected:
            same(found[key], expected[key])
    else:
        assert found == expected


def check(trained: LuaTable, checkpoint: LuaTable, method: str, steps: int = STEPS) -> None:
    model, optimizer = alone(checkpoint, method, steps)
    found = dpnn_bridge.to_torch(trained["model"])
    assert found.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)
    layers = trained["model"]["modules"]
    assert layers[1]["weight"].storage is layers[6]["weight"].storage
    assert layers[3]["weight"].storage is layers[5]["weight"].storage
    same(trained["optimState"], optim.to_lua(optimizer, model))


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(program: list[str], *arguments: object) -> None:
    """Run two processes as torchrun does, in forks of one program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [*program, str(EXAMPLE), *map(str, arguments)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, env=ENVIRONMENT | address | {"RANK": rank, "LOCAL_RANK": rank}, stderr=-1)
            )
            for rank in "01"
        ]
        errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A Python program that has imported what the example imports."""
    with forks(
        tmp_path_factory.mktemp("python"), "torch.distributed.fsdp", "torch.distributed.checkpoint", "dpnn_bridge.optim"
    ) as command:
        yield [*command, "python"]


def test_two_processes_with_ddp(tmp_path: Path, program: list[str]) -> None:
    """Adam, from a file, compiled."""
    checkpoint = example()["autoencoder"](1)
    checkpoint["optimState"] = LuaTable({"learningRate": 0.01})
    model, optimizer = alone(checkpoint, "adam", 2)
    begun = LuaTable(checkpoint)
    begun["model"], begun["optimState"] = dpnn_bridge.to_lua(model), optim.to_lua(optimizer, model)
    dpnn_bridge.write_t7(tmp_path / "training.t7", begun)
    arguments = ("--parallel", "ddp", "--method", "adam", "--compile", "aot_eager", "--steps", 2)
    run(program, tmp_path / "training.t7", tmp_path / "trained.t7", *arguments)
    check(dpnn_bridge.read_t7(tmp_path / "trained.t7"), dpnn_bridge.read_t7(tmp_path / "training.t7"), "adam", 2)


def test_two_processes_with_fsdp_that_are_interrupted(tmp_path: Path, program: list[str]) -> None:
    """SGD with momentum, which no state has before the first step."""
    run(program, tmp_path / "half.t7", "--checkpoints", tmp_path / "run", "--steps", 2)
    run(program, tmp_path / "trained.t7", "--checkpoints", tmp_path / "run", "--steps", STEPS)
    trained = dpnn_bridge.read_t7(tmp_path / "trained.t7")
    assert trained["epoch"] == 3
    check(trained, example()["autoencoder"](), "sgd")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process, whose parameters are spread over it all the same."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


CONFIGURATIONS = {
    "sgd": {"learningRate": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0, "weightDecay": 0.01},
    "adam": {"learningRate": 0.01, "learningRateDecay": 0.1},
    "nag": {"learningRate": 0.05, "momentum": 0.8},
    "asgd": {"eta0": 0.05, "t0": 1},
    "adagrad": {"learningRate": 0.1},
    "adadelta": {},
    "rmsprop": {"learningRate": 0.01},
    "adamax": {"learningRate": 0.01},
    "rprop": {"stepsize": 0.05},
    "lbfgs": {"learningRate": 0.1, "maxIter": 3},
    "cg": {"maxIter": 3},
}


@pytest.mark.parametrize("method", CONFIGURATIONS)
def test_every_method_on_spread_parameters(method: str, group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    program = example()
    checkpoint = program["autoencoder"]()
    checkpoint["optimState"] = LuaTable(CONFIGURATIONS[method])
    if method == "sgd":
        model = dpnn_bridge.to_torch(checkpoint["model"])
        size = sum(p.numel() for p in model.parameters())
        checkpoint["optimState"]["learningRates"] = LuaTensor.from_numpy(torch.rand(size).double().numpy())
    begun, begun_optimizer = alone(checkpoint, method, 1)
    checkpoint["model"], checkpoint["optimState"] = dpnn_bridge.to_lua(begun), optim.to_lua(begun_optimizer, begun)

    model = dpnn_bridge.to_torch(checkpoint["model"])
    criterion = dpnn_bridge.to_torch(checkpoint["criterion"])
    net: Any = fully_shard(model)
    optimizer: Any = optim.from_lua(method, checkpoint["optimState"], model)
    for step in range(2):
        x = program["batch"](step)

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            optimizer.zero_grad()
            loss = criterion(net(x), x)
            loss.backward()
            return loss

        optimizer.step(closure)
    trained = LuaTable({"model": dpnn_bridge.to_lua(model), "optimState": optim.to_lua(optimizer, model)})
    check(trained, checkpoint, method, 2)


def test_a_distributed_network_of_pytorch_is_gathered_in_a_t7_file(group: None, tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    net: Any = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
    expected = [p.detach().clone() for p in net.parameters()]
    for layer in (net[0], net[1], net):
        fully_shard(layer)
    dpnn_bridge.save(tmp_path / "net.t7", net)
    found = list(dpnn_bridge.load(tmp_path / "net.t7").parameters())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for suffix in (".pt", ".npz", ".py", ".safetensors"):
        with pytest.raises(ConversionError, match="load the full state_dict into a new model"):
            dpnn_bridge.save(tmp_path / f"net{suffix}", net)
