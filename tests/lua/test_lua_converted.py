"""Classes of the registry inside Lua: one fixture of each class of nn gives what Torch7 stored."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import nn

pytest.importorskip("lupa")

from dpnn_bridge import to_lua
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.lua import LuaBridge, converted
from dpnn_bridge.modules.nn.pooling_special import FixedFractionalMaxPool2d, FixedFractionalMaxPool3d
from dpnn_bridge.modules.nn.unpooling import MaxUnpooling
from dpnn_bridge.objects import LuaObject, LuaTable

#: kept as one dense tensor in Torch7, see tests/modules/test_sparse.py
SPARSE = ("nn.IndexLinear", "nn.SparseLinear")
#: what they draw is not what Torch7 drew
RANDOM = (
    "nn.Bigrams",
    "nn.NCEModule",
    "nn.PCAColorTransform",
    "nn.SimpleColorTransform",
    "nn.SpatialRegionDropout",
    "nn.WhiteNoise",
)
#: their backward needs a reward, see tests/modules
REINFORCE = (
    "nn.RecurrentAttention",
    "nn.Reinforce",
    "nn.ReinforceBernoulli",
    "nn.ReinforceCategorical",
    "nn.ReinforceGamma",
    "nn.ReinforceNormal",
)
OTHERS = {
    "nn.Container": "has no forward of its own",
    "nn.CriterionTable": "its gradient is that of a criterion",
    "nn.DontCast": "it computes in single precision",
    "nn.GPU": "a subclass has the same files in Lua but not in Python",
    "nn.MapTable": "the bridge's base of nn lists the parameters of clones once for each",
    "nn.NaN": "raises on purpose",
    "nn.SoftMaxTree": "lists the parameters of the last path alone",
    "nn.SpatialDepthWiseConvolution": "Torch7 shows the same gradients in another shape",
    "nn.WeightNorm": "as well",
}


def _cases() -> list[dict[str, Any]]:
    entries = [e for s in ("nn", "dpnn", "rnn") for e in manifest(set=s, kind="module", dtype="double")]
    leave_out = re.compile("__legacy_|drop|attention|^2015")  # versions of old, random, without a reward
    first = {(e["set"], e["class"]): e for e in reversed(entries) if not leave_out.search(e["name"])}
    return [e for (_, name), e in sorted(first.items()) if name not in {*RANDOM, *REINFORCE, *SPARSE, *OTHERS}]


BRIDGE = LuaBridge()
BRIDGE.require("nn")
BRIDGE.execute("my = {}")
RUN = BRIDGE.execute("""
    return function(module, input, gradOutput)
       module:zeroGradParameters()
       local output = module:forward(input)
       if not gradOutput then return output end
       local gradInput = module:backward(input, gradOutput)
       return output, gradInput, select(2, module:parameters()) or {}
    end
""")


def _derived(obj: LuaObject) -> LuaObject:
    """An object of a subclass that overrides nothing."""
    name = f"my.{obj.class_name.replace('.', '_')}"
    if not BRIDGE.has_class(name):
        BRIDGE.execute(f"torch.class('{name}', '{obj.class_name}')")
    return LuaObject(name, obj.fields, version=obj.version)


@pytest.mark.parametrize("derived", [False, True], ids=["itself", "subclass"])
@pytest.mark.parametrize("entry", _cases(), ids=fixture_id)
def test_a_class_runs_in_lua_as_in_torch7(entry: dict[str, Any], derived: bool) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    if fixture.get("forward_error") is not None or fixture.get("backward_error") is not None:
        pytest.skip("Torch7 raises")
    module = _derived(fixture["module"]) if derived else fixture["module"]
    grad_output = fixture.get("gradOutput")
    results = BRIDGE.call(RUN, module, fixture["input"], grad_output)
    output, *gradients = results if grad_output is not None else [results]
    found = compare("output", output, to_value(fixture["output"]), Tolerance())
    for name, gradient in zip(("gradInput", "gradParams"), gradients, strict=False):
        if fixture.get(name) is not None:
            found += compare(name, gradient, to_value(fixture[name]), Tolerance())
    assert [d.message for d in found if not d.ok] == []


@pytest.mark.parametrize("name", ["SeqLSTM__batchfirst", "Padding__rnn_right"])
def test_a_backward_whose_gradients_are_no_plain_tensors(name: str) -> None:
    """SeqLSTM keeps a table as gradInput while Lua has a tensor; the gradient of rnn's Padding is its input."""
    (entry,) = [e for e in manifest(set="rnn") if e["name"] == f"{name}__double_train" and "head" in e["file"]]
    fixture = read_t7(FIXTURES / entry["file"])
    _, gradient, *_ = BRIDGE.call(RUN, fixture["module"], fixture["input"], fixture["gradOutput"])
    torch.testing.assert_close(gradient, to_value(fixture["gradInput"]))


