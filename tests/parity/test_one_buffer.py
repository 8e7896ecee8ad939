"""Models that contain one module several times: Torch7 has one buffer for all its uses."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from formula import lua
from torch import Tensor, nn

from dpnn_bridge import save, verify
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import fresh, lua_value
from dpnn_bridge.loaders import dumps
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.modules.dpnn import Convert, DontCast
from dpnn_bridge.modules.nn import CAddTable, ConcatTable, JustElement, JustTable, View
from dpnn_bridge.modules.nn.criterion import MultiCriterion, ParallelCriterion
from dpnn_bridge.modules.rnn import Repeater, Sequencer
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable
from dpnn_bridge.parity import check_module


def chain(shared: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 3)).double()


def branches() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Tanh()
    sides = (nn.Sequential(nn.Linear(4, 4), shared) for _ in range(2))
    return nn.Sequential(ConcatTable(*sides), CAddTable(), nn.Linear(4, 3)).double()


class Root(nn.Module):
    """The square root of negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(-x)


class Same(nn.Module):
    """A layer without a Lua class that returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def of_torch7(model: nn.Sequential, x: Tensor) -> Tensor:
    """The output of :func:`branches` in Torch7: the second branch overwrites the result of the first."""
    return model[2](2 * model[0][1](x))


def reference(x: Tensor, output: Tensor) -> LuaTable:
    return LuaTable({name: lua_value(value) for name, value in (("input", x), ("output", output))})


def verdict(model: nn.Module, x: Tensor, output: Tensor) -> Verdict:
    (found,) = (d for d in check_module(model, reference(x, output)).differences if d.name == "output")
    return found.verdict


@pytest.mark.parametrize("shared", [nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 4), nn.Identity()], ids=repr)
def test_a_wrong_weight_is_different_where_no_result_is_overwritten(shared: nn.Module) -> None:
    """A known difference, before."""
    model, x = chain(shared).eval(), torch.randn(2, 4).double()
    output = model(x).detach()
    assert verdict(model, x, output) == Verdict.EQUAL
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-3
        assert verdict(model, x, output) == Verdict.DIFFERENT
        with torch.no_grad():
            parameter.view(-1)[0] -= 1e-3


def test_a_linear_layer_that_reads_its_own_result_is_a_known_difference() -> None:
    """Torch7 multiplies while it overwrites the input, so its result is undefined; Tanh reads each element once."""
    x = torch.randn(2, 4).double()
    for shared, expected in ((nn.Linear(4, 4), Verdict.KNOWN), (nn.Tanh(), Verdict.DIFFERENT)):
        model = nn.Sequential(nn.Linear(4, 4), shared, shared).double()
        assert verdict(model, x, model(x).detach()) == Verdict.EQUAL
        assert verdict(model, x, torch.randn(2, 4).double()) == expected


#: layers that read their own result if they occur twice in a row
TWICE: dict[str, tuple[LuaObject, tuple[int, ...]]] = {
    "Padding": (lua("nn.Padding", dim=1, pad=0, nInputDim=2, value=0, index=1), (2, 4)),
    "SpatialAveragePooling": (
        lua("nn.SpatialAveragePooling", kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, ceil_mode=False, divide=True),
        (1, 2, 4, 4),
    ),
    "SpatialMaxPooling": (
        lua("nn.SpatialMaxPooling", kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, ceil_mode=False),
        (1, 2, 4, 4),
    ),
    "SpatialCrossMapLRN": (lua("nn.SpatialCrossMapLRN", size=3, alpha=1e-4, beta=0.75, k=1), (1, 4, 3, 3)),
    "SpatialZeroPadding": (lua("nn.SpatialZeroPadding", pad_l=0, pad_r=0, pad_t=0, pad_b=0), (1, 2, 4, 4)),
    "VolumetricAveragePooling": (
        lua("nn.VolumetricAveragePooling", kT=1, kW=1, kH=1, dT=1, dW=1, dH=1, padT=0, padW=0, padH=0),
        (1, 2, 3, 3, 3),
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_layer_twice_in_a_row_is_a_known_difference(name: str) -> None:
    obj, shape = TWICE[name]
    shared = to_torch(obj).double()
    model, x = nn.Sequential(shared, shared), torch.rand(shape).double()
    assert verdict(model, x, torch.randn(model(x).shape).double()) == Verdict.KNOWN


def test_a_result_of_another_size_is_not_undefined() -> None:
    """The buffer of the first use is resized."""
    shared, x = to_torch(lua("nn.SpatialAveragePooling", kW=2, kH=2, dW=2, dH=2, divide=True)), torch.rand(1, 1, 8, 8)
    assert verdict(nn.Sequential(shared, shared), x, torch.randn(1, 1, 2, 2)) == Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (nn.Identity(), Verdict.KNOWN),
        (nn.ReLU(inplace=True), Verdict.KNOWN),
        (nn.Tanh(), Verdict.DIFFERENT),
        (nn.Dropout(0.0), Verdict.DIFFERENT),  # PyTorch returns the input, Torch7 copies it
        (nn.Sequential(), Verdict.KNOWN),
        (Same(), Verdict.KNOWN),
        (Convert("bf", "bf"), Verdict.KNOWN),
        (Convert("fb", "bf"), Verdict.DIFFERENT),  # in Torch7 an nn.Transpose, which copies
        (DontCast(nn.Identity(), False), Verdict.KNOWN),
        (DontCast(nn.Identity(), True), Verdict.DIFFERENT),
        (nn.Sequential(Repeater(nn.Identity(), 1), JustElement()), Verdict.DIFFERENT),
        (nn.Sequential(JustTable(), Sequencer(nn.Identity()), JustElement()), Verdict.KNOWN),
        (nn.Sequential(JustTable(), Sequencer(nn.Identity()), JustElement()).eval(), Verdict.DIFFERENT),
    ],
    ids=repr,
)
def test_a_layer_between_may_pass_on_the_result(between: nn.Module, expected: Verdict) -> None:
    shared, x = nn.Linear(4, 4), torch.randn(4, 4).double()
    model = nn.Sequential(shared, between, shared).double()
    assert verdict(model, x, torch.randn(4, 4).double()) == expected


@pytest.mark.parametrize(("forced", "expected"), [(False, Verdict.KNOWN), (True, Verdict.DIFFERENT)])
def test_a_copy_that_is_forced_is_no_pass(forced: bool, expected: Verdict, tmp_path: Path) -> None:
    """Without forceCopy, the object has functions of its own, which return their arguments."""
    functions = {} if forced else {"updateOutput": LuaFunction(b""), "updateGradInput": LuaFunction(b"")}
    between = to_torch(lua("nn.Copy", output=torch.empty(0).double(), **functions))
    shared, x = nn.Linear(4, 4).double(), torch.randn(4, 4).double()
    assert verdict(nn.Sequential(shared, between, shared), x, torch.randn(4, 4).double()) == expected
    save(tmp_path / "copy.t7", nn.Sequential(between))  # it can be written


@pytest.mark.parametrize(("output", "expected"), [("bchw", Verdict.KNOWN), ("bhwc", Verdict.DIFFERENT)])
def test_images_whose_dimensions_are_reordered_are_copied(output: str, expected: Verdict) -> None:
    """:class:`Convert` writes an nn.Transpose."""
    fields = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1, "ceil_mode": False, "divide": True}
    pool = to_torch(lua("nn.SpatialAveragePooling", **fields))
    model = nn.Sequential(pool, Convert("bchw", output), pool).double()
    assert verdict(model, torch.rand(1, 4, 4, 4).double(), torch.randn(1, 4, 4, 4).double()) == expected


def test_an_inplace_layer_of_torch7_overwrites_the_result() -> None:
    fields = {"inplace": True, "constant_scalar": 1, "train": True}
    between = to_torch(fresh("nn.AddConstant", "torch.DoubleTensor", **fields))
    shared = nn.Linear(4, 4).double()
    model, x = nn.Sequential(shared, between, shared), torch.randn(2, 4).double()
    given = x.clone()
    assert verdict(model, x, torch.randn(2, 4).double()) == Verdict.KNOWN
    first = nn.Sequential(between, nn.Tanh(), shared, shared)
    assert verdict(first, x, torch.randn(2, 4).double()) == Verdict.KNOWN
    assert torch.equal(x, given)  # the input of the reference stays


@pytest.mark.parametrize("other", [nn.Hardswish(), Root()], ids=repr)
def test_gradients_of_a_model_with_a_layer_without_a_lua_class_are_compared(other: nn.Module) -> None:
    model, x = nn.Sequential(*chain(nn.Tanh()), other).double(), -torch.rand(2, 4).double()
    table = reference(x, model(x).detach())
    table["gradOutput"], table["gradInput"] = lua_value(torch.ones(2, 3).double()), lua_value(torch.ones(2, 4).double())
    found = {d.name: d.verdict for d in check_module(model, table).differences}
    assert found["gradInput"] in (Verdict.KNOWN, Verdict.DIFFERENT)


def test_a_nan_that_is_no_undefined_result_is_different() -> None:
    shared, x = nn.Linear(4, 4), torch.randn(2, 4).double()
    model = ConcatTable(nn.Sequential(shared, shared), nn.Sequential(nn.Linear(4, 3), nn.Softplus(), Root())).double()
    undefined, _ = (y.detach() for y in model(x))
    table = reference(x, torch.zeros(0))
    table["output"] = lua_value([undefined + 1, torch.randn(2, 3).double()])
    found = {d.name: d.verdict for d in check_module(model, table).differences}
    assert [found["output[1]"], found["output[2]"]] == [Verdict.KNOWN, Verdict.DIFFERENT]


def reused(*modules: nn.Module) -> nn.Sequential:
    """A container that runs twice."""
    block = nn.Sequential(*modules)
    return nn.Sequential(block, block).double()


def test_a_container_that_occurs_twice_in_a_row_overwrites_what_the_modules_inside_read() -> None:
    x, wrong = torch.randn(2, 4).double(), torch.randn(2, 4).double()
    linear = nn.Linear(4, 4)
    assert verdict(reused(linear), x, wrong) == Verdict.KNOWN
    assert verdict(reused(linear, nn.ReLU(inplace=True)), x, wrong) == Verdict.KNOWN
    assert verdict(reused(linear, nn.ReLU()), x, wrong) == Verdict.DIFFERENT


@pytest.mark.parametrize("off", [0.0, 1e-6])
@pytest.mark.parametrize(
    ("name", "combine"),
    [
        *(("CAddTable", torch.add), ("CMulTable", torch.mul), ("CMaxTable", torch.maximum)),
        *(("CMinTable", torch.minimum), ("CSubTable", torch.sub), ("CDivTable", torch.div)),
    ],
)
def test_a_residual_block_twice_in_a_row_adds_to_its_own_result(name: str, combine: Any, off: float) -> None:
    """``nn.CAddTable`` copies its first input onto the second one before it reads that."""
    branch = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    x, table = torch.randn(2, 4).double(), to_torch(lua(f"nn.{name}", inplace=False))
    model = reused(ConcatTable(branch, nn.Identity()), table)
    second = branch(combine(branch(x), x)).detach()
    assert verdict(model, x, combine(second, second) + off) == (Verdict.DIFFERENT if off else Verdict.KNOWN)


def test_tensors_of_other_shapes_twice_in_a_row() -> None:
    """``nn.CSubTable`` takes any tensor with as many elements, as in ``nn.LayerNormalization``."""
    table = to_torch(lua("nn.CSubTable", inplace=False))
    model = reused(ConcatTable(nn.Linear(4, 4), View(8, 1)), table)  # the second time, both are the same memory
    x, zeros = torch.randn(2, 4).double(), torch.zeros(2, 4).double()
    assert verdict(model, x, zeros) == Verdict.KNOWN
    assert verdict(model, x, zeros + 1e-3) == Verdict.DIFFERENT


@pytest.mark.parametrize("name", ["MM", "MixtureTable"])
def test_a_product_of_its_own_result_is_undefined(name: str) -> None:
    """Both set their output to zero before they read their input, which is their output the second time."""
    other = ConcatTable(nn.Identity(), nn.Tanh()) if name == "MixtureTable" else nn.Identity()
    model = reused(ConcatTable(nn.Softmax(-1), other), to_torch(lua(f"nn.{name}", inplace=False)))
    x = torch.randn(2, 2).double()
    assert verdict(model, x, torch.zeros(2, 2).double()) == Verdict.KNOWN
    assert verdict(model[:1], x, torch.zeros(2, 2).double()) == Verdict.DIFFERENT


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("container", [MultiCriterion, ParallelCriterion])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.SmoothL1Loss(), nn.CrossEntropyLoss()], ids=repr)
def test_a_wrong_gradient_of_a_criterion_that_occurs_twice(loss: nn.Module, container: Any, nested: bool) -> None:
    """Its container reads the gradient before the next use overwrites it, and most criterions store nothing else."""
    inner = MultiCriterion([loss]) if nested else loss
    model, several = container([inner, inner], [0.3, 0.4]), container is ParallelCriterion
    x = torch.randn(2, 4).double().requires_grad_()
    target = torch.tensor([1, 2]) if isinstance(loss, nn.CrossEntropyLoss) else torch.randn(2, 4).double()
    model([x, x] if several else x, [target, target] if several else target).backward()
    assert x.grad is not None
    gradient = x.grad / 2 if several else x.grad
    indices = target + 1 if target.dtype == torch.int64 else target
    table = LuaTable({"input": lua_value([x, x] if several else x), "output": lua_value(0.0)})
    table["target"] = lua_value([indices, indices] if several else indices)
    table["gradInput"] = lua_value([3 * gradient, gradient] if several else 3 * gradient)
    found = {d.name: d.verdict for d in check_module(model, table).differences}
    stores = several and isinstance(loss, nn.CrossEntropyLoss)  # the softmax of the last input
    assert found["gradInput[1]" if several else "gradInput"] == (Verdict.KNOWN if stores else Verdict.DIFFERENT)


def test_results_that_an_undefined_one_does_not_reach_are_compared() -> None:
    shared, x = nn.Linear(4, 4), torch.randn(2, 4).double()
    model = ConcatTable(nn.Sequential(shared, shared), nn.Linear(4, 3)).double()
    undefined, right = (y.detach() for y in model(x))
    for other, expected in ((right, [Verdict.KNOWN, Verdict.EQUAL]), (1.5 * right, [Verdict.KNOWN, Verdict.DIFFERENT])):
        table = reference(x, torch.zeros(0))
        table["output"] = lua_value([undefined + 1, other])
        found = {d.name: d.verdict for d in check_module(model, table).differences}
        assert [found["output[1]"], found["output[2]"]] == expected


def test_an_overwritten_result_is_a_known_difference_and_a_wrong_weight_is_not() -> None:
    model, x = branches(), torch.randn(2, 4).double()
    output = of_torch7(model, x).detach()
    assert verdict(model, x, output) == Verdict.KNOWN
    assert verdict(model, x, model(x).detach()) == Verdict.EQUAL
    names = dict(model.named_parameters())
    for name, parameter in names.items():
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-3
        # the result of the first branch is not in the reference
        assert verdict(model, x, output) == (Verdict.KNOWN if name.startswith("0.0") else Verdict.DIFFERENT), name
        with torch.no_grad():
            parameter.view(-1)[0] -= 1e-3


def test_a_module_that_returns_its_parameter_keeps_it() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(4.0).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.weight[:2] if x.sum() > 0 else self.weight[2:]

    shared = Returned()
    model, x = nn.Sequential(ConcatTable(shared, shared), CAddTable()), torch.ones(2).double()
    assert verdict(model, x, torch.ones(2).double()) == Verdict.DIFFERENT
    assert shared.weight.tolist() == [0, 1, 2, 3]


IN_PLACE = to_torch(lua("nn.ReLU", threshold=0, val=0, inplace=True))


def gradients_of_torch7(model: Any, x: Tensor, g: Tensor) -> list[Tensor]:
    """The gradients of :func:`chain` in Torch7, where the activation's last result is in the place of the first."""
    first, shared, second, _, third = model
    with torch.no_grad():
        a = first(x)
        b = second(shared(a))
        y = shared(b)
        is_relu = isinstance(shared, nn.ReLU)  # which uses its input, and Tanh its output: both times the last one
        d_first, d_last = ((a > 0).double(), (b > 0).double()) if is_relu else (1 - y * y, 1 - y * y)
        g_second = g @ third.weight * d_last
        g_first = g_second @ second.weight * d_first
        pairs = ((g_first, x), (g_second, y), (g, y))
        parameters = [value for grad, input in pairs for value in (grad.t() @ input, grad.sum(0))]
        return [g_first @ first.weight, *parameters]


