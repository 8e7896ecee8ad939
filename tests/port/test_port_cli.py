"""dpnn-convert --into and dpnn-verify --weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.verify import verify_command

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


def test_a_changed_weight_is_named(tmp_path: Path, network: str) -> None:
    out = tmp_path / "out.pt"
    convert(LENET, out, "--into", f"{network}:Net", "-q")
    state = torch.load(out, weights_only=True)
    state["fc1.weight"][3, 5] += 0.01
    torch.save(state, out)
    judged = verify(f"{network}:Net", "--weights", out)
    assert judged.exit_code == 4
    assert "fc1.weight differs" in judged.output


@pytest.mark.parametrize("name", ["Nothing", "Net(open('x'))", "torch"])
def test_what_names_no_network_is_wrong_usage(tmp_path: Path, network: str, name: str) -> None:
    done = convert(LENET, tmp_path / "out.pt", "--into", f"{network}:{name}")
    assert done.exit_code == 2
    assert not (tmp_path / "out.pt").exists()


def test_a_missing_file_and_an_input_of_another_size_are_named(tmp_path: Path, network: str) -> None:
    arguments = [str(LENET), str(tmp_path / "out.pt"), "--input", "2x1x28x28", "--into"]
    missing = CliRunner().invoke(convert_command, [*arguments, "none.py:Net"])
    assert (missing.exit_code, missing.stderr) == (2, "error: none.py: no such file\n")
    small = CliRunner().invoke(convert_command, [*arguments, f"{network}:Net"])
    assert small.exit_code == 5
    assert "error: the Torch7 model fails on the input: RuntimeError" in small.stderr
    assert "check the shape of --input. In Python, source=" in small.stderr
