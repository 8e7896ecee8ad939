"""Checkpoints of published architectures convert with no option and compute what Torch7 computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from samples import SAMPLES, as_evaluated, cases, compare_with_reference, running_sums, without_dropout

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.checkpoints import onmt
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError, ModelNotFoundError
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.modules.several import Models
from dpnn_bridge.parity.verify import verify

#: no single module in the file, see the tests at the end
SEVERAL = {"OpenNMT__rnn_LSTM_general", "VQA_LSTM_CNN__weights_only", "mc-cnn__slow_net_te"}
#: instance normalization keeps running statistics in Torch7, which no output ever depends on; they are not modelled
UNUSED_STATISTICS = {"fast-neural-style__instnorm_narrow"}
SINGLE = [c for c in cases() if c["name"] not in SEVERAL]


def load(name: str, **options: Any) -> torch.nn.Module:
    return as_evaluated(dpnn_bridge.load(SAMPLES / name / "model.t7", **options), name)


@pytest.mark.parametrize("case", SINGLE, ids=lambda c: c["name"])
def test_output_and_gradients(case: dict[str, Any], device: str) -> None:
    name = case["name"]
    ref = dpnn_bridge.read_t7(SAMPLES / name / "ref.t7")
    compare_with_reference(load(name), ref, name, device).raise_for_failures()


@pytest.mark.parametrize("case", [c for c in SINGLE if c["has_ref_train"]], ids=lambda c: c["name"])
def test_training_mode(case: dict[str, Any], device: str) -> None:
    name = case["name"]
    ref = dpnn_bridge.read_t7(SAMPLES / name / "ref_train.t7")
    model = without_dropout(load(name))
    compare_with_reference(model, ref, name, device).raise_for_failures()
    if name in UNUSED_STATISTICS:
        return
    sums = sorted(float(v) for pair in to_value(ref["running"]) for v in nested.leaves(pair))
    expected = torch.tensor(sums)
    actual = torch.tensor(sorted(float(v) for v in running_sums(model)))
    assert not parity.compare("running", actual, expected, parity.Tolerance(1e-10, 1e-4))[0].message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", SINGLE, ids=lambda c: c["name"])
def test_converted_file_gives_identical_outputs(case: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="optional extra is not installed")
    name = case["name"]
    model = load(name).eval()
    dpnn_bridge.save(tmp_path / f"model{suffix}", model)
    loaded = dpnn_bridge.load(tmp_path / f"model{suffix}").eval()
    x = dpnn_bridge.read_t7(SAMPLES / name / "ref.t7")["input"]
    with torch.no_grad():
        pairs = zip(nested.leaves(model(to_value(x))), nested.leaves(loaded(to_value(x))), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_two_networks_in_one_ascii_file() -> None:
    name = "mc-cnn__slow_net_te"
    ref = dpnn_bridge.read_t7(SAMPLES / name / "ref.t7")
    models, x = load(name), to_value(ref["input"])
    assert isinstance(models, Models)
    with torch.no_grad():
        features = load(name, key="[1]")(x)
        assert torch.equal(models["[1]"](x), features)
        output = [features, models["[2]"](torch.cat([features, features], 1))]
    for d in parity.compare("output", output, to_value(ref["output"])):
        assert d.ok, d.message


def test_file_with_parameters_only() -> None:
    name = "VQA_LSTM_CNN__weights_only"
    data = dpnn_bridge.read_t7(SAMPLES / name / "model.t7")
    assert {k: v.size for k, v in data.items()} == {"encoder_w_q": 4113, "embedding_w_q": 492, "multimodal_w": 1738}
    with pytest.raises(ModelNotFoundError, match="load_flat"):
        dpnn_bridge.load(SAMPLES / name / "model.t7")


def test_translation_model_whose_parts_are_tables(tmp_path: Path) -> None:
    name = "OpenNMT__rnn_LSTM_general"
    ref = dpnn_bridge.read_t7(SAMPLES / name / "ref.t7")
    given, expected = to_value(ref["input"]), to_value(ref["output"])
    model = load(name)
    dpnn_bridge.save(tmp_path / "model.pt", model)
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    inputs = [given["source"], given["source_size"], given["target"]]
    for path in (SAMPLES / name / "model.t7", tmp_path / "model.pt", tmp_path / "model.t7"):
        model = dpnn_bridge.load(path).eval()
        with torch.no_grad():
            states, context = model.encoder(inputs[:2])  # type: ignore[operator]
            words = model(inputs)
        # in evaluation all steps of Torch7's decoder write into one tensor, which the file therefore holds six times
        wanted = [expected["states"], expected["context"], expected["logprobs"][-1]]
        for d in parity.compare("output", [states, context, words[-1]], wanted):
            assert d.ok, d.message


def test_a_reference_whose_input_the_model_does_not_take() -> None:
    folder = SAMPLES / "OpenNMT__rnn_LSTM_general"
    message = "the model cannot run on this input, a table with the fields source_size, source, target: "
    with pytest.raises(ConversionError, match=message):
        verify(folder / "model.t7", reference=folder / "ref.t7")


@pytest.mark.parametrize(
    ("input", "words"),
    [
        (torch.ones(3, 5), r"a tensor of shape \(3, 5\)"),
        ({"a": torch.ones(2)}, "a table with the fields a"),
        ([torch.ones(2)], "a list of 1"),
        (torch.ones(1, 3), r"a tensor of shape \(1, 3\): .*; the model accepts --input 1x2 "),
        ("x", "a value of type str"),
        (3, "a value of type int"),
    ],
)
@pytest.mark.parametrize("output", [True, False])
def test_an_input_of_another_form(input: Any, words: str, output: bool, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "model.t7", torch.nn.Linear(2, 1))
    reference = {"input": input, **({"output": torch.ones(1)} if output else {})}
    dpnn_bridge.write_t7(tmp_path / "reference.t7", reference)
    with pytest.raises(ConversionError, match=f"the model cannot run on this input, {words}"):
        verify(tmp_path / "model.t7", reference=tmp_path / "reference.t7")


def test_translation_model_goes_back_into_its_checkpoint() -> None:
    name = "OpenNMT__rnn_LSTM_general"
    saved = dpnn_bridge.read_t7(SAMPLES / name / "model.t7")["models"]
    written = onmt.to_table(dpnn_bridge.to_lua(load(name)))  # type: ignore[arg-type]
    assert set(written) == {"encoder", "decoder"}
    for part in written:
        assert set(written[part]) == {"name", "args", "modules"}
        assert difference(written[part]["args"], saved[part]["args"]) is None
        kinds = [[m.class_name for m in t[part]["modules"].as_list()] for t in (written, saved)]
        assert kinds[0] == kinds[1]