def test_an_object_keeps_the_version_of_its_fields() -> None:
    """A VolumetricMaxPooling of version 1 has no ceil_mode, whatever its fields say."""
    entries = {e["name"]: e for e in manifest(**{"class": "nn.VolumetricMaxPooling", "set": "nn"})}
    for name, version in (("legacy_v1_ceil", 1), ("ceil_single", 2)):
        fixture = read_t7(FIXTURES / entries[f"VolumetricMaxPooling__{name}__double_train"]["file"])
        assert BRIDGE.to_object(BRIDGE.to_lua(fixture["module"])).version == version
        output = BRIDGE.execute("local m, x = ... return m:clone():forward(x)", fixture["module"], fixture["input"])
        torch.testing.assert_close(output, to_value(fixture["output"]))
    assert BRIDGE.to_object(BRIDGE.execute("return nn.BatchNormalization(3)")).version == 2


def _parallel(name: str, *, version: int = 2, header: bool = True, **fields: Any) -> LuaObject:
    gpus = LuaTable.from_list([1, 2])
    table = LuaTable({"modules": LuaTable.from_list([LuaObject("nn.Tanh"), LuaObject("nn.Sigmoid")]), **fields})
    table["gpuAssignments"] = gpus
    return LuaObject(name, table, version=version, header=(gpus,) if header else ())


OWN_FILES = {
    "GPU": LuaObject(
        "nn.GPU",
        LuaTable({"modules": LuaTable.from_list([LuaObject("nn.Tanh")]), "_type": "torch.FloatTensor", "device": 2}),
        header=(LuaTable.from_list(["torch.FloatTensor", 2]),),
    ),
    "data": _parallel("nn.DataParallelTable", impl=LuaObject("nn.DataParallelTable.Basic")),
    "data 1": _parallel("nn.DataParallelTable", version=1, header=False),
    "model": _parallel("nn.ModelParallelTable", dimension=2),
    "branches": _parallel("nn.ModelParallelTable", header=False, nGpus=2),
    "one table": LuaObject("nn.ModelParallelTable", LuaTable({"modules": LuaTable(), "dimension": 2})),
    "scales": LuaObject("nn.PyramidPacker", LuaTable({"dimz": 1}), header=(0.5, 2.0)),
}


@pytest.mark.parametrize("obj", OWN_FILES.values(), ids=OWN_FILES)
def test_classes_with_their_own_files(obj: LuaObject) -> None:
    """Beside the table of their fields, their files contain other values."""
    same, after = BRIDGE.execute("local t = ... return {t[1]:clone(), t[2]}", LuaTable.from_list([obj, "after"]))
    back = BRIDGE.to_object(same)
    assert after == "after"
    assert str(back.header) == str(obj.header)
    assert {k: str(v) for k, v in back.items()} == {k: str(v) for k, v in obj.items()}


