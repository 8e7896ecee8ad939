"""Recurrent modules against stock PyTorch, and against Torch7 where ``DPNN_TORCH7`` names its ``th``.

    DPNN_TORCH7=/path/to/th PYTHONPATH=. python benchmarks/bench_rnn.py [--threads 1] [--rounds 5]

Prints milliseconds of CPU time per forward and backward pass: the fastest of several runs, each beside one of the
others. "steps" is this package with one call per time step. Without ``DPNN_TORCH7`` the rows that need a module of
Torch7 (peepholes, char-rnn) are left out.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import memory
from dpnn_bridge.modules.rnn.cells import fast_lstm, gru
from dpnn_bridge.modules.rnn.seq_gru import SeqGRU
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM
from dpnn_bridge.modules.rnn.sequencer import Sequencer

LUA = r"""
require 'rnn'; require 'nngraph'
torch.setdefaulttensortype('torch.FloatTensor'); torch.setnumthreads(THREADS)
local function step(size, inputs)   -- two LSTM layers as in char-rnn
   local x = nn.Identity()()
   local states, news = {}, {}
   local value = x
   for layer = 1, 2 do
      local c, h = nn.Identity()(), nn.Identity()()
      table.insert(states, c); table.insert(states, h)
      local of_input = nn.Linear(layer == 1 and inputs or size, 4 * size)(value)
      local sums = nn.CAddTable()({of_input, nn.Linear(size, 4 * size)(h)})
      local i, f, o, g = nn.SplitTable(2)(nn.Reshape(4, size)(sums)):split(4)
      local kept = nn.CMulTable()({nn.Sigmoid()(f), c})
      local cell = nn.CAddTable()({kept, nn.CMulTable()({nn.Sigmoid()(i), nn.Tanh()(g)})})
      value = nn.CMulTable()({nn.Sigmoid()(o), nn.Tanh()(cell)})
      table.insert(news, cell); table.insert(news, value)
   end
   table.insert(news, nn.LogSoftMax()(nn.Linear(size, inputs)(value)))
   return nn.gModule({x, unpack(states)}, news)
end
local T, N, I, H = SIZES
local x, run, model = torch.randn(T, N, I)
if 'KIND' == 'char-rnn' then
   model = step(H, I)
   local clones = {}
   for t = 1, T do clones[t] = model:clone('weight', 'bias', 'gradWeight', 'gradBias') end
   run = function()
      local states, gradients = {}, {}
      for k = 1, 4 do states[k] = torch.zeros(N, H); gradients[k] = torch.zeros(N, H) end
      local inputs = {}
      for t = 1, T do
         inputs[t] = {x[t], unpack(states)}
         local outputs = clones[t]:forward(inputs[t])
         for k = 1, 4 do states[k] = outputs[k] end
      end
      for t = T, 1, -1 do
         gradients[5] = clones[t].output[5]
         local back = clones[t]:backward(inputs[t], gradients)
         gradients = {unpack(back, 2)}
      end
   end
else
   model = MODULE
   run = function() model:forward(x); model:backward(x, model.output) end
end
torch.save('FILE', model)
local best = 1e9
for round = 1, ROUNDS do
   local start = os.clock(); run(); best = math.min(best, os.clock() - start)
end
print(best * 1000)
"""


class Row(NamedTuple):
    """One row: sizes (T, N, I, H), Torch7's module, this package's, and stock PyTorch's that computes as much."""

    name: str
    sizes: tuple[int, int, int, int]
    lua: str
    ours: Callable[[int, int], nn.Module] | None
    stock: Callable[[int, int], nn.Module]


def sequencer(make: Callable[[int, int], nn.Module]) -> Callable[[int, int], nn.Module]:
    return lambda inputs, size: Sequencer(make(inputs, size))


