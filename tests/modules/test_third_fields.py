"""Third-party classes whose fixtures hold more than output and gradients: what the usual comparison cannot see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

import dpnn_bridge
from dpnn_bridge import parity, training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import noise, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaTable, LuaTensor

THIRD = manifest(set="third")


def entries(*classes: str, kind: str = "module") -> Any:
    """Parametrizes a test by the fixtures of some classes."""
    found = [e for e in THIRD if e["class"] in classes and e["kind"] == kind]
    return pytest.mark.parametrize("entry", found, ids=fixture_id)


def read(entry: dict[str, Any]) -> LuaTable:
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    assert isinstance(fixture, LuaTable)
    return fixture


def agree(name: str, actual: Any, expected: Any) -> None:
    parity.Result(parity.compare(name, actual, expected)).raise_for_failures()


def run(fixture: LuaTable, module: torch.nn.Module) -> tuple[Any, Any]:
    """Forward and backward with the fixture's values; returns inputs and output."""
    inputs = nested.require_grad(to_value(fixture["input"]))
    with noise.replayed(module, fixture.get("after")):
        output = module(inputs)
    nested.backward(output, to_value(fixture["gradOutput"]))
    return inputs, output


@entries("w2nn.ShakeShakeTable")
def test_gradients_that_backward_returns_beside_the_field(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    if fixture.get("backwardReturns") is None:
        assert entry["mode"] == "eval"  # Torch7 has no beta then
        return
    inputs, _ = run(fixture, to_torch(fixture["module"]))
    agree("gradInput", [x.grad for x in inputs], to_value(fixture["backwardReturns"]))


@entries("nn.GradMultiply")
def test_factor_leaves_the_gradient_of_the_input_alone(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    inputs, _ = run(fixture, to_torch(fixture["module"]))
    agree("gradInput", inputs.grad, to_value(fixture["gradInputReturned"]))


@entries("nn.SpatialClassifier")
def test_classifier_is_trained_though_torch7_does_not_list_it(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    module: Any = to_torch(fixture["module"])
    assert training.parameters(module)[0] == []
    if fixture.get("backwardError") is not None or fixture.get("classifierGradParams") is None:
        return
    run(fixture, module)
    params, grads = training.parameters(module.classifier)
    agree("params", params, to_value(fixture["classifierParams"]))
    agree("gradParams", grads, to_value(fixture["classifierGradParams"]))


@entries("nn.SharpMask")
def test_refinements_are_trained(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    module: Any = to_torch(fixture["module"])
    reached: list[torch.Tensor] = []
    module.refinements[0].register_forward_pre_hook(lambda m, args: reached.append(args[0].requires_grad_()) or args)
    run(fixture, module)
    agree("gradInput", reached[0].grad, to_value(fixture["gradInput"]))
    for i, refinement in enumerate(module.refinements, 1):
        params, grads = training.parameters(refinement)
        agree(f"params[{i}]", params, to_value(fixture["refParams"][i]))
        agree(f"gradParams[{i}]", grads, to_value(fixture["refGradParams"][i]))
    assert all(p.grad is None for p in module.trunk.parameters())


@entries("nn.DeepMask", kind="structure")
def test_mask_and_score_of_deepmask(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    module: Any = to_torch(fixture["module"]).eval()
    image = to_value(fixture["input"])
    agree("output", module(image), [to_value(fixture["maskOutput"]), to_value(fixture["scoreOutput"])])


@entries("neuralconvo.Seq2Seq", kind="structure")
def test_decoder_starts_from_the_state_of_the_encoder(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    module: Any = to_torch(fixture["module"]).eval()
    output = module([to_value(fixture["encoderInput"]), to_value(fixture["decoderInput"])])
    agree("output", output, to_value(fixture["decoderOutput"]))


RECURRENT = ("cudnn.LSTM", "cudnn.BLSTM", "cudnn.GRU", "cudnn.BGRU", "cudnn.RNNReLU", "cudnn.RNNTanh")
CUDNN_RNN = [e for e in THIRD if e["class"] in RECURRENT and e["kind"] == "structure"]


@pytest.mark.parametrize("entry", CUDNN_RNN, ids=fixture_id)
def test_flat_gradient_of_cudnn_layers_has_the_order_of_the_flat_weight(entry: dict[str, Any]) -> None:
    fixture = read(entry)
    module: Any = to_torch(fixture["module"])
    flat: LuaTensor = fixture["module"]["weight"]
    for p in module.parameters():
        p.grad = p.detach() * 2
    (weight,), (gradient,) = training.parameters(module)
    assert torch.equal(weight, flat.torch())
    assert torch.equal(gradient, flat.torch() * 2)


@pytest.mark.parametrize("entry", CUDNN_RNN, ids=fixture_id)
def test_cuda_file_holds_the_same_recurrent_layer(entry: dict[str, Any]) -> None:
    twin = next(e for e in THIRD if e["name"] == entry["name"] + ".cuda")
    expected, module = to_torch(read(entry)["module"]), dpnn_bridge.load(FIXTURES / twin["file"])
    assert repr(module) == repr(expected)
    for name, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
