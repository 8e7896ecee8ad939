"""Recurrent modules against stock PyTorch, and against Torch7 where ``DPNN_TORCH7`` names its ``th``.

    DPNN_TORCH7=/path/to/th PYTHONPATH=. python benchmarks/bench_rnn.py [--threads 1 2] [--rounds 5] [--only WORD]

Prints milliseconds per forward and backward pass: the fastest of several runs, each beside one of the others, in CPU
time of one thread or wall time of more. "steps" is this package with one call per time step. "kept" is what the forward
pass keeps for backward, relative to stock. Without ``DPNN_TORCH7`` the rows that need a module of Torch7 (peepholes,
char-rnn) are left out. The language models and the attention are compared with the best PyTorch code by hand, some of
it from ``bench_dpnn.py``.
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
from typing import NamedTuple

import torch
from bench_dpnn import full_tree, glimpse_best, nce_best, tree_best
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge import memory, training
from dpnn_bridge.modules.dpnn import NCECriterion, NCEModule
from dpnn_bridge.modules.dpnn.glimpse import SpatialGlimpse
from dpnn_bridge.modules.nn.container import ParallelTable
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.nnx import SoftMaxTree
from dpnn_bridge.modules.rnn.cells import fast_lstm, gru
from dpnn_bridge.modules.rnn.seq_gru import SeqGRU
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.modules.rnn.sequencer import Sequencer

#: of the language models; also the leaves of a tree of three levels of ten
WORDS = 1000

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
elseif 'KIND' == 'nce' then
   local words, targets = torch.LongTensor(T, N):random(WORDS), torch.LongTensor(T * N):random(WORDS)
   local layers = nn.Sequential():add(nn.LookupTable(WORDS, I)):add(nn.SeqLSTM(I, H)):add(nn.View(-1, H))
   local nce = nn.NCEModule(H, WORDS, 25, torch.ones(WORDS), 1)
   model = nn.Sequential():add(nn.ParallelTable():add(layers):add(nn.Identity())):add(nce)
   local criterion, input = nn.NCECriterion(), {words, targets}
   run = function()
      local scores = model:forward(input)
      criterion:forward(scores, targets)
      model:backward(input, criterion:backward(scores, targets))
   end
else
   model = MODULE
   run = function() model:forward(x); model:backward(x, model.output) end
end
torch.save('FILE', model)
local best, clock = 1e9, THREADS == 1 and os.clock or require('sys').clock
for round = 1, ROUNDS do
   local start = clock(); run(); best = math.min(best, clock() - start)
end
print(best * 1000)
"""


Run = Callable[[], Tensor]


class Row(NamedTuple):
    """One row: sizes (T, N, I, H), Torch7's module, this package's, stock PyTorch's, and what is measured of them."""

    name: str
    sizes: tuple[int, int, int, int]
    lua: str
    ours: Callable[[int, int], nn.Module] | None
    stock: Callable[[int, int], nn.Module]
    measured: Callable[[Row, nn.Module | None], dict[str, Run]]


def sequencer(make: Callable[[int, int], nn.Module]) -> Callable[[int, int], nn.Module]:
    """Return a function that makes a Sequencer of what another one makes."""
    return lambda inputs, size: Sequencer(make(inputs, size))


def language_model(last: Callable[[int], nn.Module]) -> Callable[[int, int], nn.Module]:
    """Return a function that makes a language model: words and targets to what its criterion takes."""

    def make(inputs: int, size: int) -> nn.Module:
        layers = nn.Sequential(LookupTable(WORDS, inputs), SeqLSTM(inputs, size), nn.Flatten(0, 1))
        return nn.Sequential(ParallelTable(layers, nn.Identity()), last(size))

    return make


def tree(size: int) -> SoftMaxTree:
    return SoftMaxTree.from_hierarchy(size, full_tree(10, 3)[0])


def both(make: Callable[[nn.Module], Run], module: nn.Module | None) -> dict[str, Run]:
    """Return what is measured of a module, and of a copy that makes one call for each time step."""
    if module is None:
        return {}
    stepwise = copy.deepcopy(module)
    for inner in stepwise.modules():
        inner.register_forward_hook(lambda *_: None)
    return {"ours": make(module), "steps": make(stepwise)}


def outputs(row: Row, module: nn.Module | None) -> dict[str, Run]:
    """Return runs of a recurrent layer."""
    T, N, inputs, size = row.sizes
    x, stock = torch.randn(T, N, inputs, requires_grad=True), row.stock(inputs, size)
    return {"stock": lambda: stock(x)[0].sum()} | both(lambda model: lambda: model(x).sum(), module)


