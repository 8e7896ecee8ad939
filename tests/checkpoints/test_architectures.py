"""Published architectures are recognized by the shapes of their weights."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from dpnn_bridge.checkpoints.architectures import Architecture, architecture_of
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.files import converting, summary

LENET = Path(__file__).parents[2] / "fixtures/samples/torch-demos__mnist_convnet/model.t7"


def alexnet(classes: int = 1000, width: int = 384) -> nn.Sequential:
    """The AlexNet of imagenet-multiGPU.torch, without what has no weights."""
    sizes = [(3, 64, 11), (64, 192, 5), (192, width, 3), (width, 256, 3), (256, 256, 3)]
    convolutions = [nn.Conv2d(*size) for size in sizes]
    return nn.Sequential(
        nn.Sequential(*convolutions), nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)
    )


@pytest.mark.parametrize(
    ("classes", "into"), [(1000, "torchvision.models:alexnet"), (7, "torchvision.models:alexnet(num_classes=7)")]
)
def test_shapes_name_an_architecture(classes: int, into: str) -> None:
    with torch.device("meta"):
        found = architecture_of(alexnet(classes))
    assert found is not None
    assert found.into == into
    assert found.input == "1x3x224x224"


def test_one_other_shape_names_none() -> None:
    with torch.device("meta"):
        assert architecture_of(alexnet(width=385)) is None
        assert architecture_of(nn.Sequential(alexnet(), nn.BatchNorm1d(1000))) is None
        assert architecture_of(nn.Sequential(nn.ReLU())) is None


def test_the_next_command_puts_the_weights_into_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = Architecture("torchvision.models:alexnet(num_classes=7)", "1x3x224x224")
    for module in (summary, converting):
        monkeypatch.setattr(module, "architecture_of", lambda model: known)
    command = "--into 'torchvision.models:alexnet(num_classes=7)' --input 1x3x224x224"
    inspected = CliRunner().invoke(inspect_command, [str(LENET)]).output
    assert f"the weights have the shapes of {known.into}" in inspected
    assert f"next: dpnn-convert {LENET} model.pt {command}" in inspected
    converted = CliRunner().invoke(convert_command, [str(LENET), str(tmp_path / "model.pt")]).output
    assert f"note: the weights have the shapes of {known.into}" in converted
    assert command in converted


def test_architectures_are_told_apart() -> None:
    known = json.loads(resources.files("dpnn_bridge.checkpoints").joinpath("architectures.json").read_text())
    assert len({entry["digest"] for entry in known.values()}) == len(known) > 30
