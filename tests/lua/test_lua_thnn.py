"""The kernels behind nn's Lua files, called as those call them: results are what real Torch7 stored in the fixtures."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

pytest.importorskip("lupa")

from dpnn_bridge.compare.differences import Result, Tolerance, compare
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.objects import LuaTable

LAYERS = Path(__file__).parent / "thnn_layers.lua"
#: LuaJIT computes small tensors in loops of its own; in Lua 5.1 the kernels of Python compute all
BRIDGES = {"auto": LuaBridge(), "lua51": LuaBridge(runtime="lua51")}
RUNS = {name: bridge.run_file(LAYERS) for name, bridge in BRIDGES.items()}
BRIDGE, CLASSES = BRIDGES["auto"], RUNS["auto"][0]
#: their gradInput is computed in Lua, if at all
NO_GRAD_INPUT = ("nn.LookupTable", "nn.SparseLinear", "nn.IndexLinear")
CASES = [
    pytest.param(number, entry, id=fixture_id(entry) + f"-{CLASSES[: number + 1].count(name)}")
    for number, name in enumerate(CLASSES)
    for entry in manifest(**{"class": name, "set": ("nn", "third"), "kind": ("module", "criterion")})
    if "__legacy_" not in entry["name"]  # fields of older versions, which nn's Lua files bring up to date
]


@pytest.mark.parametrize("runtime", BRIDGES)
@pytest.mark.parametrize(("number", "entry"), CASES)
def test_a_layer_computes_what_torch7_computed(number: int, entry: dict[str, Any], runtime: str) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    bridge, (_, run) = BRIDGES[runtime], RUNS[runtime]
    bridge.manual_seed(int(fixture.get("seed", 0)))
    names = ("module", "input", "target", "gradOutput", "scale")
    found = bridge.call(run, number + 1, LuaTable({name: fixture.get(name) for name in names}))
    tolerance = Tolerance() if entry["dtype"] == "double" else Tolerance().in_single()
    result = Result()

    def check(name: str, expected: Any) -> None:
        value, expected = found[name], to_value(expected)
        if name in ("weight", "gradWeight") and value.numel() == expected.numel():
            value = value.reshape(expected.shape)  # nn shows some weights to THNN in another shape
        result.differences += compare(name, value, expected, tolerance)

    check("output", fixture["output"])
    if entry["class"] not in NO_GRAD_INPUT:
        check("gradInput", fixture["gradInput"])
    gradients = fixture.get("gradParams") or LuaTable()
    if entry["class"] == "nn.IndexLinear" and gradients:
        gradients[1] = gradients[1]["gradWeight"][1]
    for key, name in enumerate(("gradWeight", "gradBias"), 1):
        if key in gradients:
            check(name, gradients[key])
    for name in ("indices", "running_mean", "running_var", "noise", "isTarget", "weight"):
        if name in found and name in fixture["after"]:
            check(name, fixture["after"][name])
    result.raise_for_failures()


def _call(kernel: str, *args: Any) -> None:
    BRIDGE.execute("local name = ... torch.DoubleTensor().THNN[name](select(2, ...))", kernel, *args)


def _real(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- sparse layers: steps that touch only what the input named


@pytest.mark.parametrize(
    ("prefix", "input"),
    [
        ("SparseLinear_u", _real([1, 2, 0.5], [1, 4, 2], [2, 2, 1], [2, 3, 0])),
        ("SparseLinear_legacyU", _real([[2, 0.5], [4, 2]], [[2, 1], [3, 0]])),
    ],
)
def test_sparse_linear_steps_and_zeroes_the_columns_of_its_last_input(prefix: str, input: torch.Tensor) -> None:
    """Columns 2 and 4; a value of 0 names no column."""
    weight, gradient, bias, bias_gradient = torch.randn(4, 3, 4, dtype=torch.float64).unbind()
    bias, bias_gradient = bias[:, 0].clone(), bias_gradient[:, 0].clone()
    named = _real(0, 1, 0, 1)
    stepped, zeroed, moved = weight - 0.1 * gradient * named, gradient * (1 - named), bias - 0.1 * bias_gradient
    _call(f"{prefix}pdateParameters", weight, bias, gradient, bias_gradient, input, 0.1)
    torch.testing.assert_close((weight, bias), (stepped, moved))
    _call(prefix[:-1] + {"u": "zero", "U": "Zero"}[prefix[-1]] + "GradParameters", gradient, bias_gradient, input)
    assert torch.equal(gradient, zeroed)
    assert not bias_gradient.any()


def test_sparse_linear_keeps_its_bias_when_the_input_named_nothing() -> None:
    weight, bias = torch.ones(3, 4, dtype=torch.float64), _real(1, 2, 3)
    _call("SparseLinear_updateParameters", weight, bias, weight.clone(), bias.clone(), _real([1, 2, 0]), 0.1)
    assert bias.tolist() == [1, 2, 3]


KEYS, SIZES = torch.tensor([1, 3, 1]), torch.tensor([2, 1])


def test_index_linear_learns_in_one_call_what_gradients_and_a_step_give() -> None:
    values, gradient = _real(2, -1, 0.5), _real([1, 2], [3, 4])
    weight, bias = torch.randn(3, 2, dtype=torch.float64), _real(0, 1)
    dense = _real([2, 0, -1], [0.5, 0, 0])
    expected = weight - 0.1 * dense.t() @ gradient, bias - 0.1 * gradient.sum(0)
    other, other_bias = weight.clone(), bias.clone()
    cumulative = SIZES.cumsum(0)
    _call("IndexLinear_accUpdateGradParameters", KEYS, -1, values, SIZES, cumulative, gradient, weight, bias, 0, 0.1)
    torch.testing.assert_close((weight, bias), expected)
    rows, bias_gradient = _real([2, 4], [-1, -2], [1.5, 2]), gradient.sum(0)
    _call("IndexLinear_updateParameters", rows, bias_gradient, other, other_bias, KEYS, cumulative, -1, 0, 0.1)
    torch.testing.assert_close((other, other_bias), expected)


def test_index_linear_decays_a_weight_at_each_of_its_gradients() -> None:
    weight, bias = torch.ones(3, 2, dtype=torch.float64), _real(0, 0)
    rows = _real([0.25, 0], [0, 0], [0.125, 0])
    _call("IndexLinear_updateParameters", rows, bias.clone(), weight, bias, KEYS, SIZES.cumsum(0), -1, 0.5, 1)
    assert weight.tolist() == [[0, 0.25], [1, 1], [0.5, 0.5]]  # ((1 - 0.5) - 0.25) * 0.5 - 0.125


@pytest.mark.parametrize(
    ("weights", "gradients", "expected"),
    [
        ([1.0, 2], [0.5, 0.25, 1, -1], [0.75, 0.5, 1.75]),
        ([2.0], [0.5, 1], [0.75, 2.25]),  # with one output THNN adds the decay
    ],
)
def test_index_linear_normalizing_learns_offsets_and_scales_its_steps(
    weights: list[float], gradients: list[float], expected: list[float]
) -> None:
    """Row of a key: largest value 4, its inverse, scale of steps 0.5, offset 1, the weights. Rate and decay are 0.5."""
    weight, bias = _real([4, 0.25, 0.5, 1, *weights]), _real(*[0] * len(weights))
    key = torch.tensor([1])
    _call("IndexLinear_updateParameters", _real(gradients), bias.clone(), weight, bias, key, key, -1, 0.5, 0.5)
    assert weight.tolist() == [[4, 0.25, 0.5, *expected]]


@pytest.mark.parametrize(("outputs", "scale"), [(1, 0), (2, 1)])
def test_index_linear_normalizing_with_one_output_learns_once_from_a_forward(outputs: int, scale: int) -> None:
    weight, bias, key = torch.ones(1, 4 + outputs, dtype=torch.float64), _real(*[0] * outputs), torch.tensor([1])
    gradient = torch.full((1, outputs), 2, dtype=torch.float64)
    _call("IndexLinear_accUpdateGradParameters", key, -1, _real(0.5), key, key, gradient, weight, bias, 0, 0.25)
    assert weight.tolist() == [[1, 1, scale, 1 - 0.5 * outputs, *[0.75] * outputs]]


def test_index_linear_divides_by_the_largest_value_so_far() -> None:
    weight, output = torch.zeros(2, 5, dtype=torch.float64), torch.empty(4, 1, dtype=torch.float64)
    weight[:, 4] = 1
    keys, values, ones = torch.tensor([1, 1, 1, 2]), _real(2, 1, -4, 3), torch.ones(4, dtype=torch.int64)
    normalized = torch.empty(4, dtype=torch.float64)
    _call("IndexLinear_updateOutput", keys, -1, values, ones, ones, output, weight, _real(0), normalized, 1)
    assert normalized.tolist() == output.flatten().tolist() == [1, 0.5, -1, 1]
    assert weight[:, :3].tolist() == [[4, 0.25, 1], [3, pytest.approx(1 / 3), 1]]


# ---- what THNN refuses


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("SoftMax_updateOutput(t(1, 1, 1, 1, 1), t())", "1D, 2D, 3D or 4D tensor expected"),
        ("PReLU_updateOutput(t(2, 3), t(), t(4), 4)", "Wrong number of input planes. Expected 4 but got 3"),
        ("GatedLinear_updateOutput(t(2, 3), t(), 2)", "Halving dimension must be even. Dim 2 is size 3"),
        (
            "Tanh_updateGradInput(nil, t(3), t(), t(2))",
            r"output and gradOutput shapes do not match: output \[2\], gradOutput \[3\]",
        ),
        ("SpatialConvolutionMM_updateOutput(t(3), t(), t(1, 9), nil, t(), t(), 3, 3, 1, 1, 0, 0)", "3D or 4D .batch"),
        ("SpatialConvolutionMM_updateOutput(t(3, 4, 4), t(), t(1, 9), nil, t(), t(), 3, 3, 1, 1, 0, 0)", "Need input"),
        (
            "SpatialConvolutionMM_updateOutput(t(1, 4, 2), t(), t(1, 9), nil, t(), t(), 3, 3, 1, 1, 0, 0)",
            "Calculated output size is too small",
        ),
        (
            "SpatialConvolutionMM_updateGradInput(t(1, 3, 3), t(2), t(), t(1, 9), t(), t(), 3, 3, 1, 1, 0, 0)",
            r"Need gradOutput of dimension 3 and gradOutput.size\[0\] == 1 but got gradOutput to be of shape: \[2\]",
        ),
        ("TemporalConvolution_updateOutput(t(1, 2), t(), t(3, 4), t(3), 2, 1)", "sequence smaller than kernel size"),
        ("MSECriterion_updateOutput(t(3), t(2), t(1), true)", "input and target have different number of elements"),
        ("ClassNLLCriterion_updateOutput(t(2, 3), i {1, 4}, t(1), true, nil, t(1))", "cur_target"),
        ("ClassNLLCriterion_updateOutput(t(2, 3), i {1, 2}, t(1), true, t(2), t(1))", "either for all or no classes"),
        ("ClassNLLCriterion_updateOutput(t(2, 3), i {1}, t(1), true, nil, t(1))", "2 samples but 1 targets"),
        ("ClassNLLCriterion_updateOutput(t(2, 3), i {1, 2, 3}, t(1), true, nil, t(1))", "2 samples but 3 targets"),
        ("ClassNLLCriterion_updateOutput(t(2, 3, 1), i {1, 1}, t(1), true, nil, t(1))", "should be 1D or 2D"),
        ("ClassNLLCriterion_updateOutput(t(2, 3), i {{1, 1}}, t(1), true, nil, t(1))", "multi-target not supported"),
        (
            "VolumetricMaxPooling_updateGradInput(t(1, 2, 2, 2), t(1, 1, 1, 2), t(), torch.zeros(1, 1, 1, 1):long(), "
            "2, 2, 2, 2, 2, 2, 0, 0, 0, false)",
            r"gradOutput.size\[3\] == 1 but got gradOutput to be of shape: \[1 x 1 x 1 x 2\]",
        ),
        # where PyTorch writes beyond the end of the result
        ("SpatialAdaptiveAveragePooling_updateGradInput(t(2, 1, 4), t(3, 2, 2), t())", r"shape \[3 x 2 x 2\]"),
        ("SpatialUpSamplingNearest_updateOutput(t(1, 2, 2), t(), 1)", "must be greater than 1, but got: 1"),
        ("VolumetricUpSamplingNearest_updateOutput(t(1, 2, 2, 2), t(), 0)", "must be greater than 1, but got: 0"),
        ("MultiMarginCriterion_updateOutput(t(2, 3, 1), i {1, 1}, t(1), true, 1, nil, 1)", "vector or matrix expected"),
        ("MultiMarginCriterion_updateOutput(t(2, 3), i {{1, 1}}, t(1), true, 1, nil, 1)", "inconsistent target size"),
        ("MultiLabelMarginCriterion_updateOutput(t(1, 2), i {1, 0}, t(1), t(), true)", "inconsistent target size"),
        (
            "SpatialConvolutionLocal_updateOutput(t(1, 2, 2), t(), t(4, 1, 2), t(1, 2, 2), t(), t(), "
            "1, 1, 1, 1, 0, 0, 2, 2, 2, 2)",
            "size.1. == 2",
        ),
        (
            "SpatialDepthWiseConvolution_updateOutput(t(1, 3, 3), t(), t(2, 2), t(2, 2), t(), t(), 1, 1, 1, 1, 0, 0)",
            "size.1. == 2",
        ),
        (
            "TemporalRowConvolution_updateOutput(t(1, 4), t(), t(3, 1, 2), t(3), t(), t(), 2, 1, 0, true)",
            "size.1. == 3",
        ),
        ("SpatialSubSampling_updateOutput(t(2, 4, 4), t(), t(1), t(1), 2, 2, 1, 1)", "number of input planes"),
        ("TemporalSubSampling_updateOutput(t(4, 1), t(), t(3), t(3), 2, 1, 3)", "Got: 1, Expected: 3"),
        ("MultiMarginCriterion_updateOutput(t(2, 3), i {1, 0}, t(1), true, 1, nil, 1)", "target out of range"),
        ("MultiMarginCriterion_updateOutput(t(2, 3), i {1}, t(1), true, 1, nil, 1)", "inconsistent target size"),
        ("MultiLabelMarginCriterion_updateOutput(t(3), i {1, 0}, t(1), t(), true)", "inconsistent target size"),
        ("MultiLabelMarginCriterion_updateOutput(t(2), i {3, 0}, t(1), t(), true)", "target out of range"),
        (
            "BatchNormalization_backward(t(2, 3), t(3, 2), t(), nil, nil, nil, t(3), t(3), t(3), t(3), true, 1, 0)",
            "do not match",
        ),
        ("SpatialMaxPooling_updateOutput(t(3), t(), i(), 2, 2, 2, 2, 0, 0, false)", r"3D or 4D \(batch mode\)"),
        (
            "SpatialMaxPooling_updateOutput(t(1, 4, 4), t(), i(), 2, 2, 2, 2, 2, 0, false)",
            "half of kernel size",
        ),
        ("SpatialMaxPooling_updateOutput(t(1, 2, 2), t(), i(), 3, 3, 1, 1, 0, 0, false)", "Given input size"),
        ("SpatialMaxPooling_updateGradInput(t(1, 2, 2), t(2), t(), i {1}, 2, 2, 2, 2, 0, 0, false)", "gradOutput"),
        ("SpatialMaxUnpooling_updateOutput(t(1, 1, 1), t(), i {{{5}}}, 2, 2)", "found an invalid max index"),
        ("SpatialAveragePooling_updateOutput(t(1, 2, 2), t(), 3, 3, 1, 1, 0, 0, false, true)", "Given input size"),
        ("TemporalMaxPooling_updateOutput(t(1, 2), t(), i(), 2, 2)", "sequence smaller than kernel size"),
        (
            "SpatialFractionalMaxPooling_updateOutput(t(1, 3, 3), t(), 3, 3, 2, 2, i(), t(1, 1, 2))",
            "too large",
        ),
        ("FeatureLPPooling_updateOutput(t(40), t(), 2, 17, 1, false)", "width must be between 2 - 16"),
        ("SpatialReplicationPadding_updateOutput(t(3), t(), 1, 1, 1, 1)", r"but got: \[3\]"),
        ("SpatialReflectionPadding_updateOutput(t(1, 2, 2), t(), 3, 3, 0, 0)", "[Pp]adding"),
        (
            "LookupTable_accGradParameters(i {4}, t(1, 2), t(3, 2), n(), nil, nil, false, 0, 1)",
            "1 <= input < 4",
        ),
        (
            "LookupTable_accGradParameters(i {1}, t(1, 3), t(3, 2):t(), n(), nil, nil, false, 0, 1)",
            "be contiguous",
        ),
        ("LookupTable_renorm(i {1}, t(3, 2), 1, 0)", "non-positive-norm not supported"),
        ("BCECriterion_updateOutput(t {1.5}, t {1}, t(1), true)", "between 0~1, but got 1.500000"),
        ("BCECriterion_updateOutput(t {0, -1}, t {1, 1}, t(1), true, t {1, 1})", "between 0~1, but got -1.000000"),
        ("SparseLinear_updateOutput(t(1, 2), t(1, 3), t(3, 4), t(3))", "must be in coo format, nnz x 3"),
        ("SparseLinear_updateOutput(t {{1, 5, 1}}, t(1, 3), t(3, 4), t(3))", "index out of bound"),
        ("SparseLinear_legacyUpdateOutput(t(1, 3), t(), t(3, 4), t(3))", "must be batchsize x nnz x 2"),
    ],
)
def test_what_thnn_refuses(code: str, message: str) -> None:
    with pytest.raises(LuaBridgeError, match=message):
        BRIDGE.execute(f"local t, i, n = torch.DoubleTensor, torch.LongTensor, torch.IntTensor t().THNN.{code}")


def test_an_unknown_kernel_or_type_is_named() -> None:
    thnn = "local THNN = require 'nn.THNN' THNN.runKernel"
    with pytest.raises(LuaBridgeError, match="'Sine_updateOutput' not found for tensor type"):
        BRIDGE.execute(f"{thnn}('Sine_updateOutput', 'torch.FloatTensor')")
    with pytest.raises(LuaBridgeError, match="Unsupported tensor type"):
        BRIDGE.execute(f"{thnn}('Tanh_updateOutput', 'torch.IntTensor')")
    output = torch.empty(1, dtype=torch.float64)
    BRIDGE.execute(f"{thnn}('Abs_updateOutput', 'torch.DoubleTensor', ...)", _real(-3), output)
    assert output.item() == 3


def test_batch_normalization_of_equal_values_without_epsilon_is_zero() -> None:
    x, y, ones = torch.ones(2, 3, dtype=torch.float64), torch.empty(2, 3, dtype=torch.float64), _real(1, 1, 1)
    mean, std = _real(0, 0, 0), _real(0, 0, 0)
    _call("BatchNormalization_updateOutput", x, y, None, None, mean, ones, mean.clone(), std, True, 0.1, 0)
    assert not y.any()


def test_a_loss_whose_targets_are_all_ignored_has_no_gradient() -> None:
    total, gradient = _real(0), _real([5, 6])
    _call("ClassNLLCriterion_updateGradInput", _real([1, 2]), torch.tensor([1]), gradient, True, None, total, 1)
    assert gradient.tolist() == [[5, 6]]  # nn zeroes it before


@pytest.mark.parametrize("rows", [2, 20000])  # with and without the loops for small tensors
@pytest.mark.parametrize(
    ("layer", "first"),
    [("Tanh", "output"), ("Sqrt", "output"), ("Square", "input"), ("LogSoftMax", "input"), ("SoftMax", "input")],
)
def test_a_gradient_of_another_shape_is_refused(layer: str, first: str, rows: int) -> None:
    call = (
        f"torch.DoubleTensor().THNN.{layer}_updateGradInput(x, ..., torch.DoubleTensor(){', x' * (layer != 'Square')})"
    )
    for gradient, shape in [(torch.rand(4 * rows), f"[{4 * rows}]"), (torch.rand(4, rows), f"[4 x {rows}]")]:
        with pytest.raises(LuaBridgeError) as caught:
            BRIDGE.execute(f"local x = torch.rand({rows}, 4) {call}", gradient.double())
        expected = f"{first} and gradOutput shapes do not match: {first} [{rows} x 4], gradOutput {shape}"
        assert expected in str(caught.value)
    BRIDGE.execute(f"local x = torch.rand({rows}, 4) {call}", torch.rand(rows, 4).double())


def test_others_look_at_the_number_of_elements() -> None:
    code = "local x, g = torch.rand(2, 4), torch.Tensor() torch.DoubleTensor().THNN.{} return g"
    for call in ("Sigmoid_updateGradInput(x, torch.rand(8), g, x)", "Abs_updateGradInput(x, torch.rand(8), g)"):
        assert BRIDGE.execute(code.format(call)).shape == (2, 4)


@pytest.mark.parametrize("kernel", ["updateOutput", "updateGradInput", "accGradParameters"])
def test_depth_wise_kernels_leave_four_dimensions(kernel: str) -> None:
    first = {"updateOutput": "x, t()", "updateGradInput": "x, y, t()", "accGradParameters": "x, y"}[kernel]
    size = BRIDGE.execute(
        "local t = torch.DoubleTensor local x, y = torch.rand(1, 2, 5, 5), torch.rand(1, 6, 3, 3)\n"
        + f"local w = torch.rand(3, 18) t().THNN.SpatialDepthWiseConvolution_{kernel}({first}, w, "
        + ("torch.rand(3, 2), " if kernel != "updateGradInput" else "")
        + "t(), t(), 3, 3, 1, 1, 0, 0, 1) return w:size():totable()"
    )
    assert size == [3, 2, 3, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "updateOutput(t(1, 2, 2, 3):zero(), t(), i(1, 2, 2, 2):fill(1), 4, 4)",
            "input and indices shapes do not match",
        ),
        (
            "updateGradInput(t(1, 2, 2, 2), t(1, 2, 4, 5), t(), i(1, 2, 2, 2):fill(1), 4, 4)",
            "Inconsistent gradOutput size. output: 4x4, gradOutput: 4x5",
        ),
    ],
)
def test_unpooling_checks_shapes(call: str, message: str) -> None:
    with pytest.raises(LuaBridgeError, match=message):
        BRIDGE.execute(f"local t, i = torch.DoubleTensor, torch.LongTensor t().THNN.SpatialMaxUnpooling_{call}")


#: floats: each result as Torch7 rounds it, which converts settings to floats first and computes some steps in double
ROUNDED = """
local F, L = torch.FloatTensor, torch.LongTensor
local x, g, out, grad = F{0.1, -0.3, 0.7, 1.3, -2.1}, F{0.3, 0.7, -0.9, 1.1, 0.2}, F(), F()
local N = x.THNN
local function c(t) return t:cdata() end
local function text(t)
   local v = {}
   for i = 1, t:nElement() do v[i] = ('%.9g'):format(t:view(-1)[i]) end
   return table.concat(v, ' ')
