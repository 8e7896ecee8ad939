"""Commands and functions with inputs of n elements, for :mod:`growth`: Lua, many files, archives, ports, programs."""

from __future__ import annotations

import json
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from growth_shapes import Obj, Table, container, linear, tensor
from torch import nn

import dpnn_bridge
from dpnn_bridge import write_t7
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.lua import lua_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.modules.nn import Concat
from dpnn_bridge.objects import LuaObject

#: a command or a function, and its arguments
Run = tuple[Any, list[Any]]


def written(file: Path, value: Any, **options: Any) -> Path:
    write_t7(file, value, **options)
    return file


def run_now(run: Any, *arguments: object) -> None:
    """Run a command that makes an input of another one."""
    run.main([*map(str, arguments), "-q"], standalone_mode=False)


def chain(n: int) -> LuaObject:
    return container([linear() for _ in range(n)])


# ---------------------------------------------------------------------- many files and lines
def manifest_of(n: int, folder: Path, suffix: str) -> Run:
    line = {"source": f"{folder}/none.t7", "verdict": "equal", "sha256": "", "target_sha256": "", "key": None}
    file = folder / f"{n}.jsonl"
    file.write_text("".join(json.dumps({**line, "target": f"{folder}/{i}{suffix}"}) + "\n" for i in range(n)))
    return verify_command, [str(file)]


def files_of(n: int, folder: Path) -> list[str]:
    inputs = folder / f"inputs-{n}"
    inputs.mkdir(exist_ok=True)
    return [str(written(inputs / f"{i}.t7", linear())) for i in range(n)]


def many_of(n: int, folder: Path) -> Run:
    return convert_command, [*files_of(n, folder), "--out-dir", f"{folder}/many-{n}", "--force"]


def done_of(n: int, folder: Path, run: Any) -> Run:
    """Convert n files with a manifest; skip or verify them."""
    words = [*files_of(n, folder), "--out-dir", f"{folder}/done-{n}", "--manifest", f"{folder}/done-{n}.jsonl"]
    run_now(convert_command, *words)
    return run, words if run is convert_command else [f"{folder}/done-{n}.jsonl"]


def all_of(n: int, folder: Path) -> Run:
    file = written(folder / f"all-{n}.t7", Table({f"m{i}": container([linear()]) for i in range(n)}))
    return convert_command, [str(file), f"{folder}/all-{n}.pt", "--all", "--force"]


def card_of(n: int, folder: Path) -> Run:
    source = written(folder / f"{n}.t7", chain(n))
    return convert_command, [str(source), f"{folder}/card.pt", "--card", f"{folder}/card.md", "--force"]


def unfinished_of(n: int, folder: Path) -> Run:
    """Write n layers, of which half cannot be built."""
    layers = [linear(**({"bias": tensor(2)} if i % 2 else {})) for i in range(n)]
    source = written(folder / f"{n}.t7", container(layers))
    return convert_command, [str(source), f"{folder}/unfinished.pt", "--allow-unsupported", "--force"]


