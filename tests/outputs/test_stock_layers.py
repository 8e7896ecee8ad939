"""What PyTorch made comes back from ``.pt`` as it was: same type, same settings, same numbers on inputs of any rank."""

from __future__ import annotations

import copy
import itertools
import pickle
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES
from pytorch_layers import LAYERS, LOSSES, REFUSED, WITH_EXAMPLE
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import dpnn_bridge
from dpnn_bridge.conversion import to_lua
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.modules.nnx.simple import Balance
from dpnn_bridge.outputs import container

STOCK = {
    " ".join(repr(layer).split()): layer
    for layer, *_ in (*LAYERS, *WITH_EXAMPLE, *REFUSED)
    if not layer._modules and not any(isinstance(p, nn.UninitializedParameter) for p in layer.parameters())
}
SHAPES = [
    sizes for d in range(1, 6) for sizes in itertools.product((2, 4, 7), repeat=d) if d < 4 or len(set(sizes)) == 1
]
SHAPES += [(2, 4, 8, 8), (4, 3, 8, 7), (2, 4, 6, 6, 6)]


def saved(module: nn.Module) -> Any:
    return container.unpack(container.pack(module), Options())[0]


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)  # some layers draw
    y = layer(x)
    found: list[Any] = [y]
    while any(isinstance(v, (tuple, list)) for v in found):
        found = [w for v in found for w in (v if isinstance(v, (tuple, list)) else [v])]
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("text", STOCK)
def test_layers_compute_the_same_on_inputs_of_every_rank(text: str) -> None:
    layer = copy.deepcopy(STOCK[text]).double()
    back = saved(layer)
    assert type(back) is type(layer)
    assert repr(back) == repr(layer)
    assert back.training == layer.training
    for shape in SHAPES:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        try:
            expected = results(layer, x)
        except Exception:  # not of a rank that the layer takes
            continue
        for a, b in zip(results(back, x), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{shape}: {m}")  # noqa: B023


@pytest.mark.parametrize("kind", [nn.Softmax, nn.LogSoftmax, nn.Softmin])
@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_softmax_keeps_its_dimension_in_a_file(tmp_path: Path, kind: Any, dims: int) -> None:
    x = torch.randn(2, 3, 4, 5).flatten(dims - 1)
    for dim in range(-dims, dims):
        net = nn.Sequential(nn.Identity(), kind(dim))
        dpnn_bridge.save(tmp_path / "net.pt", net, force=True)
        assert torch.equal(dpnn_bridge.load(tmp_path / "net.pt")(x), net(x))


@pytest.mark.parametrize(("loss", "arguments"), LOSSES, ids=lambda case: type(case).__name__)
def test_losses_keep_their_weights(loss: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    assert torch.equal(saved(loss)(*arguments), loss(*arguments))


def test_layers_of_files_and_of_pytorch_share_their_weights() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.GroupNorm(2, 4), nn.LSTM(4, 5), nn.Linear(4, 5, bias=False))
    net[3].weight = net[0].weight
    back = saved(net)
    assert back[3].weight is back[0].weight
    assert [n for n, _ in back.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert [m.class_name for m in to_lua(nn.Sequential(back[3]))["modules"].as_list()] == ["nn.Linear"]


def test_modes_and_frozen_statistics_are_kept() -> None:
    net: Any = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.4))
    net[0].eval()
    with torch.no_grad():
        net[0].running_mean.fill_(2)
    back = saved(net)
    assert (back[0].training, back[1].training) == (False, True)
    assert torch.equal(back[0].running_mean, net[0].running_mean)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".safetensors.index.json"])
def test_frozen_parameters_stay_frozen(suffix: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    net[1].bias.requires_grad_(False)
    dpnn_bridge.save(tmp_path / f"net{suffix}", net)
    back = dpnn_bridge.load(tmp_path / f"net{suffix}")
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in net.parameters()]