def check_gradients(model: nn.Module, x: Tensor, g: Tensor, right: list[Tensor]) -> None:
    """Check that Torch7's gradients of :func:`chain` are known differences, and that each wrong one is different."""

    def verdicts(gradients: list[Tensor]) -> dict[str, Verdict]:
        table = reference(x, model(x).detach())
        table["gradOutput"], table["gradInput"] = lua_value(g), lua_value(gradients[0])
        table["gradParams"] = LuaTable.from_list(map(lua_value, gradients[1:]))
        return {d.name: d.verdict for d in check_module(model, table).differences}

    found = verdicts(right)
    assert set(found.values()) == {Verdict.EQUAL, Verdict.KNOWN}
    assert found["gradParams[3]"] == Verdict.KNOWN
    for i, name in enumerate(["gradInput", *(f"gradParams[{n}]" for n in range(1, 7))]):
        wrong = [value * 1.5 if i == n else value for n, value in enumerate(right)]
        assert verdicts(wrong)[name] == Verdict.DIFFERENT


@pytest.mark.parametrize("last", [None, "in place"])
@pytest.mark.parametrize("shared", [nn.ReLU(), IN_PLACE, nn.Tanh()], ids=["ReLU", "ReLU in place", "Tanh"])
def test_gradients_from_an_overwritten_result_are_a_known_difference_and_wrong_ones_are_not(
    shared: nn.Module, last: str | None
) -> None:
    """Also beside layers in place: the container gives the next layer ``output``, the memory of the last use."""
    model: Any = chain(shared).train()
    x, g = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    right = gradients_of_torch7(model, x, g if last is None else g * (model(x) > 0))
    if last is not None:
        model.append(IN_PLACE if shared is not IN_PLACE else copy.deepcopy(IN_PLACE))
    assert not torch.allclose(right[3], torch.autograd.grad(model(x), model[2].weight, g)[0])

    check_gradients(model, x, g, right)