# ---------------------------------------------------------------------- archives and text
def shards_of(n: int, folder: Path, shards: int = 100) -> Run:
    """Write a model of n tensors in some shards."""
    source = written(folder / f"{n}.t7", chain(n // 2))
    size = ["--max-shard-size", str(max(8, 8 * n // shards))]
    return convert_command, [str(source), f"{folder}/{n}.safetensors", *size, "--force"]


def index_of(n: int, folder: Path, shards: int = 100) -> Run:
    command, arguments = shards_of(n, folder, shards)
    run_now(command, *arguments)
    return inspect_command, [f"{folder}/{n}.safetensors.index.json"]


def ascii_of(value: Any, folder: Path) -> Run:
    return convert_command, [
        str(written(folder / "ascii.t7", value, mode="ascii")),
        f"{folder}/ascii.out.t7",
        "--force",
    ]


def digits_of(n: int, folder: Path) -> Run:
    file = folder / f"digits-{n}.t7"
    file.write_text(f"1\n{'1' * n}\n")
    return inspect_command, [str(file)]


def legacy_of(n: int, folder: Path, zipped: bool, run: Any) -> Run:
    """Write a pickle of n layers, as PyTorch 0.4 wrote ``torch.legacy.nn``."""

    def of(name: str, **fields: Any) -> Any:
        module = types.ModuleType(f"torch.legacy.nn.{name}")
        made = sys.modules.setdefault(module.__name__, module)
        if not hasattr(made, name):
            setattr(made, name, type(name, (), {"__module__": module.__name__}))
        value = getattr(made, name)()
        vars(value).update(fields, train=True, output=torch.zeros(1), gradInput=torch.zeros(1))
        return value

    layers = [
        of("Linear", weight=torch.ones(1, 1), bias=torch.ones(1), gradWeight=torch.ones(1, 1), gradBias=torch.ones(1))
        for _ in range(n)
    ]
    file = folder / f"legacy-{n}.pth"
    torch.save(of("Sequential", modules=layers), file, _use_new_zipfile_serialization=zipped)
    return run, [str(file)] + ([f"{folder}/legacy.pt", "--force"] if run is convert_command else [])


def from_format(n: int, folder: Path, suffix: str, *options: str) -> Run:
    """Convert a file of n layers back to Torch7."""
    file = folder / f"{n}{suffix}"
    run_now(convert_command, written(folder / f"{n}.t7", chain(n)), file, "--force", *options)
    return convert_command, [str(file), f"{folder}/back.t7", "--force"]


def reference_of(n: int, folder: Path, kind: str) -> Run:
    """Write a layer, and a reference with n outputs, or with n entries of other names."""
    model, file = folder / "layer.t7", folder / f"{n}-{kind}.t7"
    write_t7(model, linear())
    many = {f"x{i}": tensor() for i in range(n)}
    results = {"output": Table.from_list(list(many.values()))} if kind == "outputs" else {"output": tensor(1), **many}
    write_t7(file, Table({"input": tensor(1), **results}))
    return verify_command, [str(model), "--reference", str(file), "--json"]


# ---------------------------------------------------------------------- converted files
def traced_of(n: int, folder: Path, suffix: str) -> Run:
    source = written(folder / f"{n}.t7", chain(n))
    return convert_command, [str(source), f"{folder}/{n}-out{suffix}", "--input", "2x1", "--force"]


def verify_of(n: int, folder: Path, suffix: str) -> Run:
    run, words = traced_of(n, folder, suffix)
    words = words if suffix in (".onnx", ".pt2") else [w for w in words if w not in ("--input", "2x1")]
    run_now(run, *words)
    return verify_command, [*words[:2], "--input", "2x1"]


def program_of(n: int, folder: Path, make: Callable[[int], Any] = chain) -> Run:
    """Write a program of n layers and its weights; load both."""
    source = written(folder / f"{n}.t7", make(n))
    run_now(convert_command, source, folder / f"{n}.py", "--force")
    run_now(convert_command, source, folder / f"{n}.pt", "--force")
    return lambda: runpy.run_path(f"{folder}/{n}.py")["load"](f"{folder}/{n}.pt"), []


# ---------------------------------------------------------------------- ports
class Net(nn.Module):
    """Layers that run one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x


def parallel(n: int) -> nn.Module:
    layers = Concat(dimension=2)
    for i in range(n):
        layers.add_module(str(i), nn.Linear(3, 3))
    return layers


class Joined(nn.Module):
    """One layer for n parallel ones."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3 * n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def port_of(n: int, folder: Path, kind: str) -> Run:
    """Port n layers, one layer that runs n times, or n parallel layers into one."""
    torch.manual_seed(0)
    if kind == "joined":
        return dpnn_bridge.port, [parallel(n), Joined(n), torch.randn(2, 3)]
    source, target = (
        Net([nn.Linear(3, 3)] * n if kind == "once" else [nn.Linear(3, 3) for _ in range(n)]) for _ in range(2)
    )
    return dpnn_bridge.port, [source, target, torch.randn(2, 3)]


# ---------------------------------------------------------------------- Lua
LAYER = """
require 'nn'
local C, parent = torch.class('my.C', 'nn.Module')
function C:updateOutput(input) self.output:resizeAs(input):copy(input):add(1) return self.output end
function C:updateGradInput(input, gradOutput) self.gradInput = gradOutput return self.gradInput end
"""
#: what is after the definition of a class in a Lua file
LUA_FILES: dict[str, Callable[[int], str]] = {
    "lines": lambda n: "x = 1\n" * n,
    "empty lines": lambda n: "\n" * 50 * n,
    "functions": lambda n: "".join(f";(function() function f{i}(a) return a + {i} end end)()\n" for i in range(n)),
    "methods": lambda n: "".join(f";(function() function my.C:f{i}() return {i} end end)()\n" for i in range(n)),
    "strings": lambda n: "".join(f"x = 'string {i}'\n" for i in range(n)),
    "long strings": lambda n: "x = [[" + "word ]= \n" * n + "]]",
    "comments": lambda n: "-- a comment ' [[ \n" * n,
    "long comments": lambda n: "--[==[ a ]] require 'x' ]==] \n" * n,
    "brackets": lambda n: "x = '" + "[" * 50 * n + "'\n-- " + "[=" * 50 * n + "\n",
    "nested tables": lambda n: "t = {}\n" + "t = {t}\n" * n,
    "a table": lambda n: "t = {" + "{1, 'a'}, " * n + "}\n",
    "classes": lambda n: "".join(f"torch.class('my.C{i}', 'nn.Module')\n" for i in range(n)),
    "requires": lambda n: "".join(f"pcall(require, 'missing{i}')\n" for i in range(n)),
}


def lua_file_of(n: int, folder: Path, kind: str, *options: str) -> Run:
    file = folder / f"{n}.lua"
    file.write_text("if not my then my = {} end\n" + LAYER + LUA_FILES[kind](n))
    source = written(folder / "lua.t7", container([Obj("my.C", Table({"train": True}))]))
    return convert_command, [str(source), f"{folder}/lua.pt", "--lua", str(file), "--force", *options]


def lua_run_of(n: int, folder: Path) -> Run:
    """Run a model of n Lua layers forward and backward."""
    _, (source, *_) = lua_layers_of(n, folder)
    model, input = dpnn_bridge.load(source, lua=f"{folder}/layer.lua"), torch.ones(2, 1, dtype=torch.float64)
    return lambda: model(input.requires_grad_()).sum().backward(), []


def lua_layers_of(n: int, folder: Path, *options: str) -> Run:
    file = folder / "layer.lua"
    file.write_text("if not my then my = {} end\n" + LAYER)
    layers = [Obj("my.C", Table({"train": True, "output": tensor(), "gradInput": tensor()})) for _ in range(n)]
    source = written(folder / f"{n}.t7", container(layers))
    return convert_command, [str(source), f"{folder}/lua.pt", "--lua", str(file), "--force", *options]


#: scripts, n of them is a number
SCRIPTS: dict[str, str] = {
    "operations": "local x = torch.ones(3) for i = 1, n * 20 do x:add(1) local y = x * 2 end",
    "operations of the class": "local x = torch.ones(3) for i = 1, n * 20 do local y = torch.cat(x, x) x:sum() end",
    "large operations": "local x = torch.ones(5000) for i = 1, n do x:add(1) local y = x * 2 end",
    "halves": "local x = torch.ones(3) for i = 1, n * 2 do x:half() end",
    "tensors kept": "t = {} for i = 1, n * 20 do t[i] = torch.Tensor(3) end",
    "large tensors kept": "t = {} for i = 1, n do t[i] = torch.Tensor(5000):zero() end",
    "views": "local x, t = torch.zeros(n * 20), {} for i = 1, n * 20 do t[i] = x[{{i, i}}] end",
    "globals": "for i = 1, n * 20 do _G['g' .. i] = i end",
    "closures": "t = {} for i = 1, n * 20 do t[i] = function() return i end end",
    "strings": "t = {} for i = 1, n * 20 do t[i] = 'string ' .. i end s = table.concat(t) s:gsub('%d+', '')",
    "inserts": "t = {} for i = 1, n * 20 do table.insert(t, i) end",
    "prints": "for i = 1, n * 20 do print(i) end",
    "prints tensors": "local x = torch.ones(3) for i = 1, n do print(x) end",
    "prints a tensor": "print(torch.ones(n, 3))",
    "prints a table": "t = {} for i = 1, n do t['k' .. i] = i end print(t)",
    "serializes a tensor": "x = torch.serialize(torch.ones(n * 100), 'ascii') torch.deserialize(x, 'ascii')",
    "serializes tables": "t = {} for i = 1, n do t[i] = {i, torch.ones(1)} end torch.deserialize(torch.serialize(t))",
    "serializes text": """
        t = {} for i = 1, n do t[i] = {i, 'a'} end
        torch.deserialize(torch.serialize(t, 'ascii'), 'ascii')""",
    "memory files": """
        f = torch.MemoryFile() for i = 1, n do f:writeDouble(i) end
        f:seek(1) for i = 1, n do f:readDouble() end""",
    "a tensor of a table": "t = {} for i = 1, n * 20 do t[i] = i end x = torch.Tensor(t)",
    "iterates": "local x, s = torch.ones(n * 20), 0 for i = 1, n * 20 do s = s + x[i] end",
    "apply": "torch.ones(n * 100):apply(function(v) return v + 1 end)",
    "errors": "for i = 1, n do pcall(function() torch.ones(2):view(3) end) end",
    "classes": "for i = 1, n do torch.class('C' .. i) local x = _G['C' .. i] and _G['C' .. i]() end",
    "coroutines": "for i = 1, n do local c = coroutine.wrap(function() coroutine.yield(torch.ones(1)) end) c() end",
}


def script_of(n: int, folder: Path, code: str, *options: str) -> Run:
    file = folder / f"{n}.lua"
    file.write_text(f"local n = {n}\n{code}\n")
    return lua_command, [*options, str(file)]


def sandbox_of(n: int, run: Callable[[LuaBridge, int], object]) -> Run:
    """Start a sandbox, and send n elements to it or get them."""

    def start() -> None:
        run(LuaBridge(sandbox=True, max_memory=1 << 33), n)

    return start, []


def values(bridge: LuaBridge, value: Any) -> Any:
    return bridge.execute("return ...", value)


SANDBOX: dict[str, Callable[[LuaBridge, int], object]] = {
    "calls": lambda b, n: [b.execute("return 1") for _ in range(n)],
    "numbers": lambda b, n: values(b, [float(i) for i in range(n * 20)]),
    "strings": lambda b, n: values(b, [f"string {i}" for i in range(n * 20)]),
    "a long string": lambda b, n: values(b, "x" * 500 * n),
    "names": lambda b, n: values(b, {f"k{i}": i for i in range(n * 20)}),
    "tensors": lambda b, n: values(b, [torch.ones(2) for _ in range(n)]),
    "one tensor n times": lambda b, n: values(b, [torch.ones(2)] * n),
    "a tensor": lambda b, n: values(b, torch.ones(n * 500)),
    "functions": lambda b, n: b.execute("local t = {} for i = 1, ... do t[i] = function() end end return t", n),
    "objects": lambda b, n: b.execute(
        "require 'torch' t = {} for i = 1, ... do t[i] = torch.Generator() end return t", n
    ),
    "functions called": lambda b, n: [b.call(b.execute("return function() end")) for _ in range(n)],
    "prints": lambda b, n: b.execute("for i = 1, ... do print(i) end", n),
    "errors": lambda b, n: b.execute("for i = 1, ... do pcall(error, 'e') end", n),
}

#: name -> the command and its arguments for n elements
INPUTS: dict[str, Callable[[int, Path], Run]] = {
    "manifests: missing files": lambda n, folder: manifest_of(n, folder, ".pt"),
    "manifests: programs": lambda n, folder: manifest_of(n, folder, ".py"),
    "files: converted": many_of,
    "files: skipped": lambda n, folder: done_of(n, folder, convert_command),
    "files: verified": lambda n, folder: done_of(n, folder, verify_command),
    "files: models of one file, --all": all_of,
    "files: with a model card": card_of,
    "files: layers that cannot be built": unfinished_of,
    "shards: written": shards_of,
    "shards: read": index_of,
    "shards: n written": lambda n, folder: shards_of(n, folder, n),
    "shards: n read": lambda n, folder: index_of(n, folder, n),
    "references: outputs": lambda n, folder: reference_of(n, folder, "outputs"),
    "references: other entries": lambda n, folder: reference_of(n, folder, "entries"),
    "ASCII: a tensor": lambda n, folder: ascii_of(tensor(100 * n), folder),
    "ASCII: layers": lambda n, folder: ascii_of(chain(n), folder),
    "ASCII: a number of n digits": lambda n, folder: digits_of(100 * n, folder),
    "pickles: old": lambda n, folder: legacy_of(n, folder, False, convert_command),
    "pickles: zip": lambda n, folder: legacy_of(n, folder, True, convert_command),
    "pickles: inspected": lambda n, folder: legacy_of(n, folder, False, inspect_command),
    **{f"from {s}": lambda n, folder, s=s: from_format(n, folder, s) for s in (".pt", ".t7")},
    **{f"traced: {s}": lambda n, folder, s=s: traced_of(n, folder, s) for s in (".onnx", ".pt2")},
    **{
        f"verify: {s}": lambda n, folder, s=s: verify_of(n, folder, s)
        for s in (".pt", ".safetensors", ".npz", ".t7", ".py", ".onnx", ".pt2")
    },
    "programs: layers": program_of,
    "programs: parallel": lambda n, folder: program_of(
        n, folder, lambda n: container([linear() for _ in range(n)], "nn.ConcatTable")
    ),
    **{f"port: {k}": lambda n, folder, k=k: port_of(n, folder, k) for k in ("layers", "once", "joined")},
    **{f"--lua: {k}": lambda n, folder, k=k: lua_file_of(n, folder, k) for k in LUA_FILES},
    "--lua: n layers": lua_layers_of,
    "--lua: n layers run": lua_run_of,
    "--lua --sandbox: n layers": lambda n, folder: lua_layers_of(n, folder, "--sandbox"),
    **{f"dpnn-lua: {k}": lambda n, folder, c=c: script_of(n, folder, c) for k, c in SCRIPTS.items()},
    **{f"sandbox: {k}": lambda n, folder, r=r: sandbox_of(n, r) for k, r in SANDBOX.items()},
}