end
local found = {}
local function layer(name, ...)
   N[name .. '_updateOutput'](c(x), c(out), ...)
   N[name .. '_updateGradInput'](c(x), c(g), c(grad), ...)
   found[#found + 1] = name .. ' ' .. text(out) .. ' | ' .. text(grad)
end
local function of_output(name)
   N[name .. '_updateOutput'](c(x), c(out))
   N[name .. '_updateGradInput'](c(x), c(g), c(grad), c(out))
   found[#found + 1] = name .. ' ' .. text(out) .. ' | ' .. text(grad)
end
layer('Threshold', 0.1, 0.3, false)
layer('HardTanh', -0.3, 0.7, false)
layer('LeakyReLU', 0.1, false)
for _, name in ipairs {'Sigmoid', 'Tanh', 'SoftMax', 'LogSoftMax'} do of_output(name) end
local loss, weight = F(1), F(1)
N.MSECriterion_updateOutput(c(x), c(g), c(loss), false)
N.MSECriterion_updateGradInput(c(x), c(g), c(grad), true)
found[#found + 1] = 'MSE ' .. text(loss) .. ' | ' .. text(grad)
local rows = F{{-0.1, -2.3}, {-0.7, -0.9}, {-1.1, -0.3}, {-3.3, -0.017}}
N.ClassNLLCriterion_updateOutput(c(rows), c(L{1, 2, 2, 1}), c(loss), false, nil, c(weight), -100)
found[#found + 1] = 'NLL ' .. text(loss)
local table_ = F(3, 5):zero()
local both, none = torch.cat(x:view(1, 5), g:view(1, 5), 1), {torch.IntTensor(), F(), L()}
N.LookupTable_accGradParameters(c(L{2, 2}), c(both), c(table_), c(none[1]), c(none[2]), c(none[3]), false, 0, 0.3)
found[#found + 1] = 'LookupTable ' .. text(table_[2])
return found
"""


def test_small_floats_have_the_bits_of_torch7() -> None:
    pytest.importorskip("lupa.luajit21")
    found = BRIDGE.execute(ROUNDED)
    assert found == [
        "Threshold 0.300000012 0.300000012 0.699999988 1.29999995 0.300000012 | 0 0 -0.899999976 1.10000002 0",
        "HardTanh 0.100000001 -0.300000012 0.699999988 0.699999988 -0.300000012 | 0.300000012 0 0 0 0",
        "LeakyReLU 0.100000001 -0.0300000012 0.699999988 1.29999995 -0.209999993 | "
        "0.300000012 0.0700000003 -0.899999976 1.10000002 0.0200000014",
        "Sigmoid 0.524979174 0.425557494 0.668187737 0.785835028 0.109096833 | "
        "0.0748128146 0.171120822 -0.199541599 0.185128167 0.0194389429",
        "Tanh 0.0996679962 -0.291312635 0.604367793 0.861723125 -0.970451951 | "
        "0.297019899 0.640595853 -0.571265578 0.283176571 0.0116446018",
        "SoftMax 0.144438565 0.0968200639 0.26318422 0.479552895 0.0160042495 | "
        "-0.0151586626 0.028566869 -0.343441933 0.333313793 -0.00328005268",
        "LogSoftMax -1.934901 -2.33490109 -1.33490109 -0.734901071 -4.13490105 | "
        "0.0977860093 0.564451873 -1.26845789 0.428625941 0.177594051",
        "MSE 8.92999935 | -0.0800000057 -0.400000006 0.639999986 0.0799999759 -0.920000017",
        "NLL 4.5999999",
        "LookupTable 0.120000005 0.120000005 -0.0599999949 0.720000029 -0.569999993",
    ]


@pytest.mark.parametrize("name", ["AbsCriterion", "MSECriterion", "SmoothL1Criterion", "BCECriterion"])
def test_the_gradient_of_an_empty_batch_is_empty(name: str) -> None:
    call = f"{name}_updateGradInput(torch.Tensor(), torch.Tensor(), g, true)"
    assert BRIDGE.execute(f"local g = torch.ones(3) torch.DoubleTensor().THNN.{call} return g:dim()") == 0


@pytest.mark.parametrize(
    "call",
    [
        "Threshold_updateGradInput(e, e, g, 0, 0, false)",
        "Tanh_updateGradInput(nil, e, g, e)",
        "Abs_updateGradInput(e, e, g)",
    ],
)
def test_the_gradient_of_an_empty_input_is_empty(call: str) -> None:
    code = f"local e, g = torch.Tensor(), torch.ones(3) e.THNN.{call} return g:dim()"
    assert BRIDGE.execute(code) == 0


def test_what_is_no_number_adds_nothing_to_a_margin() -> None:
    nan, total, gradient = float("nan"), _real(0), _real(0, 0)
    _call("MarginCriterion_updateOutput", _real(nan, 0.5), _real(1, 1), total, False, 1)
    assert total.tolist() == [0.5]
    _call("MultiMarginCriterion_updateOutput", _real(nan, 0.5, 0.5), torch.tensor([2]), total, False, 1, None, 1)
    assert total.tolist() == [pytest.approx(1 / 3)]
    gradient = _real(0, 0, 0)
    _call("MultiMarginCriterion_updateGradInput", _real(nan, 0.5, 0.5), torch.tensor([2]), gradient, False, 2, None, 1)
    assert gradient.tolist() == [0, pytest.approx(-2 / 3), pytest.approx(2 / 3)]


@pytest.mark.parametrize("kernel", ["updateOutput", "updateGradInput"])
@pytest.mark.parametrize(
    ("input", "target", "message"),
    [
        ("2, 3, 2, 3", "2, 3, 2", "size mismatch .got input: 2x3x2x3, target: 2x3x2."),
        ("2, 3, 6", "2, 2, 3", "4D tensors.*of dimension: 3"),
        ("2, 3, 2, 3", "12", "3D tensors.*of dimension: 1"),
    ],
)
def test_planes_of_classes_have_the_shape_of_their_input(kernel: str, input: str, target: str, message: str) -> None:
    result = "t(1)" if kernel == "updateOutput" else f"t({input})"
    with pytest.raises(LuaBridgeError, match=message):
        BRIDGE.execute(
            f"local t = torch.DoubleTensor t().THNN.SpatialClassNLLCriterion_{kernel}"
            f"(t({input}), torch.LongTensor({target}):fill(1), {result}, true, nil, torch.ones(1))"
        )


def test_planes_of_classes_ignore_no_class() -> None:
    with pytest.raises(LuaBridgeError, match="out of range"):
        BRIDGE.execute(
            "local t = torch.DoubleTensor t().THNN.SpatialClassNLLCriterion_updateOutput"
            "(t(1, 3, 1, 1), torch.LongTensor(1, 1, 1):fill(-100), t(1), true, nil, t(1))"
        )


NAN, LEAST = float("nan"), torch.finfo(torch.float64).min


def test_maxima_in_time_pass_over_what_is_no_number() -> None:
    x = _real([NAN, 3], [2, NAN], [NAN, 1], [NAN, 5])
    result = BRIDGE.execute(
        """
        local x, y, at, g = ..., torch.Tensor(), torch.LongTensor(), torch.Tensor()
        x.THNN.TemporalMaxPooling_updateOutput(x, y, at, 2, 2)
        x.THNN.TemporalMaxPooling_updateGradInput(x, torch.Tensor{{1, 2}, {3, 4}}, g, at, 2, 2)
        return y, at, g
        """,
        x,
    )
    assert [r.tolist() for r in result] == [[[2, 3], [LEAST, 5]], [[1, 0], [-1, 1]], [[0, 2], [1, 0], [0, 0], [0, 4]]]


def test_maxima_in_volumes_pass_over_what_is_no_number() -> None:
    x = _real([[[NAN, 3, NAN, NAN]]])
    code = """
        local x, y, at = ..., torch.Tensor(), torch.LongTensor()
        x.THNN.VolumetricMaxPooling_updateOutput(x, y, at, 1, 2, 1, 1, 2, 1, 0, 0, 0, false)
        return y, at
    """
    y, at = BRIDGE.execute(code, x)
    assert y.flatten().tolist() == [3, LEAST]
    assert at.flatten().tolist() == [1 << 16, 0xFFFFFF]


def test_adaptive_maxima_pass_over_what_is_no_number() -> None:
    code = """
        local x, y, at = ..., torch.Tensor(), torch.LongTensor()
        x.THNN.SpatialAdaptiveMaxPooling_updateOutput(x, y, at, 2, 1)
        return y, at
    """
    y, at = BRIDGE.execute(code, _real([[NAN, 3, 4, NAN]]))
    assert y.flatten().tolist() == [3, 4]
    assert at.flatten().tolist() == [1, 1, 2, 1]


def test_labels_take_memory_by_their_number() -> None:
    """A label is compared with all classes; a sample of 3,000 classes has one label, not 3,000."""
    input, target = torch.zeros(4, 3000), torch.zeros(4, 3000, dtype=torch.int64)
    target[:, 0] = torch.arange(1, 5)
    output, marked = torch.zeros(1), torch.zeros(4, 3000)
    code = "torch.FloatTensor().THNN.MultiLabelMarginCriterion_updateOutput(...)"
    BRIDGE.execute(code, input, target, output, marked, True)
    assert output.item() == pytest.approx(2999 / 3000)


def test_an_infinite_pixel_reaches_its_neighbours_alone() -> None:
    code = """
        local x, y, g, d = ..., torch.Tensor(), torch.Tensor(), torch.zeros(1, 1, 1, 5)
        x.THNN.SpatialUpSamplingBilinear_updateOutput(x, y, 1, 5)
        d[1][1][1][1] = 1 / 0
        x.THNN.SpatialUpSamplingBilinear_updateGradInput(d, g, 1, 1, 1, 3, 1, 5)
        return y, g
    """
    y, g = BRIDGE.execute(code, torch.tensor([[[[math.inf, 1.0, 2.0]]]], dtype=torch.float64))
    assert y.flatten()[2:].tolist() == [1, 1.5, 2]
    assert g.flatten()[2] == 0


def test_a_power_may_be_larger_than_any_single_number() -> None:
    code = "local y = torch.FloatTensor() y.THNN.FeatureLPPooling_updateOutput(..., y, 2, 2, 2, false) return y"
    assert BRIDGE.execute(code, torch.tensor([1e30, 1e30])).item() == pytest.approx(2**0.5 * 1e30)


def test_a_window_without_a_maximum_has_no_gradient() -> None:
    code = """
        local x, y, at, g = ..., torch.Tensor(), torch.LongTensor(), torch.Tensor()
        local kernels, size = x.THNN, {1, 2, 1, 1, 2, 1, 0, 0, 0, false}
        kernels.VolumetricMaxPooling_updateOutput(x, y, at, unpack(size))
        kernels.VolumetricMaxPooling_updateGradInput(x, torch.ones(1, 1, 1, 2), g, at, unpack(size))
        return g
    """
    assert BRIDGE.execute(code, _real([[[NAN, 3, NAN, NAN]]])).flatten().tolist() == [0, 1, 0, 0]


def test_adaptive_windows_have_the_bounds_of_single_precision() -> None:
    """As in C, 3 / 5 * 25 is more than 15, so that the third of 5 windows has a sixth row, also the fourth's."""
    code = """
        local x, y, at, g = ..., torch.Tensor(), torch.LongTensor(), torch.Tensor()
        x.THNN.SpatialAdaptiveMaxPooling_updateOutput(x, y, at, 1, 5)
        x.THNN.SpatialAdaptiveMaxPooling_updateGradInput(x, torch.ones(1, 5, 1), g, at)
        return y, at, g
    """
    y, at, g = BRIDGE.execute(code, torch.arange(25, dtype=torch.float64).reshape(1, 25, 1))
    assert y.flatten().tolist() == [4, 9, 15, 19, 24]
    assert at[0].flatten().tolist() == [5, 5, 6, 5, 5]
    assert g.flatten().nonzero().flatten().tolist() == [4, 9, 15, 19, 24]


# ---- sizes of gradOutput, and layouts of results


def _thnn(call: str, returns: str) -> Any:
    return BRIDGE.execute(f"local t, i = torch.DoubleTensor, torch.LongTensor local r = t() t().THNN.{call} {returns}")


@pytest.mark.parametrize(
    "call",
    [
        "SpatialConvolutionMM_updateGradInput(t(2, 1, 3, 3), g, r, t(1, 9):fill(1), t(), t(), 3, 3, 1, 1, 0, 0)",
        "SpatialMaxPooling_updateGradInput(t(2, 1, 3, 3), g, r, i(2, 1, 1, 1):fill(1), 3, 3, 1, 1, 0, 0, false)",
        "SpatialAveragePooling_updateGradInput(t(2, 1, 3, 3), g, r, 3, 3, 1, 1, 0, 0, false, true)",
        "SpatialAdaptiveMaxPooling_updateGradInput(t(2, 1, 3, 3), g, r, i(2, 2, 1, 1, 1):fill(1))",
        "SpatialSubSampling_updateGradInput(t(2, 1, 3, 3), g, r, t(1):fill(1), 3, 3, 1, 1)",
    ],
)
def test_thnn_ignores_samples_of_the_gradient_that_the_input_lacks(call: str) -> None:
    """A buffer of gradients may be larger than the last batch."""
    results = [_thnn(call.replace("g,", f"t({n}, 1, 1, 1):fill(1),"), "return r") for n in (2, 3)]
    assert torch.equal(*results)
    assert results[0].shape == (2, 1, 3, 3)


@pytest.mark.parametrize(
    ("call", "need"),
    [
        ("SpatialConvolutionMM_updateGradInput(t(1, 1, 3, 3), t(1), r, t(1, 9), t(), t(), 3, 3, 1, 1, 0, 0)", "4: 1 1"),
        ("SpatialFullConvolution_updateGradInput(t(1, 1, 1), t(9), r, t(1, 1, 3, 3), t(), 3, 3, 1, 1, 0, 0)", "3: 0 1"),
        ("TemporalSubSampling_updateGradInput(t(4, 2), t(2, 2):t():resize(1, 4), r, t(2), 2, 2)", "2: 0 2"),
        ("TemporalRowConvolution_updateGradInput(t(2, 5), t(8), r, t(2, 1, 2), t(), t(), 2, 1, 0, true)", "2: 0 2"),
        ("SpatialUpSamplingNearest_updateGradInput(t(1, 1, 2), t(2, 4), r, 2)", "3: 0 1"),
        ("TemporalMaxPooling_updateGradInput(t(4, 2), t(4), r, i(2, 2), 2, 2)", "2: 0 2"),
    ],
)
def test_a_gradient_of_other_sizes_is_named(call: str, need: str) -> None:
    """Of the number of elements of the output, but of other sizes."""
    dims, size = need.split(": ")
    message = "Need gradOutput of dimension {} and gradOutput.size[{}] == {}".format(dims, *size.split())
    with pytest.raises(LuaBridgeError, match=re.escape(message)):
        _thnn(call, "")


@pytest.mark.parametrize(
    "kernel", ["LogSigmoid_updateGradInput(x, g, r, x)", "RReLU_updateGradInput(x, g, r, x, 0, 1, true, false)"]
)
def test_gradients_that_thnn_multiplies_have_the_sizes_of_grad_output(kernel: str) -> None:
    assert _thnn(
        f"Abs_updateOutput(t(6), t()) local x, g = t(2, 3):fill(1), t(3, 2) t().THNN.{kernel}", "return r"
    ).shape == (3, 2)


def test_slopes_of_floats_are_drawn_between_floats() -> None:
    code = """torch.manualSeed(1)
    local x, y, noise = torch.FloatTensor(3):fill(-1), torch.FloatTensor(), torch.FloatTensor()
    x.THNN.RReLU_updateOutput(x:cdata(), y:cdata(), noise:cdata(), 0.1, 0.3, true, false, torch.Generator())
    return noise"""
    lower, upper = torch.tensor([0.1, 0.3]).double().tolist()
    drawn = BRIDGE.execute("torch.manualSeed(1) return torch.rand(3)")
    assert BRIDGE.execute(code.replace("torch.Generator()", "torch._gen")).tolist() == (
        (drawn * (upper - lower) + lower).float().tolist()
    )


def test_the_gradient_of_a_loss_writes_the_classes_only() -> None:
    """With weights, which the loop for small tensors leaves to the kernel; THNN expects zeros and writes no others."""
    gradient = torch.full((2, 3), 7, dtype=torch.float64)
    weights, total = _real(1, 2, 4), _real(2)
    _call(
        "ClassNLLCriterion_updateGradInput", gradient.clone(), torch.tensor([1, 3]), gradient, True, weights, total, -1
    )
    assert gradient.tolist() == [[-0.5, 7, 7], [7, 7, -2]]


def test_a_class_that_a_loss_ignores_may_be_out_of_range() -> None:
    """As 255 in labels of segmentation."""
    x, target, weights, total = torch.rand(3, 2).double(), torch.tensor([2, 255, 1]), _real(1, 2), _real(0)
    loss, gradient = _real(0), torch.zeros_like(x)
    _call("ClassNLLCriterion_updateOutput", x, target, loss, True, weights, total, 255)
    _call("ClassNLLCriterion_updateGradInput", x, target, gradient, True, weights, total, 255)
    assert float(loss) == pytest.approx(-float(2 * x[0, 1] + x[2, 0]) / 3)
    assert gradient[1].tolist() == [0, 0]


@pytest.mark.parametrize(("size", "contiguous"), [("2, 5, 3", "false"), ("5, 3", "false"), ("2, 3, 5", "true")])
def test_row_convolutions_return_transposed_views_unless_features_are_first(size: str, contiguous: str) -> None:
    call = f"TemporalRowConvolution_updateOutput(torch.rand({size}), r, torch.rand(3, 1, 2), torch.rand(3), t(), t(), "
    returns = "return {r:isContiguous(), r:transpose(r:dim(), r:dim() - 1):isContiguous()}"
    first = contiguous == "true"
    assert _thnn(f"{call} 2, 1, 0, {contiguous})", returns) == [first, not first]


def test_a_row_of_a_lookup_table_needs_a_gradient() -> None:
    call = "LookupTable_accGradParameters(i {1, 2}, g, r:resize(3, 2):zero(), torch.IntTensor(), nil, nil, true, 0, 1)"
    assert _thnn(call.replace("g,", "t(3, 2):fill(1),"), "return r").tolist() == [[1, 1], [1, 1], [0, 0]]
    with pytest.raises(LuaBridgeError, match=r"gradOutput \[1 x 2\] has no 2 rows of 2 elements"):
        _thnn(call.replace("g,", "t(1, 2),"), "")


@pytest.mark.parametrize("runtime", BRIDGES)
def test_an_error_of_a_kernel_names_the_line_of_its_caller(runtime: str) -> None:
    """Also with more arguments than the fast conversion has."""
    code = """local x = torch.rand(3)
    local function f() x.THNN.ELU_updateGradInput(x, torch.rand(4), x, x, 1, false)
    end return select(2, pcall(f))"""
    assert BRIDGES[runtime].execute(code).startswith("python:2: input and gradOutput")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Tanh_updateOutput(t(3))", "wrong number of arguments to 'Tanh_updateOutput': got 1, needs 2"),
        (
            "Tanh_updateOutput(t(3), nil)",
            "bad argument #2 to 'Tanh_updateOutput' (torch.DoubleTensor expected, got nil)",
        ),
        (
            "Tanh_updateOutput({}, t())",
            "bad argument #1 to 'Tanh_updateOutput' (torch.DoubleTensor expected, got table)",
        ),
        (
            "SpatialMaxPooling_updateOutput(t(1, 4, 4), t(), nil, 2, 2, 2, 2, 0, 0, false)",
            "bad argument #3 to 'SpatialMaxPooling_updateOutput' (torch.LongTensor expected, got nil)",
        ),
    ],
)
def test_a_missing_argument_of_a_kernel_is_named(call: str, message: str) -> None:
    with pytest.raises(LuaBridgeError, match=re.escape(f"python:1: {message}")):
        _thnn(call, "")


def test_other_functions_name_a_missing_argument() -> None:
    for call in ("torch.deserialize()", "require('threads').Threads()"):
        with pytest.raises(LuaBridgeError, match=r"python:1: bad argument #1 to '[a-zA-Z]+' .* expected, got nil"):
            BRIDGE.execute(call)
