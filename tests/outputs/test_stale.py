"""A layer of PyTorch that was changed after construction is written as it computes, or refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import dpnn_bridge
from dpnn_bridge.errors import ConversionError

SUFFIXES = (".t7", ".pt", ".safetensors", ".py")


def changed(layer: Any, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def sliced(layer: Any, rows: int) -> nn.Module:
    """Remove outputs of a convolution as a pruning tool does, without an update of its settings."""
    return changed(layer, weight=nn.Parameter(layer.weight[:rows].detach()), bias=nn.Parameter(layer.bias[:rows]))


def fixed(layer: Any) -> nn.Module:
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


def plain(layer: Any) -> nn.Module:
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight
    return layer


STALE = {
    "circular": (changed(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), padding=(2, 2)), "padding_repeated"),
    "reflect": (changed(nn.Conv1d(2, 3, 3, padding="same", padding_mode="reflect"), padding="valid"), "padding_repeat"),
    "pruned": (sliced(nn.Conv1d(2, 6, 3), 4), "its weight has shape (4, 2, 3)"),
    "pruned groups": (sliced(nn.ConvTranspose2d(6, 6, 3, groups=2), 4), "its weight has shape (4, 3, 3, 3)"),
    "kernel": (changed(nn.Conv1d(2, 3, 3), kernel_size=(2,)), "its weight has shape (3, 2, 3)"),
    "groups": (changed(nn.GroupNorm(2, 4), num_channels=5), "its constructor does not accept its settings"),
    "limit": (changed(nn.ReLU6(), max_val=2.0), "its max_val is 2.0"),
    "directions": (changed(nn.GRU(3, 4, bidirectional=True), bidirectional=False), "_weights_names"),
    "statistics": (changed(nn.BatchNorm2d(3), track_running_stats=False), "its running_mean has shape (3,)"),
    "stride": (changed(nn.MaxPool2d(2), stride=None), "its stride is None, and a new layer with its settings has 2"),
    "buffer": (fixed(nn.Conv2d(2, 3, 3)), "its weight is a buffer"),
    "tensor": (plain(nn.Linear(2, 3)), "its weight is a tensor, and a new layer has a parameter"),
    "broadcast": (changed(nn.Linear(2, 3), bias=nn.Parameter(torch.ones(1))), "its bias has shape (1,), but"),
    "affine": (changed(nn.InstanceNorm2d(2, affine=True), affine=False), "its weight has shape (2,), but shape None"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", STALE)
def test_what_the_settings_do_not_describe_is_refused(case: str, suffix: str, tmp_path: Path) -> None:
    layer, message = STALE[case]
    with pytest.raises(ConversionError) as error:
        dpnn_bridge.save(tmp_path / f"net{suffix}", nn.Sequential(nn.Identity(), layer))
    assert message in str(error.value)
    assert error.value.path == "1"
    assert error.value.class_name == type(layer).__name__
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layer", [nn.Linear(2, 3, bias=False), nn.Embedding(3, 2), nn.PReLU(1)], ids=repr)
def test_other_rows_are_refused_unless_the_file_takes_sizes_from_tensors(
    layer: Any, suffix: str, tmp_path: Path
) -> None:
    layer = changed(copy.deepcopy(layer), weight=nn.Parameter(torch.ones(5, *layer.weight.shape[1:])))
    if suffix == ".t7":
        dpnn_bridge.save(tmp_path / "net.t7", nn.Sequential(layer))
    else:
        with pytest.raises(ConversionError, match="its weight has shape"):
            dpnn_bridge.save(tmp_path / f"net{suffix}", nn.Sequential(layer))


class Circular(nn.Conv2d):
    """Changes a setting after the constructor of PyTorch, which ignores the change."""

    def __init__(self) -> None:
        super().__init__(2, 3, 3, padding=1, padding_mode="circular")
        self.padding = (2, 2)


class Limited(nn.ReLU6):
    def __init__(self) -> None:
        super().__init__()
        self.max_val = 2.0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("layer", "message"), [(Circular(), "padding_repeated"), (Limited(), "its max_val is 2.0")])
def test_a_constructor_that_changes_a_setting_is_refused(
    layer: nn.Module, message: str, suffix: str, tmp_path: Path
) -> None:
    if suffix == ".py":
        pytest.skip("a .py file contains the class")
    with pytest.raises(ConversionError, match=message) as error:
        dpnn_bridge.save(tmp_path / f"net{suffix}", nn.Sequential(layer))
    assert "pass the right settings to this constructor" in str(error.value)


class Named(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4))
        self.args = {"lr": 0.1}


class Twice(nn.Upsample):
    def __init__(self) -> None:
        super().__init__(scale_factor=2)


@pytest.mark.parametrize("layer", [Named(), Twice()])
def test_a_subclass_whose_attributes_are_no_settings_is_written(layer: nn.Module) -> None:
    dpnn_bridge.to_lua(layer)


class Encoder(nn.TransformerEncoderLayer):
    def __init__(self) -> None:
        super().__init__(4, 2)


def test_a_subclass_of_a_layer_that_is_not_written_is_refused_as_that_layer() -> None:
    with pytest.raises(ConversionError, match="Torch7 has no layer for TransformerEncoderLayer"):
        dpnn_bridge.to_lua(Encoder())


def test_a_parametrized_weight_of_another_shape_is_refused() -> None:
    layer = changed(parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), kernel_size=(2,))
    with pytest.raises(ConversionError, match="its weight has shape"):
        dpnn_bridge.to_lua(nn.Sequential(layer))


EFFECTIVE: dict[str, tuple[nn.Module, Tensor]] = {
    "padding": (changed(nn.Conv2d(2, 3, 3), padding=(1, 2)), torch.randn(1, 2, 5, 5)),
    "mode": (changed(nn.Conv2d(2, 3, 3, padding=1), padding_mode="circular"), torch.randn(1, 2, 5, 5)),
    "rows": (changed(nn.Linear(3, 4), weight=nn.Parameter(torch.ones(5, 3)), bias=None), torch.randn(2, 3)),
    "stride": (changed(nn.MaxPool2d(2), stride=3), torch.randn(1, 2, 7, 7)),
    "momentum": (changed(nn.BatchNorm1d(3), momentum=0.3), torch.randn(2, 3)),
}


@pytest.mark.parametrize("case", EFFECTIVE)
def test_settings_with_an_effect_are_written(case: str, tmp_path: Path) -> None:
    layer, x = EFFECTIVE[case]
    dpnn_bridge.save(tmp_path / "net.t7", layer.eval())
    torch.testing.assert_close(dpnn_bridge.load(tmp_path / "net.t7")(x), layer(x))


@pytest.mark.filterwarnings("ignore:input's size:UserWarning")
@pytest.mark.parametrize(("kind", "sides"), [(nn.InstanceNorm1d, 1), (nn.InstanceNorm2d, 2), (nn.InstanceNorm3d, 3)])
def test_instance_norm_without_factors_ignores_the_number_of_features(kind: Any, sides: int, tmp_path: Path) -> None:
    x = torch.randn(2, 4, *range(3, 3 + sides))
    dpnn_bridge.save(tmp_path / "net.t7", kind(2))
    torch.testing.assert_close(dpnn_bridge.load(tmp_path / "net.t7")(x), kind(2)(x))


def test_a_norm_of_zero_is_kept(tmp_path: Path) -> None:
    table = nn.Embedding(3, 2, max_norm=1.0, norm_type=0.0)
    dpnn_bridge.save(tmp_path / "net.t7", table)
    assert dpnn_bridge.load(tmp_path / "net.t7").norm_type == 0