#: layers that return their input
SAME = {
    "Narrow": [lua("nn.Narrow", dimension=2, index=1, length=4)],
    "Transpose": [lua("nn.Transpose", permutations=LuaTable.from_list([LuaTable.from_list([1, 2])]))] * 2,
    "Replicate": [
        lua("nn.Replicate", nfeatures=3, dim=1, ndim=math.inf),
        lua("nn.Select", dimension=1, index=2),
        lua("nn.Contiguous"),
    ],
    "Unsqueeze": [
        lua("nn.Unsqueeze", pos=2),
        lua("nn.Mean", dimension=2, nInputDims=-1, squeeze=True, sizeAverage=True),
    ],
}


@pytest.mark.parametrize("name", SAME)
def test_a_wrong_gradient_beside_a_layer_that_reads_no_values(name: str) -> None:
    model: Any = chain(nn.Tanh()).train()
    x, g = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    right = gradients_of_torch7(model, x, g)
    for layer in reversed(SAME[name]):
        model.insert(1, to_torch(layer))
    check_gradients(model, x, g, right)


SCRIPT = """
require 'nn'
torch.manualSeed(1)
local shared = nn[...]()
local model = nn.Sequential():add(nn.Linear(4, 4)):add(shared):add(nn.Linear(4, 4)):add(shared):add(nn.Linear(4, 3))
local function copied(value) return torch.deserialize(torch.serialize(value)) end
local before = copied(model)
local reference = {mode = 'train', seed = 1, input = torch.randn(2, 4)}
model:training()
torch.manualSeed(1)
reference.output = model:forward(reference.input):clone()
reference.gradOutput = torch.randn(2, 3)
model:zeroGradParameters()
reference.gradInput = model:backward(reference.input, reference.gradOutput)
reference.gradParams = select(2, model:parameters())
reference.after = model
return before, reference
"""


