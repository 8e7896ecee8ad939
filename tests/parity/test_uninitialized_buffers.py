"""Buffers of Lua layers in uninitialized memory, which Torch7's reference contains too, are no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.errors import ConversionLimitError, LuaBridgeError
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.new_memory import new_memory

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

#: writes the first column of `scratch` and the first elements of `larger`; computes `derived` from all elements of
#: `scratch`; writes all elements of `written`
LAYER = """
local Partial, parent = torch.class('Partial', 'nn.Module')
function Partial:updateOutput(input)
   self.scratch = torch.Tensor(2, 3, 2, 2, 2)
   self.scratch:select(2, 1):fill(input:sum())
   self.larger = torch.zeros(2):resize(40)
   self.derived = self.scratch * 2
   self.written = torch.Tensor(4):fill(5)
   self.output = input * 2
   return self.output
end
function Partial:updateGradInput(input, gradOutput)
   self.gradInput = gradOutput * 2
   return self.gradInput
end
"""
SIZES = {"scratch": (2, 3, 2, 2, 2), "derived": (2, 3, 2, 2, 2), "larger": (40,), "written": (4,)}


def double(value: np.ndarray) -> LuaTensor:
    return LuaTensor.from_numpy(value)


def model(**fields: np.ndarray) -> LuaObject:
    buffers = {name: double(fields.get(name, np.zeros(sizes))) for name, sizes in SIZES.items()}
    layer = LuaObject("Partial", LuaTable({"_type": "torch.DoubleTensor", "train": False, **buffers}))
    return LuaObject("nn.Sequential", LuaTable({"train": False, "modules": LuaTable.from_list([layer])}))


def expected(garbage: float) -> dict[str, np.ndarray]:
    """The buffers after Torch7's run, with a number where its memory is uninitialized."""
    buffers = {name: np.full(sizes, garbage) for name, sizes in SIZES.items()}
    buffers["scratch"][:, 0] = 6.0
    buffers["derived"] = buffers["scratch"] * 2
    buffers["larger"][:2] = 0.0
    buffers["written"][:] = 5.0
    return buffers


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "layer.lua").write_text(LAYER)
    write_t7(tmp_path / "model.t7", model())
    return tmp_path


def verified(folder: Path, *options: str, **fields: np.ndarray) -> Result:
    x = np.array([1.0, 2.0, 3.0])
    table = {"input": double(x), "output": double(2 * x), "after": model(**fields)}
    write_t7(folder / "reference.t7", LuaTable(table))
    words = ["model.t7", "--reference", "reference.t7", "--lua", "layer.lua", *options]
    words = [str(folder / w) if "." in w else w for w in words]
    return CliRunner().invoke(verify_command, words, env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("garbage", "options"), [(0.0, ()), (1e-310, ()), (1e300, ()), (np.nan, ()), (-7.5, ("--sandbox",))]
)
def test_uninitialized_memory_is_not_compared(files: Path, garbage: float, options: tuple[str, ...]) -> None:
    results = [verified(files, *options, **expected(garbage)) for _ in range(2)]
    assert results[0].exit_code == 0, results[0].output
    assert results[0].output == results[1].output
    noted = "uninitialized memory" in results[0].output
    assert noted is not (abs(garbage) < 1)


@pytest.mark.parametrize("name", list(SIZES))
def test_an_initialized_element_is_still_compared(files: Path, name: str) -> None:
    buffers = expected(-7.5)
    buffers[name].flat[1] += 1e-3
    result = verified(files, **buffers)
    assert result.exit_code == 4, result.output
    assert name in result.output.splitlines()[-1]


def test_a_wrong_output_is_still_different(files: Path) -> None:
    (files / "layer.lua").write_text(LAYER.replace("self.output = input * 2", "self.output = input * 3"))
    result = verified(files, **expected(-7.5))
    assert result.exit_code == 4
    assert "output" in result.output.splitlines()[-1]


@pytest.mark.parametrize("sandbox", [False, True])
def test_all_new_memory_can_be_filled(sandbox: bool) -> None:
    bridge = LuaBridge(sandbox=sandbox)
    assert bridge.fill_new_memory(3.0) is None
    code = """
local small, grown, large = torch.Tensor(2, 3), torch.zeros(5), torch.FloatTensor(2, 3, 4, 5, 6)
grown:resize(9)
large:resize(100000)
return small:sum(), grown:sum(), large:mean(), torch.LongTensor(4):sum(), torch.DoubleStorage(7)[7]
"""
    assert tuple(bridge.execute(code)) == (18, 12, 3, 12, 3)
    assert bridge.fill_new_memory(None) == 3.0


def test_a_sandbox_that_ended_hides_no_error() -> None:
    """Reading an answer may exceed a limit of the run, and then the process ends."""
    bridge, limits = LuaBridge(sandbox=True), ResourceLimits()
    limits.steps = 1000
    code = "local t = {} for i = 1, 1000 do t[i] = torch.ones(1) end return t"
    limited = pytest.raises(ConversionLimitError, match="takes more than")
    with limited, new_memory([bridge], 0.0), ResourceLimitMode(limits):
        bridge.execute(code)
    with pytest.raises(LuaBridgeError, match="has ended"):
        bridge.execute("return 1")