def with_attribute(layer: Any, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


class Shifted(nn.Conv2d):
    """A layer of a user that computes more than the one it is a class of."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


UNKEPT = [
    (parametrizations.spectral_norm(nn.Linear(3, 4)), "remove_parametrizations"),
    (parametrizations.weight_norm(nn.LSTM(3, 4), "weight_ih_l0"), "remove_parametrizations"),
    (parametrizations.weight_norm(parametrizations.spectral_norm(nn.Linear(3, 4))), "remove_parametrizations"),
    (weight_norm(nn.Linear(4, 4)), "remove_weight_norm"),
    (with_attribute(nn.ReLU(), scale=3.0), "its scale is 3.0"),
    (nn.TripletMarginWithDistanceLoss(distance_function=torch.dist), "arguments of a torch.nn layer as JSON"),
    (with_attribute(nn.Linear(3, 4), weight=nn.Parameter(torch.ones(4, 5))), "its weight has shape (4, 5)"),
    (nn.LazyLinear(3), "run the model once"),
    (nn.DataParallel(nn.Linear(3, 4)), "save its .module"),
    (torch.optim.swa_utils.AveragedModel(nn.Linear(3, 4)), "save its .module"),
    (nn.MultiheadAttention(4, 2), "state_dict"),
    (Shifted(3, 4, 2), "differs from the forward of Conv2d"),
]


@pytest.mark.parametrize(("layer", "message"), UNKEPT, ids=lambda case: type(case).__name__)
def test_what_a_pt_file_cannot_keep_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ConversionError) as error:
        container.pack(nn.Sequential(layer))
    assert message in str(error.value)


def test_a_class_with_a_forward_of_its_own_is_not_written_as_its_parent() -> None:
    with pytest.raises(ConversionError, match="differs from the forward of Conv2d"):
        to_lua(Shifted(3, 4, 2))


NORMED = [
    parametrizations.weight_norm(nn.Linear(3, 4)),
    parametrizations.weight_norm(nn.Linear(3, 4, bias=False), dim=1),
    parametrizations.weight_norm(nn.Bilinear(3, 3, 4), dim=None),  # type: ignore[arg-type]
    parametrizations.weight_norm(nn.Conv1d(3, 4, 1, padding_mode="circular")),
    parametrizations.weight_norm(parametrizations.weight_norm(nn.Linear(3, 4)), "bias"),
]


@pytest.mark.parametrize("layer", NORMED, ids=lambda layer: layer.extra_repr())
def test_weight_norm_of_pytorch_is_kept_as_it_is(layer: nn.Module) -> None:
    back = saved(layer)
    x = [torch.randn(3, 3)] * (2 if isinstance(layer, nn.Bilinear) else 1)
    assert repr(back) == repr(layer)
    assert back.state_dict().keys() == layer.state_dict().keys()
    assert torch.equal(back(*x), layer(*x))
    assert torch.equal(copy.deepcopy(back)(*x), pickle.loads(pickle.dumps(back))(*x))
    assert saved(back).state_dict().keys() == layer.state_dict().keys()


@pytest.mark.parametrize("suffix", [".pt", ".t7", ".py", ".npz"])
def test_a_layer_with_weight_norm_is_equal_to_its_files(suffix: str, tmp_path: Path) -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    for name in (".safetensors", suffix):
        dpnn_bridge.save(tmp_path / f"m{name}", net)
    found = dpnn_bridge.verify(tmp_path / "m.safetensors", tmp_path / f"m{suffix}", input=torch.randn(2, 3))
    assert found.ok, found.differences


@pytest.mark.parametrize("kind", [nn.ModuleList, nn.ModuleDict])
def test_an_argument_with_the_name_of_a_method(kind: type[nn.Module]) -> None:
    assert type(saved(kind())) is kind


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".py"])
def test_settings_that_are_numbers_of_numpy_or_lists(suffix: str, tmp_path: Path) -> None:
    size: Any = np.prod([4, 3, 6])
    net = nn.Sequential(nn.Conv2d(np.int64(3), 4, np.int64(3)), nn.MaxPool2d([2, 1]), nn.LeakyReLU(np.float64(0.2)))  # type: ignore[arg-type]
    net.extend([nn.Flatten(), nn.Linear(size, 2)])
    x = torch.randn(2, 3, 8, 8)
    dpnn_bridge.save(tmp_path / f"m{suffix}", net.eval(), input=x if suffix != ".pt" else None)
    if suffix != ".py":  # whose outputs were compared
        torch.testing.assert_close(dpnn_bridge.load(tmp_path / f"m{suffix}")(x), net(x))
    assert net[4].in_features is size  # the model is as it was
    assert net[1].kernel_size == [2, 1]


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors", ".py"])
def test_a_weight_that_is_a_buffer_does_not_become_a_parameter(suffix: str, tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    with pytest.raises(ConversionError, match="weight is a buffer, and"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", nn.Sequential(layer))


def test_metadata_are_plain_data(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="metadata=: expected numbers"):
        dpnn_bridge.save(tmp_path / "m.pt", nn.Linear(3, 2), metadata={"of": object()})
    with pytest.raises(OptionError, match="empty bytes"):
        dpnn_bridge.save(tmp_path / "m.pt", nn.Linear(3, 2), metadata={"of": [b"a", b""]})


SAVED = [
    nn.ReLU(inplace=True),
    nn.ELU(inplace=True),
    nn.Dropout(inplace=True),
    nn.Threshold(0.1, 0.0, inplace=True),
    nn.PReLU(init=-0.2),
    nn.Conv2d(3, 4, (1, 3), padding="same"),
    nn.Conv3d(3, 4, 2, padding="valid"),
    nn.AvgPool3d(3, count_include_pad=False),
]


@pytest.mark.parametrize("layer", SAVED, ids=str)
def test_layers_with_settings_that_lua_expresses_otherwise_are_saved(layer: nn.Module, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Sequential(layer, layer))
    loaded = dpnn_bridge.load(tmp_path / "m.t7")
    for module in loaded.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
    for suffix in (".t7", ".pt", ".safetensors"):
        dpnn_bridge.save(tmp_path / f"again{suffix}", loaded)


def test_a_layer_is_compared_with_one_new_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    net, made = nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(4, 3)), []
    for kind in (nn.GroupNorm, nn.Linear):
        monkeypatch.setattr(kind, "reset_parameters", lambda layer: made.append(type(layer)))
    container.pack(net)
    assert made == [nn.GroupNorm, nn.Linear]


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors", ".py"])
def test_layers_that_share_a_buffer_are_written_again_after_loading(suffix: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    net[1].running_mean = net[0].running_mean
    dpnn_bridge.save(tmp_path / f"again{suffix}", saved(net))


EMPTY = [(nn.Linear, 6, 0), (nn.Embedding, 0, 3), (nn.Conv2d, 2, 0, 1), (nn.BatchNorm1d, 0), (nn.LayerNorm, 0)]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("call", EMPTY, ids=lambda call: call[0].__name__)
def test_a_layer_without_elements_is_refused_by_every_writer(call: Any, tmp_path: Path) -> None:
    kind, *sizes = call
    layer = kind(*sizes)
    for write in (container.pack, to_lua, partial(dpnn_bridge.save, tmp_path / "m.t7")):
        with pytest.raises(ConversionError, match=r"0.*its \w+ has shape \(.*0.*\), and a tensor without elements"):
            write(nn.Sequential(layer))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".py"])
def test_a_setting_with_another_name_than_its_argument_is_kept(suffix: str, tmp_path: Path) -> None:
    layer = nn.PairwiseDistance(3, eps=1e-3)
    dpnn_bridge.save(tmp_path / f"net{suffix}", layer)
    if suffix == ".py":
        back = runpy.run_path(str(tmp_path / "net.py"))["build"]()
    else:
        back = dpnn_bridge.load(tmp_path / f"net{suffix}")
    x, y = torch.rand(2, 4), torch.rand(2, 4)
    assert torch.equal(back(x, y), layer(x, y))


@pytest.mark.parametrize("suffix", [".pt", ".t7"])
def test_another_layer_may_have_an_empty_buffer(suffix: str, tmp_path: Path) -> None:
    """The buffer of ``nn.Balance`` is empty until the layer runs in training mode."""
    dpnn_bridge.save(tmp_path / f"m{suffix}", nn.Sequential(Balance(3)))
    assert [b.numel() for b in dpnn_bridge.load(tmp_path / f"m{suffix}").buffers()] == [0]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_parameters_that_their_class_freezes_may_be_trained(suffix: str, tmp_path: Path) -> None:
    file = min((FIXTURES / "nn" / "nn.SpatialSubtractiveNormalization").glob("*.t7"))
    net = dpnn_bridge.to_torch(dpnn_bridge.read_t7(file)["module"])
    for trained in (True, False):
        net.requires_grad_(trained)
        dpnn_bridge.save(tmp_path / f"net{suffix}", net)
        assert {p.requires_grad for p in dpnn_bridge.load(tmp_path / f"net{suffix}").parameters()} == {trained}
