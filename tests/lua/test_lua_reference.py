"""dpnn-verify --lua-path: a whole model against Lua sources, layer by layer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from samples import SAMPLES
from torch import nn

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.verify import verify

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

LENET = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
RESIDUAL_NET = SAMPLES / "DeepDeblur_release__ResNet_scale" / "model.t7"
#: an nn of our own, written for these tests: the layers of LeNet in a few lines each
PACKAGES = Path(__file__).parent / "packages"
SOURCES = os.environ.get("DPNN_LUA_SOURCES")


def run(*args: object) -> Result:
    return CliRunner().invoke(verify_command, [str(a) for a in args], env={"COLUMNS": "200"})


def test_every_layer_is_compared_forward_and_backward() -> None:
    result = verify(LENET, input=torch.randn(2, 1, 32, 32), lua=LuaBridge(PACKAGES))
    assert result.ok, [d.message for d in result.differences if not d.ok]
    assert result.reference == "the Lua sources"
    names = {d.name.removeprefix(f"{layer.path}.") for layer in result.layers for d in layer.differences}
    assert names == {"output", "gradInput", "gradWeight", "gradBias", "weight", "bias"}
    assert all({"output", "gradInput"} <= {d.name for d in layer.differences} for layer in result.layers)


def test_a_slip_in_one_layer_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "nn"
    folder.mkdir()
    for file in (PACKAGES / "nn").iterdir():
        (folder / file.name).write_text(file.read_text().replace("value > best", "value < best"))
    result = run(LENET, "--input", "2x1x32x32", "--lua-path", tmp_path)
    assert result.exit_code == 4, result.output
    assert "first layer that deviates: modules[3] (nn.SpatialMaxPooling), output: " in result.stdout


def test_what_lua_prints_does_not_disturb_the_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nn"
    folder.mkdir()
    noise = "print('printed', 1) io.write('written\\n')\n"
    (folder / "init.lua").write_text(noise + (PACKAGES / "nn" / "init.lua").read_text())
    result = run(LENET, "--input", "1x1x32x32", "--lua-path", tmp_path, "--json")
    assert json.loads(result.stdout)["ok"] is True
    assert capfd.readouterr() == ("", "printed\t1\nwritten\n")


LUA_CLASS = """
require 'nn'
print('loading')
mine = {}
local Double = torch.class('mine.Double', 'nn.Module')
function Double:updateOutput(x) print('running'); self.output = x * 2; return self.output end
function Double:updateGradInput(x, g) self.gradInput = g * 2; return self.gradInput end
"""
PLUGIN = """
from torch import nn
from dpnn_bridge import LuaClass, lua_class

@lua_class("mine.Double")
class Double(nn.Module):
    def forward(self, x):
        return FACTOR * x

    class Lua(LuaClass):
        scalars = {}
"""


@pytest.fixture
def own_class(tmp_path: Path) -> Path:
    """A folder with a model of a class that mine.lua defines."""
    (tmp_path / "mine.lua").write_text(LUA_CLASS)
    net = dpnn_bridge.to_lua(nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double())
    net["modules"][2] = LuaObject("mine.Double", LuaTable({"train": False, "_type": "torch.DoubleTensor"}))
    dpnn_bridge.write_t7(tmp_path / "net.t7", net)
    return tmp_path


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(("factor", "code"), [(2, 0), (3, 4)])
def test_a_plugin_is_compared_with_the_lua_file_of_its_class(own_class: Path, factor: int, code: int) -> None:
    plugin = own_class / f"times{factor}.py"
    plugin.write_text(PLUGIN.replace("FACTOR", str(factor)))
    lua = ("--lua", own_class / "mine.lua", "--lua-path", PACKAGES)
    result = run(own_class / "net.t7", "--input", "4x3", *lua, "--plugin", plugin)
    assert result.exit_code == code, result.output
    assert ("first layer that deviates: modules[2] (mine.Double)" in result.stdout) == (code == 4)


def test_lua_files_require_packages_of_the_lua_path(own_class: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    packages = tmp_path_factory.mktemp("packages")
    (packages / "factors").mkdir()
    (packages / "factors" / "init.lua").write_text("return {two = 2}")
    source = own_class / "mine.lua"
    source.write_text("local factors = require 'factors'\n" + LUA_CLASS.replace("x * 2", "x * factors.two"))
    result = run(
        own_class / "net.t7", "--input", "4x3", "--lua", source, "--lua-path", PACKAGES, "--lua-path", packages
    )
    assert result.exit_code == 0, result.output


def test_the_sandbox_of_lua_files_is_kept(own_class: Path) -> None:
    lua = ("--lua", own_class / "mine.lua", "--sandbox", "--lua-path", PACKAGES)
    result = run(own_class / "net.t7", "--input", "4x3", *lua)
    assert result.exit_code == 7
    assert "the file that defines the class as --lua without --sandbox" in result.stderr


@pytest.mark.parametrize("sandbox", [(), ("--partial-sandbox",)], ids=["", "sandbox"])
def test_what_a_lua_file_prints_is_not_in_the_result(
    sandbox: tuple[str, ...], own_class: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run(own_class / "net.t7", "--input", "4x3", "--lua", own_class / "mine.lua", *sandbox, "--json")
    assert json.loads(done.stdout)["ok"] is True
    found = capfd.readouterr()
    assert found.out == ""
    assert found.err.startswith("loading\n") or done.stderr.startswith("loading\n")


def test_random_layers_use_the_noise_that_lua_drew(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.3), nn.Tanh(), nn.Linear(40, 3)).double()
    dpnn_bridge.write_t7(tmp_path / "net.t7", net)
    x = torch.randn(5, 6, dtype=torch.float64)
    result = verify(tmp_path / "net.t7", input=x, mode="train", lua=LuaBridge(PACKAGES))
    assert result.ok
    assert {d.name for d in result.layers[2].differences} == {"output", "gradInput"}
    assert result.mode == "train"


@pytest.mark.skipif(not SOURCES, reason="set DPNN_LUA_SOURCES to a folder with checkouts of nn, dpnn, rnn")
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["AdaIN-style__decoder", "dp__convolutionneuralnetwork_Serial"])
def test_architectures_against_the_original_sources(name: str, mode: str) -> None:
    folder = SAMPLES / name
    assert SOURCES is not None
    result = verify(folder / "model.t7", reference=folder / "ref.t7", mode=mode, lua=LuaBridge(SOURCES))
    assert result.ok
    assert len(result.differences) > 50


def test_classes_without_lua_code_are_named() -> None:
    """Without an nn of its own the bridge would compute them with the converted modules: nothing would be compared."""
    with pytest.raises(LuaBridgeError, match=r"no Lua source for nn\.Linear, nn\.LogSoftMax, nn\.Reshape"):
        verify(LENET, input=torch.randn(1, 1, 32, 32), lua=LuaBridge())
    result = run(RESIDUAL_NET, "--input", "1x3x16x16", "--lua-path", PACKAGES)
    assert result.exit_code == 7
    assert "nn.SpatialConvolution: pass a folder" in result.stderr
