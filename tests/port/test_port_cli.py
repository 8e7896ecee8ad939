"""dpnn-convert --into and dpnn-verify --weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inputs import example_input
from dpnn_bridge.cli.port import example_of, save_weights
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

LENET = Path(__file__).parents[2] / "fixtures/samples/torch-demos__mnist_convnet/model.t7"
NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, stride=2):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.fc1, self.fc2 = nn.Linear(576, 200), nn.Linear(200, 10)
        self.stride = stride

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 3, 3, 1)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2, self.stride, ceil_mode=self.stride == 3)
        return F.log_softmax(self.fc2(torch.tanh(self.fc1(x.flatten(1)))), 1)
"""


@pytest.fixture
def network(tmp_path: Path) -> str:
    path = tmp_path / "my_models.py"
    path.write_text(NETWORK)
    return str(path)


def convert(*args: object) -> Result:
    return CliRunner().invoke(convert_command, [str(a) for a in (*args, "--input", "2x1x32x32")])


def verify(*args: object) -> Result:
    return CliRunner().invoke(verify_command, [str(a) for a in (LENET, *args, "--input", "2x1x32x32")])


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_the_state_dict_of_the_network_is_written_and_judged(tmp_path: Path, network: str, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    done = convert(LENET, out, "--into", f"{network}:Net", "-v")
    assert done.exit_code == 0, done.output
    assert "conv1.weight" in done.output
    assert out.is_file()
    judged = verify(f"{network}:Net(stride=2)", "--weights", out, "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.output)["equal"] is True


def test_a_network_that_differs_is_not_written(tmp_path: Path, network: str) -> None:
    out = tmp_path / "out.pt"
    done = convert(LENET, out, "--into", f"{network}:Net(stride=3)")
    assert done.exit_code == 4
    assert "max_pool2d: stride" in done.output
    assert not out.exists()


def test_a_model_that_changes_meanwhile_is_one_error(
    tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, load = tmp_path / "m.t7", tmp_path / "out.pt", dpnn_bridge.files.load

    def change(*args: object, **options: object) -> nn.Module:
        model.write_bytes(model.read_bytes() + b"\0")
        return load(*args, **options)

    model.write_bytes(LENET.read_bytes())
    monkeypatch.setattr(dpnn_bridge.files, "load", change)
    done = convert(model, out, "--into", f"{network}:Net")
    assert (done.exit_code, "changed while it was read" in done.output) == (3, True)
    assert not out.exists()


def test_a_changed_weight_is_named(tmp_path: Path, network: str) -> None:
    out = tmp_path / "out.pt"
    convert(LENET, out, "--into", f"{network}:Net", "-q")
    state = torch.load(out, weights_only=True)
    state["fc1.weight"][3, 5] += 0.01
    torch.save(state, out)
    judged = verify(f"{network}:Net", "--weights", out)
    assert judged.exit_code == 4
    assert "fc1.weight differs" in judged.output


def test_wrong_weights_are_one_line_with_the_next_step(tmp_path: Path, network: str) -> None:
    judged = verify(f"{network}:Net", "--weights", LENET)
    assert (judged.exit_code, "pass the converted file" in judged.output) == (3, True)
    torch.save({"fc1.weight": torch.zeros(2)}, tmp_path / "a.pt")
    judged = verify(f"{network}:Net", "--weights", tmp_path / "a.pt")
    assert (judged.exit_code, "\\n" in judged.output, judged.output.count("\n")) == (2, False, 1)


@pytest.mark.parametrize(
    "name", ["Nothing", "Net(open('x'))", "torch", "Net(2)(3)", "Net(**{})", "Net(stride=2, stride=2)", "Net({[]: 1})"]
)
def test_what_names_no_network_is_wrong_usage(tmp_path: Path, network: str, name: str) -> None:
    done = convert(LENET, tmp_path / "out.pt", "--into", f"{network}:{name}")
    assert done.exit_code == 2
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nett", "no Nett; did you mean Net?"),
        ("Model", "no Model; it has Net"),
        ("Net.build_it", "no build_it; it has no classes"),
    ],
)
def test_a_missing_name_is_an_error_with_the_names_of_the_file(
    tmp_path: Path, network: str, name: str, message: str
) -> None:
    done = convert(LENET, tmp_path / "out.pt", "--into", f"{network}:{name}")
    assert (done.exit_code, done.stderr) == (2, f"error: {network}: {message}\n")


def test_a_missing_file_and_an_input_of_another_size_are_named(tmp_path: Path, network: str) -> None:
    arguments = [str(LENET), str(tmp_path / "out.pt"), "--input", "2x1x28x28", "--into"]
    missing = CliRunner().invoke(convert_command, [*arguments, "none.py:Net"])
    assert (missing.exit_code, missing.stderr) == (2, "error: none.py: no such file\n")
    endless = CliRunner().invoke(convert_command, [*arguments[:-1], "--into", f"{'n' * 300}.py:Net"])
    assert endless.exit_code == 2
    small = CliRunner().invoke(convert_command, [*arguments, f"{network}:Net"])
    assert small.exit_code == 5
    assert "error: the Torch7 model fails on the input: RuntimeError" in small.stderr
    assert "check the shape of --input. In Python, source=" in small.stderr


def test_the_arguments_of_what_is_a_module_already_are_refused(tmp_path: Path, network: str) -> None:
    Path(network).write_text(f"{NETWORK}\nnet = Net()\n")
    given = convert(LENET, tmp_path / "out.pt", "--into", f"{network}:net(stride=3)")
    assert (given.exit_code, given.stderr) == (
        2,
        f"error: {network}:net(stride=3): net is a module already; omit (stride=3)\n",
    )
    assert convert(LENET, tmp_path / "out.pt", "--into", f"{network}:net").exit_code == 0


@pytest.mark.parametrize("broken", [False, True])
def test_a_file_replaces_no_module_of_its_name(tmp_path: Path, broken: bool) -> None:
    path = tmp_path / "json.py"
    path.write_text(NETWORK + ("\n1 / 0\n" if broken else ""))
    before = set(sys.modules)
    done = convert(LENET, tmp_path / "out.pt", "--into", f"{path}:Net")
    assert done.exit_code == (2 if broken else 0), done.output
    assert sys.modules["json"] is json
    own = {name for name in set(sys.modules) - before if "json" in name}
    assert own == (set() if broken else {"dpnn_bridge_network_json"})


def test_a_network_imports_its_neighbours_whenever_it_needs_them(tmp_path: Path) -> None:
    (tmp_path / "neighbour_at_creation.py").write_text("STRIDE = 2")
    (tmp_path / "neighbour_at_forward.py").write_text("")
    source = NETWORK.replace("super().__init__()", "super().__init__(); from neighbour_at_creation import STRIDE")
    source = source.replace("x = F.max", "import neighbour_at_forward; x = F.max", 1)
    (tmp_path / "my_models.py").write_text(f"import sys\nsys.path.insert(0, 'added by the file')\n{source}")
    before = list(sys.path)
    try:
        done = convert(LENET, tmp_path / "out.pt", "--into", f"{tmp_path / 'my_models.py'}:Net")
        assert done.exit_code == 0, done.output
        assert sys.path == ["added by the file", *before]
    finally:
        sys.path[:] = before


def test_indices_of_shapes_are_random_and_those_of_a_file_are_its_own(tmp_path: Path) -> None:
    net = torch.nn.ModuleList([torch.nn.Embedding(20, 4), torch.nn.Embedding(30, 4)])
    numpy.save(tmp_path / "ones.npy", numpy.ones((2, 3), dtype=numpy.int64))
    read, drawn = example_of([str(tmp_path / "ones.npy"), "2x3:int64"], net)
    assert read.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert drawn.unique().numel() > 1
    one, other = example_of(["2x3:int64", "2x3:int64"], net)
    assert not torch.equal(one, other)
    assert example_of(["9:bool"], net).dtype == torch.bool
    assert example_of(["9:uint8"], net).max() < 20


def test_inputs_of_one_shape_differ() -> None:
    one, other = example_input(["2x3", "2x3"])
    assert not torch.equal(one, other)
    assert torch.equal(one, example_input(["2x3"]))


def test_one_of_several_models_must_be_selected(tmp_path: Path) -> None:
    module = dpnn_bridge.to_lua(nn.Linear(3, 2))
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaTable({"a": module, "b": module.changed()}))
    words = [str(tmp_path / "m.t7"), str(tmp_path / "o.pt"), "--into", "torch.nn:Linear(3,2)", "--input", "1x3"]
    done = CliRunner().invoke(convert_command, words)
    assert (done.exit_code, "contains several models; select one with --key: a, b" in done.stderr) == (2, True)
    assert CliRunner().invoke(convert_command, [*words, "--key", "b"]).exit_code == 0