@pytest.mark.parametrize("dims", [2, 3])
def test_an_unpooling_uses_the_maxima_of_its_pooling(dims: int) -> None:
    pooling: Any = (nn.MaxPool2d, nn.MaxPool3d)[dims - 2](2)
    model = nn.Sequential(pooling, nn.Tanh(), MaxUnpooling(pooling))
    obj = to_lua(model)
    for size in (4, 6):
        x = torch.randn(2, 3, *[size] * dims, requires_grad=True)
        expected, weights = model(x), torch.randn(2, 3, *[size] * dims)
        output, gradient, _ = BRIDGE.call(RUN, obj, x.detach(), weights)
        torch.testing.assert_close(output, expected.detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, weights)[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_fixed_windows_stay_after_the_first_forward(dims: int) -> None:
    pooling = (FixedFractionalMaxPool2d, FixedFractionalMaxPool3d)[dims - 2](2, output_size=[3] * dims)
    code = "local m, x = ... return m:forward(x):clone(), m:forward(x), m:forward(x:narrow(1, 1, 1))"
    first, second, third = BRIDGE.execute(code, to_lua(nn.Sequential(pooling)), torch.randn(2, 3, *[9] * dims))
    assert torch.equal(first, second)
    assert third.shape[0] == 1


def test_decorated_parameters_are_found() -> None:
    fixture = read_t7(FIXTURES / manifest(**{"class": "nn.Decorator", "set": "nn"})[0]["file"])
    module = BRIDGE.to_lua(fixture["module"])
    assert BRIDGE.execute("local m = ... m:evaluate() return #m:parameters(), m.modules[1].train", module) == (2, False)


def test_the_parameters_of_weight_norm_are_its_own() -> None:
    """Its module shares the bias, and has no weight in a file."""
    fixture = read_t7(FIXTURES / manifest(**{"class": "nn.WeightNorm", "set": "nn", "dtype": "double"})[0]["file"])
    gradients = BRIDGE.call(RUN, fixture["module"], fixture["input"], fixture["gradOutput"])[2]
    for gradient, expected in zip(gradients, to_value(fixture["gradParams"]), strict=True):
        torch.testing.assert_close(gradient, expected.reshape(gradient.shape))


def test_one_layer_used_twice() -> None:
    """Its second output replaces the first, but Tanh's backward does not use its input."""
    layer = nn.Linear(3, 3).double()
    model, x = nn.Sequential(nn.Linear(3, 3).double(), layer, nn.Tanh(), layer), torch.randn(2, 3, dtype=torch.float64)
    code = """
    local m, x, g = ...
    local flat, gradient = m:getParameters()
    m:zeroGradParameters()
    m:forward(x)
    return flat, m:backward(x, g), gradient
    """
    given = torch.randn(2, 3, dtype=torch.float64)
    flat, *gradients = BRIDGE.execute(code, to_lua(model), x, given)
    x.requires_grad_()
    expected = torch.autograd.grad(model(x), (x, *model.parameters()), given)
    assert torch.equal(flat, torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients, [expected[0], torch.cat([g.flatten() for g in expected[1:]])])


def test_an_error_inside_names_the_class() -> None:
    with pytest.raises(LuaBridgeError, match=r"nn\.Linear: .*mat1 and mat2 shapes"):
        BRIDGE.execute("nn.Linear(3, 2):forward(torch.ones(1, 4))")


def test_an_error_inside_may_contain_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("größer als 模型")

    monkeypatch.setattr(converted.ConvertedModules, "_run", fail)
    with pytest.raises(LuaBridgeError, match=r"nn\.Tanh: größer als 模型"):
        BRIDGE.execute("nn.Tanh():forward(torch.ones(2))")


def test_an_error_in_a_backward_is_text_that_names_the_class() -> None:
    code = "local m = nn.Tanh() m:forward(torch.ones(2)) return pcall(m.backward, m, torch.ones(2), torch.ones(3))"
    ok, message = BRIDGE.execute(code)
    assert not ok
    assert message.startswith("nn.Tanh: ") or ": nn.Tanh: " in message


def test_functions_among_the_fields_are_left_alone() -> None:
    assert BRIDGE.execute("local m = nn.Tanh() m.hook = print return m:forward(torch.zeros(2)):sum()") == 0


OVERRIDES = """
    my = my or {}
    local Doubled, parent = torch.class('my.Doubled', 'nn.Linear')   -- calls what it overrides
    function Doubled:updateOutput(input)
       parent.updateOutput(self, torch.mul(input, 2))
       return self.output:tanh()
    end
    function Doubled:updateGradInput(input, gradOutput)
       local g = torch.cmul(gradOutput, torch.cmul(self.output, self.output):mul(-1):add(1))
       self.gradInput = parent.updateGradInput(self, torch.mul(input, 2), g):mul(2)
       return self.gradInput
    end
    function Doubled:accGradParameters(input, gradOutput, scale)
       local g = torch.cmul(gradOutput, torch.cmul(self.output, self.output):mul(-1):add(1))
       parent.accGradParameters(self, torch.mul(input, 2), g, scale)
    end

    local Own = torch.class('my.Own', 'nn.Linear')                   -- overrides the forward alone, calls nothing
    function Own:updateOutput(input)
       self.output = torch.mm(input, self.weight:t()) + self.bias:view(1, -1):expand(input:size(1), self.bias:size(1))
       return self.output
    end

    local Half = torch.class('my.Half', 'my.Own')                    -- a subclass of a subclass; no updateGradInput
    function Half:updateGradInput(input, gradOutput)
       self.gradInput = torch.mm(gradOutput, self.weight):div(2)
       return self.gradInput
    end

    local Merged, merged = torch.class('my.Merged', 'nn.Linear')     -- a backward of its own
    function Merged:backward(input, gradOutput, scale)
       return merged.backward(self, input, gradOutput, scale):mul(3)
    end

    for _, base in ipairs {'BatchNormalization', 'Maxout', 'LayerNormalization', 'SpatialLPPooling'} do
       local Silent = torch.class('my.Silent' .. base, 'nn.' .. base)   -- whose own backward calls neither
       function Silent:updateGradInput() error('is not called') end
       function Silent:accGradParameters() error('is not called') end
    end

    local Smooth, criterion = torch.class('my.Smooth', 'nn.MSECriterion')
    function Smooth:updateOutput(input, target) return 3 * criterion.updateOutput(self, input, target) end
    function Smooth:updateGradInput(input, target) return criterion.updateGradInput(self, input, target):mul(3) end
"""


def _layer(bridge: LuaBridge, name: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    obj = to_lua(torch.nn.Linear(3, 2).double())
    weight, bias = obj["weight"].torch().clone(), obj["bias"].torch().clone()
    return bridge.convert(LuaObject(name, obj.fields)), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize(
    ("name", "forward", "input_scale"),
    [
        ("my.Doubled", lambda x, w, b: torch.tanh(2 * x @ w.T + b), 1),
        ("my.Own", lambda x, w, b: x @ w.T + b, 1),
        ("my.Half", lambda x, w, b: x @ w.T + b, 0.5),
        ("my.Merged", lambda x, w, b: x @ w.T + b, 3),
    ],
)
@pytest.mark.parametrize("required", ["", "require 'nn'\n"], ids=["alone", "with nn"])
def test_a_subclass_computes_what_it_overrides(name: str, forward: Any, input_scale: float, required: str) -> None:
    bridge = LuaBridge()
    bridge.execute(required + OVERRIDES)
    layer, weight, bias = _layer(bridge, name)
    for _ in range(2):  # another input, other weights
        x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        expected = forward(x, weight, bias)
        output = layer(x)
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=0)
        given = torch.randn_like(output)
        found = torch.autograd.grad(output, (x, layer.weight, layer.bias), given)
        wanted = torch.autograd.grad(expected, (x, weight, bias), given)
        torch.testing.assert_close(found, (wanted[0] * input_scale, *wanted[1:]), rtol=1e-12, atol=1e-14)
        with torch.no_grad():
            for mine, theirs in ((weight, layer.weight), (bias, layer.bias)):
                theirs += 1
                mine += 1


@pytest.mark.parametrize("name", ["BatchNormalization", "Maxout", "LayerNormalization", "SpatialLPPooling"])
def test_a_backward_that_calls_no_other_method_of_the_subclass(name: str) -> None:
    """``BN:backward`` of BatchNormalization.lua computes all gradients itself, as that of Concat.lua and others.

    The other classes inherit the backward pass of ``nn.Sequential``, which is that of the modules inside.
    """
    bridge, plain = LuaBridge(), torch.nn.BatchNorm1d(3).double()
    bridge.execute(OVERRIDES)
    obj = to_lua(plain if name == "BatchNormalization" else nn.Sequential(plain))
    layer = bridge.convert(LuaObject(f"my.Silent{name}", obj.fields))
    assert layer is not None
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    given = torch.randn(4, 3, dtype=torch.float64)
    found = torch.autograd.grad(layer(x), (x, *layer.parameters()), given)
    torch.testing.assert_close(
        found, torch.autograd.grad(plain(x), (x, *plain.parameters()), given), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", ["BinaryLogisticRegression", "SpatialBinaryLogisticRegression", "SoftMarginCriterion"])
def test_a_criterion_runs_in_lua_as_in_torch7(name: str) -> None:
    """Some have other names; PyTorch's soft margin has no gradient of the target."""
    (entry, *_) = (e for s in ("nn", "dpnn") for e in manifest(**{"class": f"nn.{name}"}, set=s, dtype="double"))
    fixture = read_t7(FIXTURES / entry["file"])
    code = "local c, x, y = ... return c:forward(x, y), c:backward(x, y)"
    output, gradient = BRIDGE.execute(code, *(fixture[key] for key in ("module", "input", "target")))
    assert output == pytest.approx(fixture["output"], rel=1e-12)
    torch.testing.assert_close(gradient, to_value(fixture["gradInput"]), rtol=1e-12, atol=1e-14)


def test_a_subclass_of_a_criterion() -> None:
    bridge = LuaBridge()
    bridge.execute(OVERRIDES)
    criterion = bridge.criterion("my.Smooth")
    x, y = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, dtype=torch.float64)
    loss = criterion(x, y)
    torch.testing.assert_close(loss, 3 * torch.nn.functional.mse_loss(x, y))
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], 2 * (x - y).detach() / 2, rtol=1e-12, atol=0)


