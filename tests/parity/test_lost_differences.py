"""Differences that a verification has lost before, and agreements that it has refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FIXTURES
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.memory import moved
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import NoReferenceError, OptionError, VerificationError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.outputs.written import Written
from dpnn_bridge.parity.folded import compare_folded
from dpnn_bridge.parity.graph_results import _compare_found
from dpnn_bridge.parity.layers import tree
from dpnn_bridge.parity.named_layers import NamedLayers, failed
from dpnn_bridge.parity.source import Source
from dpnn_bridge.parity.verification import Layer, Verification
from dpnn_bridge.parity.verify import verify

WEIGHT_NORM = FIXTURES / "nn" / "nn.LinearWeightNorm" / "LinearWeightNorm__batch__double_eval.t7"
PARTIAL = FIXTURES / "nn" / "nn.PartialLinear" / "PartialLinear__full__double_train.t7"


def sequential(*layers: LuaObject) -> LuaObject:
    return LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list(layers), "train": False}))


def table(x: object, y: object, **fields: object) -> LuaTable:
    values = {"mode": "eval", "input": lua_value(x), "output": lua_value(y), **fields}
    return LuaTable((name, value) for name, value in values.items() if value is not None)


def result_of(module: nn.Module) -> Verification:
    result = Verification("", "", "", "", "", "eval", "cpu", "")
    result.layers = [Layer(n.path, n.depth, "", "", 0) for n in tree(module)]
    return result


# ---------------------------------------------------------------------- weights
def test_a_weight_in_a_hidden_module_belongs_to_the_layer_around_it(tmp_path: Path) -> None:
    fixture = dpnn_bridge.read_t7(WEIGHT_NORM)
    dpnn_bridge.write_t7(tmp_path / "model.t7", sequential(fixture["module"], LuaObject("nn.Tanh")))
    x = to_value(fixture["input"])
    y = dpnn_bridge.load(tmp_path / "model.t7").eval()(x).detach()
    after = dpnn_bridge.read_t7(tmp_path / "model.t7")
    after["modules"][1]["v"].torch()[0, 0] *= 1.5
    result = verify(tmp_path / "model.t7", reference=table(x, y, after=after))
    assert result.verdict is Verdict.DIFFERENT
    assert [layer.path for layer in result.layers if not layer.ok] == ["modules[1]"]


def test_a_container_may_make_modules_in_its_run() -> None:
    assert verify(FIXTURES / "nn" / "nn.MapTable" / "MapTable__shared__float_train.t7").verdict is Verdict.EQUAL


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.float16])
def test_parameters_are_compared_in_every_precision(dtype: torch.dtype | None, tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(5, 3))).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    x = torch.zeros(4, 5)
    weight, bias = (lua_value(p.detach().clone()) for p in model.parameters())
    reference = table(x, model(x).detach(), params=LuaTable.from_list([weight, bias]))
    assert verify(tmp_path / "model.t7", reference=reference, dtype=dtype).verdict is Verdict.EQUAL
    weight.torch()[0, 0] += 1
    assert verify(tmp_path / "model.t7", reference=reference, dtype=dtype).verdict is Verdict.DIFFERENT


def test_a_batch_normalization_that_explains_no_weight_is_not_the_reason_for_one() -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    result = result_of(module)
    layers = NamedLayers(result, module)
    layers.of("0").converted.append(failed("weight", "differs"))
    assert list(compare_folded(layers, module, Written({}, complete=False))) == []
    assert [d.name for d in layers.of("0").converted] == ["weight"]


def test_the_result_of_a_hidden_module_does_not_stand_for_that_of_the_model() -> None:
    module = dpnn_bridge.to_torch(dpnn_bridge.read_t7(PARTIAL)["module"]).eval()
    layers = NamedLayers(result_of(module), module)
    x = to_value(dpnn_bridge.read_t7(PARTIAL)["input"])
    source = Source(module, layers, x, lambda _: torch.no_grad())
    wrong = module(x).detach() + 1
    compared = _compare_found(layers, source, source.run(), {"network": wrong, "": wrong})
    assert not all(d.ok for d in compared[""])


def test_a_graph_that_ends_before_the_last_layer_differs() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    layers = NamedLayers(result_of(module), module)
    source = Source(module, layers, torch.randn(2, 3), lambda _: torch.no_grad())
    results = source.run()
    compared = _compare_found(layers, source, results, {"0": results["0"], "": results["0"]})
    assert {name: all(d.ok for d in each) for name, each in compared.items()} == {"0": True, "": False}


def test_a_gradient_of_the_model_that_was_not_compared_agrees_with_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Sequential(nn.Tanh(), nn.Linear(5, 3)))).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    x = torch.randn(4, 5, dtype=torch.float32)
    y = model(x)
    y.sum().backward()
    gradients = LuaTable.from_list([lua_value(p.grad) for p in model.parameters()])
    after = dpnn_bridge.read_t7(tmp_path / "model.t7")
    reference = table(x, y.detach(), gradOutput=lua_value(torch.ones(4, 3)), gradParams=gradients, after=after)
    for gradient, verdict in (
        (torch.ones(4, 3) @ model.get_submodule("1").get_parameter("weight"), Verdict.EQUAL),
        (torch.ones(4, 5), Verdict.DIFFERENT),
    ):
        after["modules"][2]["gradInput"] = lua_value(gradient.detach())
        assert verify(tmp_path / "model.t7", reference=reference).gradients is verdict


# ---------------------------------------------------------------------- random numbers
def test_nan_is_no_random_number(tmp_path: Path) -> None:
    """Two runs that both give nan give the same."""
    root = LuaObject("nn.Power", LuaTable({"pow": 0.5, "train": True}))
    drop = LuaObject(
        "nn.Dropout", LuaTable({"p": 0.5, "train": True, "v2": True, "noise": LuaTensor.empty("torch.FloatTensor")})
    )
    beside = LuaObject("nn.ConcatTable", LuaTable({"modules": LuaTable.from_list([drop, root]), "train": True}))
    dpnn_bridge.write_t7(tmp_path / "model.t7", beside)
    x = -torch.ones(5, 4)
    reference = LuaTable(
        [("mode", "train"), ("input", lua_value(x)), ("output", lua_value([torch.zeros(5, 4), torch.ones(5, 4)]))]
    )
    found = {d.name: d.verdict for d in verify(tmp_path / "model.t7", reference=reference).whole}
    assert found == {"output[1]": Verdict.RANDOM, "output[2]": Verdict.DIFFERENT}


# ---------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("actual", "expected", "ok"),
    [
        (torch.tensor([100_000, 5]), torch.tensor([100_000, 6]), False),
        (torch.tensor([100_000, 6]), torch.tensor([100_000, 6]), True),
        (1.0, 1.0, True),
        (1.0 + 1e-7, 1.0, False),
        (1e300, 2e300, False),
        (torch.tensor(1.0 + 2**-23), 1.0, True),
        (torch.tensor([True, True]), True, False),
        (torch.ones(2), None, False),
        (True, True, True),
    ],
)
def test_integers_numbers_and_flags_are_compared_exactly(actual: object, expected: object, ok: bool) -> None:
    (found,) = parity.compare("x", actual, expected)
    assert found.ok is ok


def test_a_field_of_an_output_is_no_gradient() -> None:
    names = {
        "output.gradient": False,
        "after.grad_norm.running_mean": False,
        "params.gradual.weight": False,
        "gradInput": True,
        "gradInput[2].x": True,
        "gradParams[3]": True,
        "modules[1].gradWeight": True,
        "backward": True,
    }
    assert {name: parity.Difference(name, 0.0, 0.0).is_gradient for name in names} == names


def test_gradients_of_outputs_are_paired_by_key_at_any_depth() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    nested.backward([{"a": a * 1, "b": b * 1}], [{"b": torch.full((2,), 2.0), "a": torch.full((2,), 3.0)}])
    assert (a.grad, b.grad) == (pytest.approx(torch.full((2,), 3.0)), pytest.approx(torch.full((2,), 2.0)))
    with pytest.raises(VerificationError, match=r"gradOutput: expected a table with the keys a, found .* b"):
        nested.backward({"a": a * 1}, {"b": torch.ones(2)})


def test_tensors_are_moved_with_their_strides_and_nothing_else() -> None:
    dense = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)
    for tensor in (dense, torch.arange(24.0).view(4, 6)[:, ::2], torch.ones(3).expand(2, 3), torch.tensor(1.0)):
        for offset in (0, 3):
            found = moved(tensor, offset)
            assert found.equal(tensor)
            assert (found.storage_offset(), found.untyped_storage().nbytes()) == (offset, 4 * (offset + tensor.numel()))
    assert moved(dense, 3).stride() == dense.stride()


# ---------------------------------------------------------------------- references
def test_a_reference_of_gradients_alone_needs_no_output(tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(5, 3))).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    x = torch.randn(4, 5, requires_grad=True)
    y = model(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    reference = table(x.detach(), None, gradOutput=lua_value(torch.ones(4, 3)), gradInput=lua_value(x.grad))
    result = verify(tmp_path / "model.t7", reference=reference)
    assert (result.forward, result.gradients) == (None, Verdict.EQUAL)


def test_a_reference_is_left_as_it_was(tmp_path: Path) -> None:
    """The results that Torch7 left in one model are no reference for the next one."""
    x = torch.randn(4, 5)
    given = LuaTable([("input", lua_value(x))])
    for scale in (1.0, 2.0):
        net = nn.Sequential(nn.Linear(5, 3), nn.Tanh())
        with torch.no_grad():
            net.get_submodule("0").get_parameter("weight").mul_(scale)
        obj = dpnn_bridge.to_lua(dpnn_bridge.to_torch(dpnn_bridge.to_lua(net)).eval())
        hidden: Tensor = net[0](x).detach()
        obj["modules"][1]["output"], obj["output"] = lua_value(hidden), lua_value(hidden.tanh())
        obj["modules"][2]["output"] = obj["output"]
        dpnn_bridge.write_t7(tmp_path / "model.t7", obj, force=True)
        assert verify(tmp_path / "model.t7", reference=given).verdict is Verdict.EQUAL
        assert list(given) == ["input"]


@pytest.mark.parametrize("value", [3.0, lua_value(torch.ones(2)), LuaTable([("output", 1.0)])])
def test_a_value_that_is_no_reference_is_one_error(value: object, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "model.t7", dpnn_bridge.to_lua(nn.Linear(5, 3)))
    dpnn_bridge.write_t7(tmp_path / "ref.t7", value)
    with pytest.raises(NoReferenceError, match="a reference is a table with the fields input, output"):
        parity.assert_parity(nn.Linear(5, 3), tmp_path / "ref.t7")
    if isinstance(value, LuaTable):
        with pytest.raises(NoReferenceError, match="a reference is a table with the fields input, output"):
            dpnn_bridge.verify(tmp_path / "model.t7", reference=value)


def test_a_model_of_pytorch_has_no_results_of_torch7(tmp_path: Path) -> None:
    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(5, 3)))
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "model.pt")
    with pytest.raises(OptionError, match=r"torch7= \(--torch7\) needs a \.t7 file"):
        dpnn_bridge.verify(tmp_path / "model.pt", input=torch.ones(1, 5), torch7="th")


def test_assert_parity_leaves_the_module_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    x = torch.randn(4, 5, dtype=torch.float64)
    net[0].weight.grad = torch.ones(3, 5)
    with pytest.raises(AssertionError):
        parity.assert_parity(net, table(x, torch.zeros(4, 3)), dtype="float64")
    assert net.training
    assert all(t.dtype == before[name].dtype and t.equal(before[name]) for name, t in net.state_dict().items())
    assert net[0].weight.grad.equal(torch.ones(3, 5))


def test_a_key_selects_a_model_of_a_converted_file(tmp_path: Path) -> None:
    models = {name: dpnn_bridge.to_lua(nn.Linear(5, 3)) for name in "ab"}
    dpnn_bridge.write_t7(tmp_path / "two.t7", LuaTable(models.items()))
    dpnn_bridge.convert(tmp_path / "two.t7", tmp_path / "two.pt")
    x = torch.ones(2, 5)
    y = dpnn_bridge.load(tmp_path / "two.t7", key="b")(x).detach()
    found = {key: dpnn_bridge.verify(tmp_path / "two.pt", key=key, input=x, output=y).verdict for key in models}
    assert found == {"a": Verdict.DIFFERENT, "b": Verdict.EQUAL}


def test_parameters_of_another_number_have_a_name(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "model.t7", nn.Sequential(nn.Linear(2, 2)))
    x = torch.ones(1, 2)
    y = dpnn_bridge.load(tmp_path / "model.t7")(x).detach()
    result = verify(tmp_path / "model.t7", reference=table(x, y, params=lua_value([torch.ones(2, 2)])))
    assert [(d.name, layer.path) for layer in result.layers for d in layer.differences if not d.ok] == [("params", "")]


def test_parity_without_results_to_compare_is_an_error() -> None:
    with pytest.raises(NoReferenceError, match="no results to compare"):
        parity.assert_parity(nn.Tanh(), LuaTable({"input": lua_value(torch.ones(2))}))
    parity.assert_parity(
        nn.Tanh(), LuaTable({"input": lua_value(torch.ones(2)), "output": lua_value(torch.ones(2).tanh())})
    )


@pytest.mark.parametrize("given", [3, "x", torch.ones(3)])
def test_a_grad_output_of_another_size_is_named(given: object) -> None:
    reference = table(
        torch.ones(2, 2), torch.ones(2, 2).tanh(), gradOutput=lua_value(given), gradInput=lua_value(given)
    )
    with pytest.raises(VerificationError, match=r"^gradOutput: expected a tensor of shape \(2, 2\), found"):
        parity.assert_parity(nn.Tanh(), reference)


def test_a_grad_output_of_numpy_is_an_array_of_numbers() -> None:
    x = torch.ones(2, 2)
    gradient = lua_value(1 - x.tanh() ** 2)
    parity.assert_parity(nn.Tanh(), table(x, x.tanh(), gradOutput=np.ones((2, 2)), gradInput=gradient))


# ---------------------------------------------------------------------- references
MLP = FIXTURES / "nn" / "nn.Sequential" / "Sequential__mlp__double_train.t7"


def test_the_stored_gradient_of_a_layer_in_plain_containers_is_compared() -> None:
    reference = dpnn_bridge.read_t7(MLP)
    assert not any("gradInput" in note for note in verify(MLP, key="module", reference=reference).notes)
    reference["after"]["modules"][2]["gradInput"].torch()[0, 0] += 0.5
    result = verify(MLP, key="module", reference=reference)
    assert result.verdict is Verdict.DIFFERENT
    assert (first := result.first_deviating) is not None
    assert first.path == "modules[2]"


def test_the_stored_gradient_of_a_layer_that_is_not_compared_is_named() -> None:
    """``nn.TrimZero`` gives its layer other rows."""
    result = verify(FIXTURES / "rnn" / "head" / "TrimZero" / "TrimZero__online_zero__double_train.t7")
    assert result.verdict is Verdict.EQUAL
    assert any("the stored gradInput of modules[1] (nn.Linear)" in note for note in result.notes)


@pytest.mark.parametrize("mode", [None, "train", "eval", "training", "Train", True])
def test_the_mode_of_a_reference(mode: object, tmp_path: Path) -> None:
    """Without a mode, it is the one of ``after``; another mode than these is refused."""
    x, module = torch.randn(3, 4, dtype=torch.float64), nn.Sequential(nn.BatchNorm1d(4)).double()
    dpnn_bridge.write_t7(tmp_path / "model.t7", module)
    output = module(x).detach()
    reference = table(x, output, mode=mode, after=dpnn_bridge.to_lua(module))
    if mode in (None, "train", "eval"):
        expected = Verdict.DIFFERENT if mode == "eval" else Verdict.EQUAL
        assert verify(tmp_path / "model.t7", reference=reference).verdict is expected
    else:
        with pytest.raises(NoReferenceError, match="mode must be 'train' or 'eval', found"):
            verify(tmp_path / "model.t7", reference=reference)


def test_a_layer_that_evaluates_in_training(tmp_path: Path) -> None:
    """A frozen batch normalization: without a mode, each layer has the one that it has in ``after``."""
    x, module = torch.randn(3, 4).double(), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.0)).double()
    module[1].running_mean.fill_(0.3)
    module[1].eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", module)
    reference = table(x, module(x).detach(), mode=None, after=dpnn_bridge.to_lua(module))
    result = verify(tmp_path / "model.t7", reference=reference)
    assert result.verdict is Verdict.EQUAL
    assert [part.training for part in result.module] == [True, False, True]


def test_a_network_with_other_modules_has_the_mode_of_the_reference(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, module = torch.randn(3, 4).double(), nn.Sequential(nn.BatchNorm1d(4)).double()
    dpnn_bridge.save(tmp_path / "m.pt", nn.Sequential(module))
    reference = table(x, module(x).detach(), mode=None, after=dpnn_bridge.to_lua(module))
    result = verify(tmp_path / "m.pt", reference=reference)
    assert result.mode == "train"
    assert [d.verdict for d in result.differences if d.name == "output"] == [Verdict.EQUAL]
