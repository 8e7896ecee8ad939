"""Torch7 runs what the constructors of ``torch.legacy.nn`` made and ``write_t7`` wrote."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cases import CASES, made

from dpnn_bridge import load_lua, write_t7
from dpnn_bridge.compare.nested import leaves
from dpnn_bridge.legacy import nn

TORCH7 = os.environ.get("DPNN_TORCH7", "")

#: what Torch7 computes otherwise, or not at all, on purpose
OTHERWISE = {
    "Index": "counts from 1",
    "LogSoftMax dim": "no class of Torch7 has a dimension",
    "LookupTable": "counts from 1",
    "SoftMax dim": "no class of Torch7 has a dimension",
    "VolumetricAveragePooling padded": "no class of Torch7 has a padding",
}

LUA = """
require 'nn'
torch.setdefaulttensortype('torch.DoubleTensor')
for name in io.lines(arg[1] .. '/names') do
   local case = torch.load(arg[1] .. '/' .. name .. '.t7')
   local good, output = pcall(function()
      case.module:evaluate()
      local output = case.module:forward(case.input)
      case.module:zeroGradParameters()
      return {output = output, gradInput = case.module:backward(case.input, case.gradOutput)}
   end)
   torch.save(arg[1] .. '/' .. name .. '_result.t7', good and output or {refused = tostring(output)})
end
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both computed for each case."""
    folder: Path = tmp_path_factory.mktemp("torch7")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    found = {}
    try:
        for number, (name, case) in enumerate(CASES.items()):
            if name in OTHERWISE:
                continue
            torch.manual_seed(number)
            module, value = case.make(), made(case.input)
            module.evaluate()
            output = module.forward(value)
            gradient = [torch.ones_like(t) for t in output] if isinstance(output, list) else torch.ones_like(output)
            if not all(isinstance(t, torch.Tensor) for t in leaves(output)) or name == "FlattenTable":
                gradient = output
            mine = {"output": output, "gradInput": module.backward(value, gradient)}
            found[name] = (f"c{number}", mine)
            if name != "MV":  # which Torch7 itself cannot run after clearState
                module.clearState()
            write_t7(folder / f"c{number}.t7", {"module": module, "input": value, "gradOutput": gradient})
    finally:
        torch.set_default_dtype(before)
    (folder / "names").write_text("".join(f"{file}\n" for file, _ in found.values()))
    (folder / "run.lua").write_text(LUA)
    subprocess.run([TORCH7, folder / "run.lua", folder], check=True, timeout=300)
    return {name: (mine, load_lua(folder / f"{file}_result.t7")) for name, (file, mine) in found.items()}


@pytest.mark.torch7
@pytest.mark.parametrize("name", [name for name in CASES if name not in OTHERWISE])
def test_torch7_computes_the_same(name: str, results: dict[str, Any]) -> None:
    mine, theirs = results[name]
    assert "refused" not in theirs, theirs["refused"]
    for what in ("output", "gradInput"):
        first, second = [[t for t in leaves(v) if t.is_floating_point()] for v in (mine[what], theirs[what])]
        for a, b in zip(first, second, strict=False):
            torch.testing.assert_close(a.reshape(-1), b.double().reshape(-1), rtol=1e-10, atol=1e-12)


def test_every_class_is_asked() -> None:
    assert {name.split()[0] for name in CASES} <= set(nn.CLASSES)