def test_a_backward_belongs_to_its_own_input() -> None:
    """A subclass that does not call the forward which it overrides has no state of it, or one of another input."""
    bridge = LuaBridge()
    bridge.execute(OVERRIDES)
    result = bridge.execute(
        """
        local layer = ...
        local first, second, g = torch.ones(1, 3), torch.ones(1, 3):mul(5), torch.ones(1, 2)
        torch.getmetatable('nn.Linear').updateOutput(layer, first)
        layer:zeroGradParameters()
        layer:accGradParameters(second, g, 2)
        layer:accGradParameters(second, g, 1)
        return layer.gradWeight
        """,
        _layer(bridge, "my.Own")[0].lua,
    )
    assert torch.equal(result, torch.full((2, 3), 15.0, dtype=torch.float64))


def test_a_step_that_goes_on_is_refused() -> None:
    """The state of the last step stands in the converted module, which Lua's object does not keep."""
    entry = next(e for e in manifest(set="rnn") if e["class"] == "nn.FastLSTM" and "__batch__double" in e["name"])
    fixture = read_t7(FIXTURES / entry["file"])
    step = BRIDGE.to_lua(_derived(fixture["module"]))
    size = BRIDGE.execute("return (...).inputSize", step)
    run = "local m, n = ... m:forget() m:forward(torch.ones(2, n)) if again then m:forward(torch.ones(2, n)) end"
    for _ in range(2):
        BRIDGE.execute(run, step, size)
    with pytest.raises(LuaBridgeError, match=r"continues from its last step.*lua_path"):
        BRIDGE.execute("again = true " + run, step, size)


def test_an_unknown_parent_is_still_an_error() -> None:
    with pytest.raises(LuaBridgeError, match=r"invalid parent class name nn\.Unheard"):
        LuaBridge().execute("my = {} torch.class('my.Layer', 'nn.Unheard')")


def test_tables_of_any_depth_are_converted() -> None:
    """Each node of an nngraph model contains the next one."""
    bridge = LuaBridge()
    bridge.execute("chain = {torch.ones(2)} for _ = 1, 2000 do chain = {inner = chain} end")
    modules, live = converted.ConvertedModules(bridge._runtime), bridge._runtime.lua.globals()["chain"]
    inert = modules._inert(live, [])
    assert [value.numpy().tolist() for _, _, value in modules._tensors(live, inert)] == [[1, 1]]
