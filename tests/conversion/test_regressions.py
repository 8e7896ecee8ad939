"""What once went wrong: each test states what the Lua source computes, by a formula."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FIXTURES
from formula import lua
from torch import Tensor
from torch.nn import functional as F

from dpnn_bridge import read_t7, to_lua, to_torch, training, write_t7
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# ---------------------------------------------------------------------- convolution
def test_depthwise_convolution_with_kernels_of_one_element() -> None:
    weight, bias, x = double(3, 2), double(3, 2), double(4, 2, 5, 5)
    fields = {"nInputPlane": 2, "nOutputPlane": 3, "kW": 1, "kH": 1, "dW": 1, "dH": 1, "padW": 0, "padH": 0}
    module = to_torch(lua("nn.SpatialDepthWiseConvolution", weight=weight, bias=bias, **fields))
    expected = torch.einsum("nchw,mc->ncmhw", x, weight) + bias.t()[None, :, :, None, None]
    torch.testing.assert_close(module(x), expected.flatten(1, 2))
    np.testing.assert_array_equal(to_lua(module)["weight"].numpy(), weight.numpy())


def test_connection_tables_need_not_name_the_last_planes() -> None:
    table, weight, bias = torch.tensor([[1.0, 1], [2, 1]], dtype=torch.float64), double(2, 2, 2), double(1)
    fields = {"nInputPlane": 2, "nOutputPlane": 1, "kW": 2, "kH": 2, "connTable": table, "weight": weight, "bias": bias}
    x = double(3, 6, 5).requires_grad_()
    output = to_torch(lua("nn.SpatialConvolutionMap", **fields))(x)
    torch.testing.assert_close(output, F.conv2d(x[:2], weight[None], bias))
    output.sum().backward()
    assert x.grad is not None
    assert not x.grad[2].any()
    full = to_torch(lua("nn.SpatialFullConvolutionMap", **fields))(x)
    torch.testing.assert_close(full, F.conv_transpose2d(x[:2], weight[:, None], bias))


def test_a_connection_table_with_fewer_planes_than_a_batch() -> None:
    """SpatialConvolutionMap.c reads image m at ``input_data + m*nInputPlane*input_w*input_h``."""
    table, weight, bias = torch.tensor([[1.0, 1], [2, 1]], dtype=torch.float64), double(2, 2, 2), double(1)
    fields = {"nInputPlane": 2, "nOutputPlane": 1, "kW": 2, "kH": 2, "connTable": table, "weight": weight, "bias": bias}
    x = double(3, 4, 6, 5)
    images = torch.stack([x.flatten()[m * 60 : m * 60 + 60].view(2, 6, 5) for m in range(3)])
    output = to_torch(lua("nn.SpatialConvolutionMap", **fields))(x)
    torch.testing.assert_close(output, F.conv2d(images, weight[None], bias))


# ---------------------------------------------------------------------- weight normalization
def normalized_linear(eps: float, v: Tensor, g: Tensor) -> LuaObject:
    outputs, inputs = v.shape
    return lua(
        "nn.LinearWeightNorm", inputSize=inputs, outputSize=outputs, eps=eps, v=v, g=g, weight=v, norm=g, scale=g
    )


def test_least_norm_of_linear_weight_norm_counts() -> None:
    v, g, x = torch.tensor([[0.3, 0.4], [3.0, 4.0]], dtype=torch.float64), double(2, 1), double(5, 2)
    module = to_torch(normalized_linear(2.0, v, g))
    norm = torch.tensor([[2.0], [5.0]], dtype=torch.float64)  # 0.5 is below eps
    torch.testing.assert_close(module(x), x @ (g * v / norm).t())
    grad = double(5, 2)
    module(x).backward(grad)
    of_weight = grad.t() @ x
    of_g = (of_weight * v).sum(1, keepdim=True) / norm
    of_v = of_weight * (g / norm) - v * (g / norm) / norm * of_g
    for found, expected in zip(training.parameters(module)[1], (of_v, of_g), strict=True):
        torch.testing.assert_close(found, expected)


def test_linear_weight_norm_is_written_with_the_buffers_that_evaluation_uses() -> None:
    v, g = double(3, 2), double(3, 1)
    for eps in (1e-16, 0.5):
        written = to_lua(to_torch(normalized_linear(eps, v, g)))
        norm = v.norm(2, 1, keepdim=True).clamp(min=eps)
        assert written["eps"] == eps
        for name, expected in {"norm": norm, "scale": g / norm, "weight": v * g / norm}.items():
            np.testing.assert_allclose(written[name].numpy(), expected.numpy(), rtol=1e-12)


# ---------------------------------------------------------------------- others
def test_cross_entropy_is_written_with_the_buffers_of_its_parts() -> None:
    nll = lua("nn.ClassNLLCriterion", sizeAverage=True)
    criterion = to_torch(lua("nn.CrossEntropyCriterion", nll=nll, sizeAverage=True, oldSizeAverage=True))
    assert isinstance(to_lua(criterion)["nll"]["gradInput"], LuaTensor)


def test_narrow_table_of_negative_length_is_empty() -> None:
    assert to_torch(lua("nn.NarrowTable", offset=1, length=-2))([double(2), double(3), double(1)]) == []


def test_narrow_table_begins_in_the_table() -> None:
    """Torch7 returns no element; a Python slice would return others."""
    with pytest.raises(ConversionError, match="expected an offset of at least 1, found -2"):
        to_torch(lua("nn.NarrowTable", offset=-2, length=2))


# ---------------------------------------------------------------------- sequences
def test_projection_to_as_many_features_as_the_cell_has() -> None:
    fields = {"inputsize": 2, "hiddensize": 3, "outputsize": 3}
    weight, bias, projection, x = double(2 + 3, 12), double(12), double(3, 3), double(4, 2, 2)
    module = to_torch(lua("nn.SeqLSTMP", weight=weight, bias=bias, weightO=projection, **fields))
    output, cell, expected = torch.zeros(2, 3, dtype=x.dtype), torch.zeros(2, 3, dtype=x.dtype), []
    for step in x:
        gates = torch.cat([step, output], 1) @ weight + bias
        i, f, o, g = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        output = (o.sigmoid() * cell.tanh()) @ projection
        expected.append(output)
    torch.testing.assert_close(module(x), torch.stack(expected))


# ---------------------------------------------------------------------- buffers that Lua does not make again
def test_one_hot_is_written_with_its_unit_vectors() -> None:
    obj = lua("OneHot", outputSize=3, _eye=torch.eye(3), output=torch.zeros(2, 3))
    np.testing.assert_array_equal(to_lua(to_torch(obj))["_eye"].numpy(), np.eye(3))


@pytest.mark.parametrize(
    ("class_name", "table", "count"),
    [("nn.OuterProd", "gradInput", 2), ("nn.ShakeShakeTable", "output", 3), ("nn.ShakeShakeTable", "gradInput", 3)],
)
def test_tables_of_buffers_are_written_with_their_tensors(class_name: str, table: str, count: int) -> None:
    flags = {"forwardShake": "true", "backwardShake": "true", "shakeImage": "false"}
    obj = lua(class_name, **flags, **{table: LuaTable.from_list([LuaTensor.from_numpy(np.ones(2))] * count)})
    written = to_lua(to_torch(obj))[table].as_list()
    assert [t.size for t in written] == [0] * count


def test_gradient_that_a_tree_criterion_starts_from_is_written() -> None:
    obj = lua("nn.TreeNLLCriterion", _output_grad=torch.tensor([-1.0]), _type="torch.FloatTensor")
    assert to_lua(to_torch(obj))["_output_grad"].numpy().tolist() == [-1]


def test_variational_dropout_is_written_in_the_type_of_its_file(tmp_path: Path) -> None:
    fields = {"p": 0.3, "train": True, "noiseInit": double(1).zero_(), "sharedNoise": double(1, 1)}
    module = to_torch(lua("onmt.VariationalDropout", _type="torch.DoubleTensor", **fields))
    write_t7(tmp_path / "m.t7", module)
    written = read_t7(tmp_path / "m.t7")
    assert written["noiseInit"].class_name == written["sharedNoise"].class_name == "torch.DoubleTensor"
    assert written["noiseInit"].numpy().tolist() == [0]


def test_a_tensor_of_another_type_than_its_elements_is_refused() -> None:
    with pytest.raises(TypeError, match="the array float32: use"):
        LuaTensor.from_numpy(np.ones(2, np.float32), "torch.DoubleTensor")


def test_torch_prelu_is_the_one_of_nn_whatever_family_is_imported_first(python: list[str]) -> None:
    code = (
        "import dpnn_bridge.modules.facebook.fbnn, torch, dpnn_bridge;"
        "print(dpnn_bridge.to_lua(torch.nn.PReLU(3)).class_name)"
    )
    found = subprocess.run([*python, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "nn.PReLU"


# ---------------------------------------------------------------------- old field sets
def test_multi_label_criterion_of_before_2017() -> None:
    x, target, weights = double(3, 4), torch.ones(3, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    nll = lua("nn.BCECriterion", sizeAverage=True, weights=weights)
    criterion = to_torch(lua("nn.MultiLabelSoftMarginCriterion", nll=nll, lsm=lua("nn.Sigmoid")))
    torch.testing.assert_close(criterion(x, target), (-weights * x.sigmoid().log()).mean())
    written = to_lua(criterion)
    assert "nll" not in written
    assert written["sizeAverage"] is True
    assert written["sigmoid"].class_name == "nn.Sigmoid"


def test_bilinear_is_written_with_the_two_gradients_that_its_first_version_resized() -> None:
    module = to_torch(lua("nn.Bilinear", weight=double(2, 3, 4), bias=double(2)))
    assert [t.size for t in to_lua(module)["gradInput"].as_list()] == [0, 0]


@pytest.mark.parametrize("name", ["nn.gModule", "nn.SeqLSTMP"])
def test_what_an_upgrade_needs_and_does_not_find_is_an_error_with_its_place(name: str) -> None:
    inner = LuaObject(name, LuaTable())
    net = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([inner])}))
    with pytest.raises(ConversionError, match=rf"modules\[1\] \({name}\): cannot build the module: .* has no field"):
        to_torch(net)


def test_weight_norm_without_gradients_has_the_buffer_of_its_weight() -> None:
    """Torch7 computes the weight in ``gradV`` when it loads the file."""
    read = read_t7(FIXTURES / "nn/nn.WeightNorm/WeightNorm__linear__double_eval.t7")["module"]
    written = to_lua(to_torch(read), gradients=False)
    assert written["gradV"].shape == written["v"].shape
    assert written.get("gradG") is None
