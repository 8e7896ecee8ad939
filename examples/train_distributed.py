"""Continue a Torch7 training run on several processes, with DDP or FSDP2, and export it as one .t7 file.

    torchrun --nproc-per-node 2 examples/train_distributed.py training.t7 trained.t7 [--parallel fsdp] [--method sgd]

``training.t7`` is a table with ``model``, ``criterion`` and ``optimState``, as training scripts of Torch7 save it.
Without the file, the example creates an autoencoder whose decoder is its encoder transposed. ``--checkpoints DIR``
saves the run with torch.distributed.checkpoint after each step and continues the run in DIR. ``--compile inductor``
(or another backend) compiles the model.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import dpnn_bridge
from dpnn_bridge import optim
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

BATCH = 8


def autoencoder(seed: int = 0) -> LuaTable:
    """Return a run that Torch7 began: a model with tied weights, its criterion, and the state of ``optim.sgd``."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(124, generator=generator, dtype=torch.float64).div(3)
    flat = LuaTensor.from_numpy(numbers.numpy())  # what getParameters() returned, on which all of them are views
    used = 0

    def tensor(*shape: int) -> LuaTensor:
        nonlocal used
        start, used = used, used + math.prod(shape)
        return LuaTensor(flat.class_name, shape, (*shape[1:], 1), start, flat.storage)

    def module(name: str, **fields: Any) -> LuaObject:
        return LuaObject(f"nn.{name}", LuaTable({"_type": "torch.DoubleTensor", "train": True, **fields}))

    weight, inner = tensor(6, 10), tensor(6, 6)
    transposed = LuaTensor(
        weight.class_name, (10, 6), (1, 10), weight.offset, weight.storage
    )  # decoder.weight = encoder.weight:t()
    layers = [
        module("Linear", weight=weight, bias=tensor(6)),
        module("Tanh"),
        module("Linear", weight=inner, bias=tensor(6)),
        module("Sigmoid"),
        module("Linear", weight=inner, bias=tensor(6)),  # the same weight
        module("Linear", weight=transposed, bias=tensor(10)),
    ]
    model = module("Sequential", modules=LuaTable.from_list(layers))
    state = LuaTable({"learningRate": 0.1, "momentum": 0.9, "learningRateDecay": 1e-3, "weightDecay": 1e-4})
    criterion = module("MSECriterion", sizeAverage=True)
    return LuaTable({"model": model, "criterion": criterion, "optimState": state, "epoch": 3})


def batch(step: int) -> Tensor:
    """All processes together see this; each trains on its part."""
    return torch.randn(BATCH, 10, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Continues what a folder holds; the number of steps that were done."""
    names = dict(model.named_parameters())
    found: Any
    for key, found in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        kind, _, path = key.partition(".state.")
        if kind != "optimizer":
            continue
        name, _, entry = path.rpartition(".")
        state = optimizer.state[names[name]]
        if entry not in state:  # what the first step of a run makes
            like = names[name].detach()
            state[entry] = torch.zeros_like(like) if tuple(found.size) == tuple(like.shape) else torch.zeros(found.size)
    weights, state = get_state_dict(model, optimizer)
    content: dict[str, Any] = {"model": weights, "optimizer": state, "step": torch.tensor(0)}
    load(content, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    return int(content["step"])


def train(arguments: argparse.Namespace) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    checkpoint = dpnn_bridge.read_t7(arguments.source) if arguments.source else autoencoder()
    model = dpnn_bridge.to_torch(checkpoint["model"]).to(device)
    criterion = dpnn_bridge.to_torch(checkpoint["criterion"]).to(device)
    # tied layers are in one group of FSDP, so that all of them are whole when one of them runs
    net: Any = fully_shard(model) if arguments.parallel == "fsdp" else DistributedDataParallel(model)
    if arguments.compile:
        net.compile(backend=arguments.compile)
    optimizer: Any = optim.from_lua(arguments.method, checkpoint["optimState"], model)

    folder, done = arguments.checkpoints, 0
    if folder and (folder / ".metadata").exists():
        done = restore(folder, model, optimizer)
    for step in range(done, arguments.steps):
        x = batch(step)[rank * BATCH // size : (rank + 1) * BATCH // size].to(device)

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = criterion(net(x), x)
            loss.backward()
            mean = loss.detach().clone()
            dist.all_reduce(mean)  # all processes go by the same loss: lbfgs and cg decide on it
            return mean / size

        loss = optimizer.step(closure)
        if folder:
            weights, state = get_state_dict(model, optimizer)
            save({"model": weights, "optimizer": state, "step": torch.tensor(step + 1)}, checkpoint_id=folder)
        if rank == 0:
            print(f"step {step + 1}: loss {float(loss):.6f}", flush=True)

    checkpoint["model"] = dpnn_bridge.to_lua(model)  # on every process, since each holds a part
    checkpoint["optimState"] = optim.to_lua(optimizer, model)
    if rank == 0:
        dpnn_bridge.write_t7(arguments.target, checkpoint)
    dist.barrier()  # no process ends while another one still uses its connections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("target", type=Path)
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="fsdp")
    parser.add_argument("--method", default="sgd")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--compile")
    arguments = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        train(arguments)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # PyTorch's caches hold the process group, so its threads still run. One that releases its last tensor while Python
    # ends would abort the process (SIGABRT); Python's own clean-up has nothing left to do.
    sys.stdout.flush()
    os._exit(0)