def scores(row: Row, module: nn.Module | None) -> dict[str, Run]:
    """Return runs of the step model of char-rnn."""
    T, N, inputs, size = row.sizes
    x, stock = torch.randn(T, N, inputs, requires_grad=True), row.stock(inputs, size)
    head, states = nn.Sequential(nn.Linear(size, inputs), nn.LogSoftmax(2)), [torch.zeros(N, size) for _ in range(4)]
    ours = both(lambda model: lambda: memory.run_sequence(model, x, states)[0].sum(), module)
    return {"stock": lambda: head(stock(x)[0]).sum()} | ours


def losses(row: Row, module: nn.Module | None) -> dict[str, Run]:
    """Return runs of a language model by NCE or by a tree of softmaxes, with the loss."""
    T, N, inputs, size = row.sizes
    assert module is not None
    last, table, layer = module[1], nn.Embedding(WORDS, inputs), row.stock(inputs, size)  # type: ignore[index]
    words, targets = torch.randint(1, WORDS + 1, (T, N)), torch.randint(1, WORDS + 1, (T * N,))
    targets += 111 if isinstance(last, SoftMaxTree) else 0  # the leaves come after the other nodes

    def stock() -> Tensor:
        x = layer(table(words - 1))[0].flatten(0, 1)
        if isinstance(last, SoftMaxTree):
            return -tree_best(last, x, targets).mean()
        p, noise, q, q_noise = nce_best(last, x, targets - 1)
        k = last.k
        return -((p / (p + k * q)).log().sum() + (k * q_noise / (noise + k * q_noise)).log().sum()) / len(p)

    criterion = (lambda x: -x.mean()) if isinstance(last, SoftMaxTree) else NCECriterion()
    return {"stock": stock} | both(lambda model: lambda: criterion(model([words, targets])), module)


def looks(row: Row, module: nn.Module | None) -> dict[str, Run]:
    """Return runs of the recurrent attention of rnn's examples, with the loss and the rewards of the actions."""
    module = dpnn_bridge.load(SAMPLES / "rnn__recurrent-visual-attention/model.t7").float().train()
    image, rewards = torch.randn(row.sizes[1], 1, 28, 28), torch.rand(row.sizes[1])
    (glimpse,) = (m for m in module.modules() if isinstance(m, SpatialGlimpse))
    size = row.sizes[3]
    of_place, of_picture, to_action, to_class = map(nn.Linear, (2, 128, size, size), (16, 16, 2, 10))
    of_both, last, of_state = (nn.Linear(size, size) for _ in range(3))
    start = torch.zeros(size)

    def stock() -> Tensor:
        state, before, chances = image.new_zeros(len(image), size), None, []
        for _ in range(row.sizes[0]):
            mean = to_action(state).clamp(-1, 1)
            place = torch.normal(mean.detach(), 0.22)
            chances.append(((place - mean).square().sum(1) * rewards).sum() / (2 * 0.22**2))
            place = place.clamp(-1, 1) * (13 / 14)
            seen = glimpse_best(glimpse, image, place).flatten(1)
            seen = torch.cat([of_place(place).relu(), of_picture(seen).relu()], 1)
            value = last(of_both(seen).relu())
            before = state = (value + (start if before is None else of_state(before))).relu()
        return -to_class(state).log_softmax(1)[:, 0].mean() + torch.stack(chances).sum()

    def ours() -> Tensor:
        classes = module(image)[0]
        training.reinforce(module, rewards)
        return -classes[:, 0].mean()

    return {"stock": stock, "ours": ours}


SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples"
LSTM_LAYERS: Callable[[int, int], nn.Module] = lambda inputs, size: nn.LSTM(inputs, size, 2)  # noqa: E731
NCE = language_model(lambda size: NCEModule(size, WORDS, 25, torch.ones(WORDS), Z=1))
ROWS = [
    Row("FastLSTM", (20, 32, 128, 256), "nn.Sequencer(nn.FastLSTM(I, H))", sequencer(fast_lstm), nn.LSTM, outputs),
    Row("FastLSTM", (10, 4, 10, 20), "nn.Sequencer(nn.FastLSTM(I, H))", sequencer(fast_lstm), nn.LSTM, outputs),
    Row("GRU", (20, 16, 64, 128), "nn.Sequencer(nn.GRU(I, H))", sequencer(gru), nn.GRU, outputs),
    Row("GRU", (10, 4, 10, 20), "nn.Sequencer(nn.GRU(I, H))", sequencer(gru), nn.GRU, outputs),
    Row("LSTM, peepholes", (20, 16, 64, 128), "nn.Sequencer(nn.LSTM(I, H))", None, nn.LSTM, outputs),
    Row("LSTM, peepholes", (20, 32, 256, 512), "nn.Sequencer(nn.LSTM(I, H))", None, nn.LSTM, outputs),
    Row("SeqLSTM", (50, 32, 128, 256), "nn.SeqLSTM(I, H)", SeqLSTM, nn.LSTM, outputs),
    Row("SeqLSTM", (10, 4, 10, 20), "nn.SeqLSTM(I, H)", SeqLSTM, nn.LSTM, outputs),
    Row(
        "SeqLSTMP",
        (20, 16, 64, 128),
        "nn.SeqLSTMP(I, H, H / 2)",
        lambda inputs, size: SeqLSTMP(inputs, size, size // 2),
        lambda inputs, size: nn.LSTM(inputs, size, proj_size=size // 2),
        outputs,
    ),
    Row("SeqGRU", (20, 16, 64, 128), "nn.SeqGRU(I, H)", SeqGRU, nn.GRU, outputs),
    Row("char-rnn", (25, 32, 65, 256), "char-rnn", None, LSTM_LAYERS, scores),
    Row("char-rnn", (25, 8, 65, 64), "char-rnn", None, LSTM_LAYERS, scores),
    Row("NCE", (20, 32, 128, 256), "nce", NCE, nn.LSTM, losses),
    Row("NCE", (10, 8, 32, 64), "nce", NCE, nn.LSTM, losses),
    Row("SoftMaxTree", (20, 32, 128, 256), "", language_model(tree), nn.LSTM, losses),
    Row("attention", (5, 20, 0, 32), "", None, nn.Linear, looks),
]


def torch7(row: Row, threads: int, rounds: int, file: Path) -> float:
    """Milliseconds of Torch7, which leaves the module in a file."""
    program = LUA.replace("THREADS", str(threads)).replace("ROUNDS", str(rounds * 3)).replace("FILE", str(file))
    program = program.replace("SIZES", ", ".join(map(str, row.sizes))).replace("KIND", row.lua)
    program = program.replace("WORDS", str(WORDS)).replace("MODULE", row.lua if row.lua.startswith("nn.") else "nil")
    script = file.with_suffix(".lua")
    script.write_text(program)
    result = subprocess.run([os.environ["DPNN_TORCH7"], script], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def kept(run: Run) -> int:
    """Bytes that a forward pass keeps for backward, parameters and inputs left out."""
    found: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        whole = value if value._base is None else value._base  # a view of a parameter is none of what is kept
        if not whole.is_leaf or not whole.requires_grad:
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        run()
    return sum(found.values())


def measure(row: Row, threads: int, rounds: int) -> None:
    """Print one row."""
    torch.set_num_threads(threads)
    there, module = float("nan"), None if row.ours is None else row.ours(*row.sizes[2:])
    with tempfile.TemporaryDirectory() as folder:
        if os.environ.get("DPNN_TORCH7") and row.lua:
            there = torch7(row, threads, rounds, Path(folder) / "module.t7")
            module = dpnn_bridge.load(Path(folder) / "module.t7").train()
    runs = row.measured(row, module)
    times: dict[str, list[float]] = {"stock": [], "ours": [], "steps": []}
    for run in runs.values():
        run().backward()
    clock = time.process_time if threads == 1 else time.perf_counter
    memory_ratio = kept(runs["ours"]) / kept(runs["stock"]) if "ours" in runs else float("nan")
    for _ in range(rounds * 4):
        for name, run in runs.items():
            start = clock()
            run().backward()
            times[name].append((clock() - start) * 1000)
    stock, ours, steps = (min(values, default=float("nan")) for values in times.values())
    name = f"{row.name:16} {', '.join(map(str, row.sizes)):18} {threads:7}"
    ratios = f"{ours / stock:7.2f} {ours / there:7.2f} {memory_ratio:7.2f}"
    print(f"{name} {stock:8.2f} {ours:8.2f} {steps:8.2f} {there:8.2f} {ratios}", flush=True)


def main() -> None:
    """Measure the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=[1], nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measure the rows whose name contains this")
    options = parser.parse_args()
    columns = ("threads", "stock", "ours", "steps", "Torch7", "/stock", "/Torch7", "kept")
    widths = (7, 8, 8, 8, 8, 7, 7, 7)
    print(f"{'':16} {'T, N, I, H':18}", *(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)))
    for threads in options.threads:
        for row in ROWS:
            if options.only in row.name:
                measure(row, threads, options.rounds)


if __name__ == "__main__":
    main()
