"""Convolution, pooling and normalization: what fixtures of single layers do not show."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from formula import lua
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from dpnn_bridge import parity, to_lua, to_torch, training
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.batch_normalization import accept_single_samples
from dpnn_bridge.modules.nn.convolution_special import SpatialDepthWiseConvolution
from dpnn_bridge.modules.nn.linear import Euclidean
from dpnn_bridge.modules.nn.pooling import DilatedMaxPool2d
from dpnn_bridge.objects import LuaObject, LuaTable


def pooled(**fields: Any) -> LuaObject:
    return lua("nn.SpatialMaxPooling", kW=2, kH=2, dW=2, dH=2, padW=0, padH=0, ceil_mode=False, **fields)


# ---------------------------------------------------------------------- stock modules
@pytest.mark.parametrize(
    ("obj", "stock"),
    [
        (
            lua("nn.SpatialConvolutionMM", kW=3, kH=3, nInputPlane=2, nOutputPlane=4, weight=torch.randn(4, 18)),
            nn.Conv2d,
        ),
        (
            lua("nn.SpatialFullConvolution", kW=3, kH=3, nInputPlane=2, nOutputPlane=4, weight=torch.randn(2, 4, 3, 3)),
            nn.ConvTranspose2d,
        ),
        (pooled(), nn.MaxPool2d),
        (lua("nn.SpatialAveragePooling", kW=3, kH=3, dW=1, dH=1, ceil_mode=True, divide=True), nn.AvgPool2d),
        (lua("nn.SpatialZeroPadding", pad_l=1, pad_r=1, pad_t=1, pad_b=1), nn.ZeroPad2d),
        (lua("nn.PixelShuffle", upscaleFactor=2, upscaleFactorSquared=4), nn.PixelShuffle),
    ],
    ids=lambda v: v.class_name if isinstance(v, LuaObject) else "",
)
def test_torch_knows_the_module(obj: LuaObject, stock: type[nn.Module]) -> None:
    assert type(to_torch(obj)) is stock


def test_repetition_without_a_factor_is_refused_as_in_torch7() -> None:
    with pytest.raises(ConversionError, match="requires a scale_factor"):
        to_torch(lua("nn.UpSampling", mode="nearest", oheight=4, owidth=6))


def test_convolution_of_the_first_versions_lacks_most_fields() -> None:
    weight, bias = torch.randn(4, 18), torch.randn(4)
    old = lua("nn.SpatialConvolutionMM", kW=3, kH=3, nInputPlane=2, nOutputPlane=4, weight=weight, bias=bias)
    x = torch.randn(2, 2, 6, 5)
    assert torch.equal(to_torch(old)(x), F.conv2d(x, weight.view(4, 2, 3, 3), bias))
    written = to_lua(to_torch(old))
    assert [written[name] for name in ("dW", "dH", "padW", "padH")] == [1, 1, 0, 0]
    assert written["weight"].shape == written["gradWeight"].shape == (4, 18)


def test_padding_of_the_first_versions_is_one_number() -> None:
    weight = torch.randn(1, 1, 3, 3)
    old = lua("nn.SpatialConvolution", kW=3, kH=3, dW=1, dH=1, padding=1, nInputPlane=1, nOutputPlane=1, weight=weight)
    module = to_torch(old)
    assert module.padding == (1, 1)
    assert "padding" not in to_lua(module)


# ---------------------------------------------------------------------- a second input gives the size
@pytest.mark.parametrize("wanted", [(7, 9), (8, 10)])
def test_transposed_convolution_takes_the_size_from_a_second_input(wanted: tuple[int, int]) -> None:
    module = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    converted = to_torch(to_lua(module))
    x, target = torch.randn(1, 2, 4, 5), torch.randn(1, 1, *wanted)
    assert type(converted) is nn.ConvTranspose2d
    assert torch.equal(converted([x, target]), module(x, output_size=wanted))
    assert torch.equal(converted(x), module(x))
    assert torch.equal(copy.deepcopy(converted)([x, target]), converted([x, target]))


# ---------------------------------------------------------------------- unpooling
def test_unpooling_uses_the_maxima_of_its_pooling() -> None:
    pooling = pooled()
    net: Any = to_torch(lua("nn.Sequential", pooling, lua("nn.Tanh"), lua("nn.SpatialMaxUnpooling", pooling=pooling)))
    assert type(net[0]) is nn.MaxPool2d
    for shape in [(2, 3, 4, 6), (3, 5, 7)]:
        x = torch.randn(shape, requires_grad=True)
        values, indices = F.max_pool2d(x, 2, return_indices=True)
        expected = F.max_unpool2d(values.tanh(), indices, [2, 2], output_size=shape[-2:])
        output = net(x)
        assert torch.equal(output, expected)
        grad = torch.randn(shape)
        (expected_grad,) = torch.autograd.grad(expected, x, grad)
        assert torch.equal(torch.autograd.grad(output, x, grad)[0], expected_grad)


def test_copies_of_a_network_unpool_with_their_own_pooling() -> None:
    pooling = pooled()
    net: Any = to_torch(lua("nn.Sequential", pooling, lua("nn.SpatialMaxUnpooling", pooling=pooling)))
    other: Any
    for other in (copy.deepcopy(net), to_torch(to_lua(net))):
        assert other[1].pooling is other[0] is not net[0]
        net(torch.randn(1, 1, 4, 4))
        x = torch.randn(1, 1, 6, 6)
        assert other(x).shape == x.shape


def test_volumetric_indices_are_written_as_offsets_in_the_window() -> None:
    fields = {f"{k}{d}": 2 if k != "pad" else 0 for k in ("k", "d", "pad") for d in "TWH"}
    pooling = lua("nn.VolumetricMaxPooling", version=2, ceil_mode=False, **fields)
    net: Any = to_torch(lua("nn.Sequential", pooling, lua("nn.VolumetricMaxUnpooling", pooling=pooling)))
    x = torch.randn(1, 2, 4, 4, 6)
    output = net(x)
    again: Any = to_torch(to_lua(net))
    stored = to_lua(net)["modules"][1]["indices"].numpy()
    assert stored.max() < 1 << 18
    assert ((stored & 255) < 2).all()
    assert torch.equal(again[1](F.max_pool3d(x, 2)), output)


def test_unpooling_before_pooling_says_what_is_missing() -> None:
    unpooling = to_torch(lua("nn.SpatialMaxUnpooling", pooling=pooled()))
    with pytest.raises(RuntimeError, match=r"MaxPool2d.*run this pooling before"):
        unpooling(torch.randn(1, 1, 2, 2))


# ---------------------------------------------------------------------- average pooling
@pytest.mark.parametrize(("flag", "divisor"), [(0, None), (False, 1)])
def test_a_0_is_false_for_the_kernel_and_true_for_lua(flag: Any, divisor: int | None) -> None:
    flags = {"divide": flag, "ceil_mode": flag, "count_include_pad": flag}
    pooling = to_torch(lua("nn.SpatialAveragePooling", kW=3, kH=3, dW=1, dH=1, **flags))
    assert type(pooling) is nn.AvgPool2d
    assert (pooling.divisor_override, pooling.ceil_mode, pooling.count_include_pad) == (divisor, False, False)


def test_undivided_average_is_not_a_sum_where_windows_are_cut() -> None:
    fields = {"kW": 3, "kH": 3, "dW": 2, "dH": 2, "padW": 0, "padH": 0, "count_include_pad": True}
    x = torch.randn(1, 1, 6, 6)
    cut = to_torch(lua("nn.SpatialAveragePooling", **fields, ceil_mode=True, divide=False))
    assert torch.allclose(cut(x), F.avg_pool2d(x, 3, 2, ceil_mode=True) * 9)
    whole = to_torch(lua("nn.SpatialAveragePooling", **fields, ceil_mode=False, divide=False))
    assert type(whole) is nn.AvgPool2d
    assert torch.allclose(whole(x), F.avg_pool2d(x, 3, 2) * 9)
    assert to_lua(cut)["divide"] is to_lua(whole)["divide"] is False


def test_inn_pools_in_ceil_mode_whatever_the_file_says() -> None:
    old = lua("inn.SpatialMaxPooling", kW=2, kH=2, dW=2, dH=2, ceil_mode=False)
    assert to_torch(old)(torch.randn(1, 1, 5, 5)).shape == (1, 1, 3, 3)


# ---------------------------------------------------------------------- batch normalization
def batch_norm(**fields: Any) -> LuaObject:
    mean, variance = torch.randn(3), torch.rand(3) + 0.5
    fields = {"running_mean": mean, "running_var": variance, "weight": torch.randn(3), "bias": torch.randn(3), **fields}
    return lua("nn.SpatialBatchNormalization", version=2, eps=1e-5, momentum=0.1, affine=True, **fields)


def test_batch_of_one_that_raises_leaves_the_mode() -> None:
    layer = to_torch(to_lua(nn.BatchNorm2d(2)))
    with pytest.raises((RuntimeError, TypeError)):
        layer(torch.zeros(1, 2, 3, 3, dtype=torch.complex64))
    assert layer.training
    layer(torch.randn(4, 2, 3, 3))
    assert not torch.equal(layer.running_mean, torch.zeros(2))


def test_batch_of_one_is_normalised_with_the_running_statistics() -> None:
    module: Any = to_torch(batch_norm())
    assert isinstance(module, nn.BatchNorm2d)
    assert module.training
    x, before = torch.randn(1, 3, 4, 4), copy.deepcopy(module.state_dict())
    output = module(x)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values(), strict=True))
    assert torch.allclose(output, module.eval()(x))
    assert module(x[0]).shape == (1, 3, 4, 4)


def test_other_batches_are_torchs() -> None:
    module: Any = to_torch(batch_norm())
    stock: Any = nn.BatchNorm2d(3)
    stock.load_state_dict(module.state_dict())
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(module(x), stock(x))
    assert torch.equal(module.running_var, stock.running_var)


def test_single_sample_is_refused_in_training() -> None:
    with pytest.raises(ValueError, match="4D"):
        to_torch(batch_norm())(torch.randn(3, 4, 4))


@pytest.mark.parametrize("statistics", [{}, {"running_mean": torch.empty(0), "running_std": torch.empty(0)}])
@pytest.mark.parametrize("name", ["nn.BatchNormalization", "nn.SpatialBatchNormalization"])
def test_an_old_normalization_before_its_first_batch_is_as_new(name: str, statistics: dict) -> None:
    fields = {"eps": 1e-5, "momentum": 0.1, "affine": True, **statistics}
    obj = lua(name, train=True, weight=torch.tensor([1.0, 2.0, 3.0]), bias=torch.ones(3), **fields)
    module = to_torch(obj)
    fresh = type(module)(3)
    fresh.load_state_dict({**fresh.state_dict(), "weight": module.weight, "bias": module.bias})
    x = torch.randn(5, 3, *[2, 2][: 2 * ("Spatial" in name)])
    assert torch.equal(module(x), fresh(x))
    assert torch.equal(module.running_var, fresh.running_var)
    written = to_lua(module)
    assert {"running_mean", "running_var"} <= dict(written).keys()
    assert "running_std" not in written
    with pytest.raises(ConversionError, match="number of channels is unknown"):
        to_torch(lua(name, train=True, **{**fields, "affine": False}))


def test_fbcunn_keeps_the_inverse_deviation() -> None:
    std = torch.tensor([0.5, 1.0, 2.0])
    fields = {"running_mean": torch.zeros(3), "running_std": std, "eps": 1e-3, "momentum": 0.1, "affine": False}
    module = to_torch(lua("fbnn.SpatialBatchNormalization", train=False, **fields))
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(module(x), x * std.view(-1, 1, 1))
    assert np.allclose(to_lua(module)["running_std"].numpy(), std.numpy())
    assert "running_var" not in to_lua(module)


# ---------------------------------------------------------------------- weight normalization
def weight_norm() -> Any:
    inner = lua("nn.TemporalConvolution", inputFrameSize=4, outputFrameSize=3, kW=2, dW=1, bias=torch.randn(3))
    fields = {"v": torch.randn(3, 8), "g": torch.randn(3, 1), "bias": torch.randn(3), "outputDim": 1}
    sizes = size_storage([3, 8])
    return to_torch(lua("nn.WeightNorm", inner, weightSize=sizes, **fields))


def test_weight_norm_lists_direction_length_and_bias() -> None:
    module = weight_norm()
    assert [tuple(p.shape) for p in training.parameters(module)[0]] == [(3, 8), (3, 1), (3,)]
    assert len(list(module.parameters())) == 3


def test_copy_of_weight_norm_is_independent() -> None:
    module = weight_norm()
    x = torch.randn(2, 5, 4)
    before = module(x)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    assert torch.equal(module(x), before)
    assert not torch.allclose(other(x), before)


@pytest.mark.parametrize("make", [weight_norm, lambda: pickle.loads(pickle.dumps(weight_norm()))])
def test_weight_norm_can_be_baked_into_the_weight(make: Any) -> None:
    module, other = make(), weight_norm()
    x = torch.randn(2, 5, 4)
    before = module(x)
    parametrize.remove_parametrizations(module.module, "weight")
    assert torch.allclose(module(x), before)
    assert parametrize.is_parametrized(other.module)


def test_directions_of_weight_norm_have_the_shape_of_the_weight() -> None:
    parameters = dict(weight_norm().module.parametrizations.weight.named_parameters())
    assert [tuple(p.shape) for p in parameters.values()] == [(3, 1, 1), (3, 4, 2)]


# ---------------------------------------------------------------------- modules that came from no file
@pytest.mark.parametrize(
    ("module", "class_name"),
    [
        (nn.Conv2d(4, 4, 3), "nn.SpatialConvolution"),
        (nn.Conv2d(4, 4, 3, groups=2), "nn.Concat"),
        (nn.Conv2d(4, 4, 3, dilation=2, groups=2), "nn.Concat"),
        (nn.ConvTranspose2d(4, 4, 3, groups=2), "nn.Concat"),
        (nn.Conv2d(4, 4, 3, padding="same"), "nn.SpatialConvolution"),
        (nn.Conv2d(4, 4, 3, padding_mode="reflect"), "nn.Sequential"),
        (nn.AvgPool2d(2, divisor_override=3), "nn.Sequential"),
        (nn.Conv2d(4, 4, 3, dilation=2), "nn.SpatialDilatedConvolution"),
        (nn.Conv3d(4, 4, 3, dilation=2), "nn.VolumetricDilatedConvolution"),
        (nn.MaxPool2d(3), "nn.SpatialMaxPooling"),
        (nn.MaxPool2d(3, dilation=2), "nn.SpatialDilatedMaxPooling"),
        (nn.AvgPool3d(2), "nn.VolumetricAveragePooling"),
        (nn.BatchNorm2d(4), "nn.SpatialBatchNormalization"),
    ],
    ids=repr,
)
def test_written_as_the_class_that_holds_the_settings(module: nn.Module, class_name: str) -> None:
    written = to_lua(module.eval())
    assert written.class_name == class_name
    x = torch.randn(2, 4, *[7] * (3 if "3d" in repr(module) else 2))
    torch.testing.assert_close(to_torch(written)(x), module(x))


@pytest.mark.parametrize(
    "module",
    [
        nn.AvgPool3d(3, ceil_mode=True),
        nn.AvgPool2d(2, ceil_mode=True, divisor_override=3),
    ],
    ids=repr,
)
def test_settings_that_no_lua_class_has_are_refused(module: nn.Module) -> None:
    with pytest.raises(ConversionError, match=r"Torch7 has no layer for .* can be exported"):
        to_lua(module)


# ---------------------------------------------------------------------- the GPU's own layouts
def test_cuda_convnets_layout() -> None:
    weight = torch.randn(2, 3, 3, 4)
    fields = {"nInputPlane": 2, "nOutputPlane": 4, "kW": 3, "kH": 3, "padding": 1, "weight": weight}
    module = to_torch(lua("nn.SpatialConvolutionCUDA", **fields))
    x = torch.randn(2, 6, 5, 7)
    expected = F.conv2d(x.permute(3, 0, 1, 2), weight.permute(3, 0, 1, 2), padding=1)
    assert torch.allclose(module(x), expected.permute(1, 2, 3, 0), atol=1e-6)
    assert to_lua(module)["padding"] == 1
    assert np.array_equal(to_lua(module)["weight"].numpy(), weight.numpy())


def test_cuda_convnets_max_pooling() -> None:
    module = to_torch(lua("nn.SpatialMaxPoolingCUDA", kW=2, kH=2, dW=1, dH=1, indices=torch.Tensor()))
    x = torch.tensor([[3.0, 1, 0], [3, 2, 0], [0, 5, 0]]).reshape(1, 3, 3, 1).requires_grad_()
    y = module(x)
    assert y.flatten().tolist() == [3, 2, 5, 5]
    y.backward(torch.tensor([1.0, 2, 4, 8]).reshape(y.shape))
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 0, 0, 1, 2, 0, 0, 12, 0]  # a window has 3 twice
    assert torch.equal(module(x.detach()), y)
    written = to_lua(module)
    assert [written[name] for name in ("kW", "kH", "dW", "dH")] == [2, 2, 1, 1]
    with pytest.raises(ValueError, match=r"expected square images .* found \(1, 3, 2, 1\)"):
        module(x[:, :, :2])
    with pytest.raises(ConversionError, match="expected a square kernel_size, found 2 x 3"):
        to_torch(lua("nn.SpatialMaxPoolingCUDA", kW=3, kH=2, dW=1, dH=1))


def test_fft_convolution_is_a_convolution() -> None:
    weight = torch.randn(4, 2, 3, 3)
    fields = {"nInputPlane": 2, "nOutputPlane": 4, "kW": 3, "kH": 3, "padLeft": 1, "padUp": 0, "weight": weight}
    module = to_torch(lua("nn.SpatialConvolutionFBFFT", **fields))
    x = torch.randn(1, 2, 6, 5)
    assert type(module) is nn.Conv2d
    assert torch.equal(module(x), F.conv2d(x, weight, padding=(0, 1)))


# ---------------------------------------------------------------------- what mutants showed to be untested
def test_a_window_that_starts_beyond_the_input_is_no_window() -> None:
    x = torch.randn(1, 1, 2, 2)
    settings: dict[str, Any] = {"stride": (5, 5), "padding": (1, 1), "dilation": (2, 2), "ceil_mode": True}
    assert DilatedMaxPool2d((2, 2), **settings)(x).shape == nn.MaxPool2d((2, 2), **settings)(x).shape == (1, 1, 1, 1)


def test_vectors_of_euclidean_are_drawn_within_the_bound_of_torch7() -> None:
    drawn = Euclidean(100, 1).weight.abs()
    assert 0.05 < drawn.max() <= 0.1  # 1 / sqrt(inputSize), Euclidean.lua


def test_the_record_does_not_keep_what_the_mapping_writes() -> None:
    net = to_torch(lua("nn.Sequential", lua("nn.Tanh")))
    record = record_of(net)
    assert record is not None
    assert "modules" not in record.fields


def test_a_tensor_of_one_element_is_written() -> None:
    written = to_lua(nn.Linear(1, 1))
    assert written["weight"].shape == (1, 1)
    assert written["bias"].shape == (1,)


@pytest.mark.parametrize(("multiplier", "failures"), [(2, []), (3, ["gradParams[1]", "gradParams[2]"])])
def test_depth_wise_gradients_that_torch7_mixes_up_are_no_failure(multiplier: int, failures: list[str]) -> None:
    """``accGradParameters`` leaves ``gradWeight`` transposed, and the next call copies it onto itself in that order."""
    module = SpatialDepthWiseConvolution(2, multiplier, 1).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    output = module(x)
    output.sum().backward()
    assert x.grad is not None
    values = {
        "input": x.detach(),
        "output": output.detach(),
        "gradOutput": torch.ones_like(output),
        "gradInput": x.grad,
        "gradParams": [g + 1 for g in training.parameters(module)[1]],
    }
    fixture = LuaTable({"module": to_lua(module), **{name: lua_value(value) for name, value in values.items()}})
    assert [d.name for d in parity.check(fixture).failures] == failures


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 2, 3), (1, 4, 1, 3), (2, 4, 1, 1), (2, 4, 2, 3), (1, 4, 3), (1, 4, 2, 3, 2)])
def test_the_strides_of_a_batch_do_not_change_the_gradients(shape: tuple[int, ...], training: bool) -> None:
    """Of one image from ``img.permute(2, 0, 1).unsqueeze(0)``, PyTorch computes wrong gradients without an error."""
    layer = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](4).double()
    torch.manual_seed(0)
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    accept_single_samples(layer)
    x, gradient = torch.randn(shape).double(), torch.randn(shape).double()
    layer.train(training)

    def strided(value: Tensor, order: tuple[int, ...]) -> Tensor:
        return value.permute(order).contiguous().permute([order.index(i) for i in range(len(shape))])

    def gradients(x: Tensor, gradient: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(copy.deepcopy(layer)(x), x, gradient)[0]

    expected = gradients(x, gradient)
    orders = list(itertools.permutations(range(len(shape))))
    for order in orders:
        for other in (order, orders[0]):
            torch.testing.assert_close(gradients(strided(x, order), strided(gradient, other)), expected)
            torch.testing.assert_close(gradients(strided(x, other), strided(gradient, order)), expected)
