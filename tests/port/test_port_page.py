"""The page of a report: both networks side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.porting import PortReport, port_page

NETWORK = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, slope=0.1):
        super().__init__(nn.Conv2d(3, 4, 3), nn.LeakyReLU(slope), nn.Conv2d(4, 2, 3))
"""


class Net(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.first, self.second, self.wrong = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), wrong

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(torch.tanh(x) if self.wrong else F.relu(x))


def page(wrong: bool) -> tuple[PortReport, str]:
    torch.manual_seed(0)
    report = dpnn_bridge.port(Net(False), Net(wrong), torch.randn(2, 3, 6, 6))
    return report, port_page(report, "<model> & net")


def test_equal_networks_are_joined_step_by_step() -> None:
    report, html = page(False)
    assert [step.match for step in report.sides[1]] == [0, 1, 2]
    assert html.count("<rect class=good ") == 6
    assert html.count("<path class=layer ") == 2
    assert "Equal on two inputs" in html
    assert "&lt;model&gt; &amp; net" in html
    assert not re.search(r"https?://(?!www\.w3\.org)", html)


def test_the_deviation_is_marked() -> None:
    _, html = page(True)
    assert html.count("<rect class=bad ") == 1
    assert re.search(r"<title> tanh [^<]*test_port_page\.py:\d+</title><rect class=bad ", html)
    assert html.count("<path class=layer ") == 1


def test_a_long_path_is_cut_between_its_parts() -> None:
    nested = nn.Sequential(nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(3, 2)))))
    example = torch.randn(2, 3)
    lua = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nested))
    assert ">….modules[1].modules[1] linear" in port_page(dpnn_bridge.port(lua, nested, example), "net")


@pytest.mark.parametrize("suffix", ["html", "json"])
def test_the_command_writes_it(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "my_models.py").write_text(NETWORK)
    torch.manual_seed(0)
    dpnn_bridge.save(tmp_path / "m.t7", nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 3)))
    report = tmp_path / f"report.{suffix}"
    into = f"{tmp_path / 'my_models.py'}:Net"
    options = ["--into", into, "--input", "2x3x6x6", "--report", str(report)]
    done = CliRunner().invoke(convert_command, [str(tmp_path / "m.t7"), str(tmp_path / "out.pt"), *options])
    assert done.exit_code == 4, done.output
    text = report.read_text()
    assert "negative_slope" in (text if suffix == "html" else json.loads(text)["first"]["reason"])