def test_an_address_is_no_output_of_into() -> None:
    done = convert(LENET, "s3://bucket/o.pt", "--into", "torch.nn:Linear(3,2)")
    assert (done.exit_code, "--into writes a local file" in done.stderr) == (2, True)


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)", "class Net:\n    def __init__(self): raise SystemExit(0)"])
def test_a_network_that_exits_is_not_equal(tmp_path: Path, code: str) -> None:
    """The exit code of the network was that of the command, which had compared nothing."""
    (tmp_path / "script.py").write_text(code)
    result = verify(f"{tmp_path}/script.py:Net")
    assert (result.exit_code, "the code calls sys.exit(0); if the file" in result.stderr) == (2, True)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_state_that_is_no_tensor_is_one_error(tmp_path: Path, suffix: str) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(ConversionError, match=r"expected tensors in the state_dict .* _extra_state is a dict"):
        save_weights(tmp_path / f"out.{suffix}", Counting(2, 2), False)
    assert not list(tmp_path.iterdir())


SCALE = """
import torch
from torch import nn
from dpnn_bridge import LuaClass, lua_class

@lua_class("into.Scale")
class Scale(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.weight

    class Lua(LuaClass):
        tensors = ("weight",)
        sizes = {"weight": "size"}
"""
CUBE_IN_LUA = """
require 'nn'
into = into or {}
local Cube, parent = torch.class('into.Cube', 'nn.Module')
function Cube:updateOutput(x)
   self.output = torch.cmul(x, x):cmul(x)
   return self.output
end
"""
NETWORKS = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.scale = nn.Linear(3, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.fc(x) * self.scale

class Cubed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x) ** 3
"""


@pytest.mark.parametrize(("layer", "network"), [("Scale", "Scaled"), ("Cube", "Cubed")], ids=["--plugin", "--lua"])
def test_a_model_with_classes_of_the_user_is_ported(tmp_path: Path, layer: str, network: str) -> None:
    for name, text in (("scale.py", SCALE), ("cube.lua", CUBE_IN_LUA), ("net.py", NETWORKS)):
        (tmp_path / name).write_text(text)
    linear, weight = nn.Linear(3, 4), torch.rand(4) + 1
    own = LuaObject(f"into.{layer}", LuaTable({"weight": LuaTensor.from_numpy(weight.numpy())}))
    layers = LuaTable.from_list([dpnn_bridge.to_lua(linear), own])
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaObject("nn.Sequential", LuaTable({"modules": layers})))
    model, net, out = tmp_path / "m.t7", f"{tmp_path}/net.py:{network}", tmp_path / "o.pt"
    classes = ("--plugin", tmp_path / "scale.py") if layer == "Scale" else ("--lua", tmp_path / "cube.lua")
    options = (*classes, "--input", "2x3")
    done = CliRunner().invoke(convert_command, [*map(str, (model, out, "--into", net, *options))])
    assert done.exit_code == 0, done.output
    state = torch.load(out)
    assert torch.equal(state["fc.weight"], linear.weight)
    assert layer == "Cube" or torch.equal(state["scale"], weight)
    judged = CliRunner().invoke(verify_command, [*map(str, (model, net, "--weights", out, *options))])
    assert judged.exit_code == 0, judged.output