ROWS = [
    Row("FastLSTM", (20, 32, 128, 256), "nn.Sequencer(nn.FastLSTM(I, H))", sequencer(fast_lstm), nn.LSTM),
    Row("FastLSTM", (10, 4, 10, 20), "nn.Sequencer(nn.FastLSTM(I, H))", sequencer(fast_lstm), nn.LSTM),
    Row("GRU", (20, 16, 64, 128), "nn.Sequencer(nn.GRU(I, H))", sequencer(gru), nn.GRU),
    Row("GRU", (10, 4, 10, 20), "nn.Sequencer(nn.GRU(I, H))", sequencer(gru), nn.GRU),
    Row("LSTM, peepholes", (20, 16, 64, 128), "nn.Sequencer(nn.LSTM(I, H))", None, nn.LSTM),
    Row("LSTM, peepholes", (20, 32, 256, 512), "nn.Sequencer(nn.LSTM(I, H))", None, nn.LSTM),
    Row("SeqLSTM", (50, 32, 128, 256), "nn.SeqLSTM(I, H)", SeqLSTM, nn.LSTM),
    Row("SeqGRU", (20, 16, 64, 128), "nn.SeqGRU(I, H)", SeqGRU, nn.GRU),
    Row("char-rnn", (25, 32, 65, 256), "char-rnn", None, lambda i, h: nn.LSTM(i, h, 2)),
]


def torch7(row: Row, threads: int, rounds: int, file: Path) -> float:
    """Milliseconds of Torch7, which leaves the module in a file."""
    program = LUA.replace("THREADS", str(threads)).replace("ROUNDS", str(rounds * 3)).replace("FILE", str(file))
    program = program.replace("SIZES", ", ".join(map(str, row.sizes))).replace("KIND", row.lua)
    program = program.replace("MODULE", "nil" if row.lua == "char-rnn" else row.lua)
    script = file.with_suffix(".lua")
    script.write_text(program)
    result = subprocess.run([os.environ["DPNN_TORCH7"], script], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def runs(row: Row, module: nn.Module | None, stock: nn.Module) -> dict[str, Callable[[], Any]]:
    """Return the functions to measure: forward and backward of each implementation."""
    T, N, inputs, size = row.sizes
    x = torch.randn(T, N, inputs, requires_grad=True)
    head = nn.Sequential(nn.Linear(size, inputs), nn.LogSoftmax(2)) if row.lua == "char-rnn" else nn.Identity()
    found: dict[str, Callable[[], Any]] = {"stock": lambda: head(stock(x)[0]).sum().backward()}
    if module is None:
        return found
    stepwise = copy.deepcopy(module)
    list(stepwise.modules())[-1].register_forward_hook(lambda *_: None)
    states = [torch.zeros(N, size) for _ in range(4)]
    for name, model in (("ours", module), ("steps", stepwise)):
        if row.lua == "char-rnn":
            found[name] = lambda model=model: memory.run_sequence(model, x, states)[0].sum().backward()
        else:
            found[name] = lambda model=model: model(x).sum().backward()
    return found


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'':16} {'T, N, I, H':18} {'stock':>8} {'ours':>8} {'steps':>8} {'Torch7':>8} {'/stock':>7} {'/Torch7':>7}")
    for row in ROWS:
        there, module = float("nan"), None if row.ours is None else row.ours(*row.sizes[2:])
        with tempfile.TemporaryDirectory() as folder:
            if os.environ.get("DPNN_TORCH7"):
                there = torch7(row, options.threads, options.rounds, Path(folder) / "module.t7")
                module = dpnn_bridge.load(Path(folder) / "module.t7").train()
        measured = runs(row, module, row.stock(*row.sizes[2:]))
        times: dict[str, float] = dict.fromkeys(("stock", "ours", "steps"), float("nan"))
        for run in measured.values():
            run()
        for _ in range(options.rounds * 4):
            for name, run in measured.items():
                start = time.process_time()
                run()
                spent = (time.process_time() - start) * 1000
                times[name] = spent if times[name] != times[name] else min(times[name], spent)
        stock, ours, steps = times.values()
        print(
            f"{row.name:16} {', '.join(map(str, row.sizes)):18} {stock:8.2f} {ours:8.2f} {steps:8.2f} {there:8.2f} "
            f"{ours / stock:7.2f} {ours / there:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
