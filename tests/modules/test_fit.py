"""Layers that do not fit together: the report names them, and running says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.modules.fit import channel_warnings
from dpnn_bridge.modules.nn import Concat, CReLU
from dpnn_bridge.modules.nn.padding import Padding


def branch(planes: int, normalised: int) -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, planes, 3), nn.LeakyReLU(), nn.BatchNorm2d(normalised))


def test_batch_normalization_of_too_few_planes_is_noted_with_its_place(tmp_path: Path) -> None:
    net = nn.Sequential(Concat(branch(8, 8), branch(8, 4), dimension=2), nn.ReLU(), nn.BatchNorm2d(12))
    dpnn_bridge.write_t7(tmp_path / "net.t7", to_lua(net))
    report = dpnn_bridge.convert(tmp_path / "net.t7", tmp_path / "net.pt")
    (note,) = report.notes
    assert note.startswith(
        "modules[1].modules[2].modules[4] is a batch normalization of 4 channels, but its input has 8"
    )
    assert "1 more: modules[3])" in note
    found = dpnn_bridge.inspect(tmp_path / "net.t7")
    assert (found.models[0].notes, f"note: {note}" in str(found)) == ([note], True)
    with pytest.raises(ValueError, match=r"expected 4 channels in dimension 1, found .*2, 8, 5, 5"):
        dpnn_bridge.load(tmp_path / "net.pt")(torch.rand(2, 3, 5, 5))


@pytest.mark.parametrize("dimension", [2, 3])
def test_what_fits_or_is_not_known_gives_no_note(dimension: int) -> None:
    sides = Concat(branch(8, 8), branch(8, 8), dimension=dimension)
    assert channel_warnings(nn.Sequential(sides, nn.BatchNorm2d(8 * (4 - dimension)))) == []
    assert channel_warnings(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2), nn.BatchNorm2d(1))) == []


@pytest.mark.parametrize(
    ("layer", "channels"), [(nn.GLU(1), 2), (CReLU(nn.Identity(), n_input_dims=3), 8), (Padding(2, 3), 7)]
)
def test_layers_that_change_the_channels_give_no_note(layer: nn.Module, channels: int) -> None:
    assert channel_warnings(nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.BatchNorm2d(channels))) == []


@pytest.mark.parametrize("training", [False, True])
def test_a_single_image_of_other_planes_is_refused(training: bool) -> None:
    net = to_torch(to_lua(nn.BatchNorm2d(3).train(training)))
    with pytest.raises(ValueError, match=r"expected 3 channels in dimension 0" if not training else "expected"):
        net(torch.rand(2, 5, 5))


def test_parameters_of_several_types_are_noted_with_one_of_each(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2).double())
    dpnn_bridge.write_t7(tmp_path / "net.t7", to_lua(net))
    (note,) = dpnn_bridge.convert(tmp_path / "net.t7", tmp_path / "net.pt").notes
    assert "torch.float32 (0.weight), torch.float64 (2.weight)" in note
