"""The examples of CONTRIBUTING.md work as they stand there, in a program of their own: they register classes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: heading of a recipe -> what follows its first example
PROGRAMS = {
    "Adding a Lua class": """
import torch
from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.objects import LuaObject, LuaTable
module = to_torch(LuaObject("nn.DivConstant", LuaTable({"_type": "torch.DoubleTensor", "constant_scalar": 4})))
assert module(torch.ones(1)) == 0.25
assert to_lua(module)["constant_scalar"] == 4
""",
    "Adding an output format": """
import dpnn_bridge, sys
from dpnn_bridge.outputs import formats
formats.__path__.append("formats")
model = nn.Sequential(nn.Linear(2, 3))
dpnn_bridge.write_t7("m.t7", model)
dpnn_bridge.convert("m.t7", "m.toy")
assert torch.equal(torch.load("m.toy")["0.weight"], model[0].weight)
assert dpnn_bridge.verify("m.t7", "m.toy").ok
""",
    "Adding an option": """
assert round_to.default is None
assert round_to.metadata["scope"] == "every"
""",
    "Adding a Lua method": """
from dpnn_bridge.lua import LuaBridge
code = "local x, y = torch.Tensor{3}, torch.Tensor{4}; return torch.hypot(x, y)[1], x:hypot(y)[1]"
assert LuaBridge().execute(code) == (5, 5)
""",
    "Adding an optimizer": """
assert {**METHODS, **{entry}}["adamax"] == METHODS["adamax"]
""",
}
#: names that the examples take from the file that they are added to
IMPORTS = {
    "Adding an option": "from dataclasses import field\nfrom dpnn_bridge.outputs.options import _flag\n",
    "Adding a Lua method": "from dpnn_bridge.lua.ops.elementwise import *\n",
    "Adding an optimizer": "from dpnn_bridge.optim.methods import *\n",
}


@pytest.mark.parametrize("heading", PROGRAMS)
def test_the_example_of_a_recipe_works(heading: str, tmp_path: Path) -> None:
    if heading == "Adding a Lua method":
        pytest.importorskip("lupa")
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    indented = re.findall(r"^( *)```python\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)[0]
    lines = indented[1].splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line)
    example = "\n".join(line[margin:] for line in lines) + "\n"
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "toy.py").write_text(example)
    body = PROGRAMS[heading]
    if heading == "Adding an optimizer":
        example, body = "", body.replace("{entry}", f"{{{example}}}")
    (tmp_path / "program.py").write_text(IMPORTS.get(heading, "") + example + body)
    run = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