@pytest.mark.torch7
@pytest.mark.parametrize("shared", ["Tanh", "Dropout", "ReLU", "Sigmoid"])
def test_training_in_torch7(shared: str, tmp_path: Path) -> None:
    """The noise of a dropout that occurs twice follows from the seed; `after` contains that of the last use."""
    for value, name in zip(
        run_torch7(SCRIPT, shared, program=os.environ["DPNN_TORCH7"]), ("model", "ref"), strict=True
    ):
        (tmp_path / f"{name}.t7").write_bytes(dumps(value))
    result = verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7")
    assert result.verdict in (Verdict.EQUAL, Verdict.KNOWN)
    outputs = [d for layer in result.layers for d in layer.differences if d.name.endswith("output")]
    assert {d.verdict for d in outputs} == {Verdict.EQUAL}


REPEATED = """
require 'nn'
local function sequence(...) local s = nn.Sequential(); for _, m in ipairs {...} do s:add(m) end; return s end
local name, size = ..., {4}
torch.manualSeed(1)
local model
if name == 'block' then
   local b = sequence(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU())
   model = sequence(b, nn.Linear(4, 4), b, b)
elseif name == 'convolution' then
   local c, t = nn.SpatialConvolution(3, 3, 3, 3, 1, 1, 1, 1), nn.ReLU()
   model, size = sequence(c, t, c, t, c), {3, 5, 5}
elseif name == 'branches' then
   local t = nn.Tanh()
   local table = nn.ConcatTable():add(sequence(t, nn.Linear(4, 4), t)):add(sequence(t, nn.Linear(4, 4)))
   model = sequence(nn.Linear(4, 4), table, nn.CAddTable(), t, nn.Linear(4, 4))
elseif name:find('once ') then
   local function table(...) local t = nn.ConcatTable(); for _, m in ipairs {...} do t:add(m) end; return t end
   local t, mean, image = nn.Tanh(), nn.Replicate(4, 2), nn.Reshape(1, 2, 2)
   local once = ({
      Select = sequence(nn.Select(2, 3), mean), Narrow = sequence(nn.Narrow(2, 2, 3), nn.Padding(2, 1)),
      Transpose = sequence(nn.Transpose({1, 2}), nn.Transpose({1, 2})), Mean = sequence(nn.Mean(2), mean),
      Sum = sequence(nn.Sum(2), mean), Max = sequence(nn.Max(2), mean), Min = sequence(nn.Min(2), mean),
      Unsqueeze = sequence(nn.Unsqueeze(2), nn.Squeeze(2)), Contiguous = nn.Contiguous(),
      SplitTable = sequence(nn.SplitTable(2), nn.SelectTable(2), mean),
      CSubTable = sequence(table(t, nn.Linear(4, 4)), nn.CSubTable()),
      FlattenTable = sequence(table(t, table(nn.Linear(4, 4), nn.Identity())), nn.FlattenTable(), nn.CAddTable()),
      NarrowTable = sequence(table(t, nn.Linear(4, 4), nn.Identity()), nn.NarrowTable(2, 2), nn.CAddTable()),
      SpatialZeroPadding = sequence(image, nn.SpatialZeroPadding(1, 0, 0, 0), nn.Reshape(6), nn.Linear(6, 4)),
      SpatialUpSamplingNearest = sequence(image, nn.SpatialUpSamplingNearest(2), nn.Reshape(16), nn.Linear(16, 4)),
   })[name:sub(6)]
   model = sequence(nn.Linear(4, 4), t, nn.Linear(4, 4), once, t, nn.Linear(4, 4))
else
   local arguments = {Threshold = {0.1, -0.2}, MulConstant = {0.7}, AddConstant = {0.3}, Add = {4}, CMul = {4},
                      HardShrink = {0.1}, SoftShrink = {0.1}}
   local t = nn[name](unpack(arguments[name] or {}))
   model = sequence(t, nn.Linear(4, 4), t, nn.Linear(4, 4), t)
end
local before = torch.deserialize(torch.serialize(model))
local reference = {mode = 'train', input = torch.randn(2, unpack(size))}
reference.output = model:forward(reference.input):clone()
reference.gradOutput = reference.output:clone():normal()
model:zeroGradParameters()
reference.gradInput = model:backward(reference.input, reference.gradOutput)
reference.gradParams = select(2, model:parameters())
return before, reference
"""
NAMES = ["block", "convolution", "branches", "Tanh", "Sigmoid", "SoftMax", "LogSoftMax", "Exp", "ReLU", "ReLU6"]
NAMES += ["LeakyReLU", "PReLU", "Threshold", "HardTanh", "Abs", "Square", "MulConstant", "AddConstant", "Identity"]
NAMES += ["Add", "Mul", "CMul", "HardShrink", "SoftShrink", "SoftSign"]
ONCE = ["Select", "Narrow", "Transpose", "Mean", "Sum", "Max", "Min", "Unsqueeze", "Contiguous", "SplitTable"]
ONCE += ["CSubTable", "FlattenTable", "NarrowTable", "SpatialZeroPadding", "SpatialUpSamplingNearest"]
NAMES += [f"once {name}" for name in ONCE]


@pytest.mark.torch7
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_torch7_are_known_and_each_wrong_one_is_different(name: str, tmp_path: Path) -> None:
    model, table = run_torch7(REPEATED, name, program=os.environ["DPNN_TORCH7"])
    (tmp_path / "model.t7").write_bytes(dumps(model))

    def found(reference: LuaTable) -> Verdict | None:
        (tmp_path / "ref.t7").write_bytes(dumps(reference))
        return verify(tmp_path / "model.t7", reference=tmp_path / "ref.t7").gradients

    assert found(table) in (Verdict.EQUAL, Verdict.KNOWN)
    for tensor in (table["gradInput"], *table["gradParams"].as_list()):
        right = tensor.numpy().copy()
        tensor.numpy()[...] *= 1.5
        assert found(table) == Verdict.DIFFERENT
        tensor.numpy()[...] = right
