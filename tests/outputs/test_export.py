"""Every output format holds the same model."""
# pyright: reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES
from torch import Tensor, nn
from torch.nn.utils import prune

import dpnn_bridge
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import (
    ConversionError,
    DpnnBridgeError,
    OptionError,
    OutputExistsError,
    T7FormatError,
    VerificationError,
)
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.modules.dpnn.decorator import DontCast
from dpnn_bridge.modules.nn import MapTable
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.outputs import ExportContext, export
from dpnn_bridge.outputs.formats import format_named, suffixes
from dpnn_bridge.outputs.formats.pt import Pt

EXAMPLES = {
    "DeepDeblur_release__ResNet_scale": torch.randn(1, 3, 32, 40),
    "torch-demos__mnist_convnet": torch.randn(2, 1, 32, 32),
    "stnbhwd__spatial_transformer": torch.randn(2, 1, 32, 32),
    "dp__convolutionneuralnetwork_Serial": torch.randn(2, 3, 32, 32),
    "char-rnn__lstm": [torch.tensor([1, 2, 3]), *(torch.randn(3, 24) for _ in range(4))],
}
NEEDS = {".onnx": "onnxscript"}
SUFFIXES = [s for s in suffixes() if s != ".json"]


def model_of(name: str) -> torch.nn.Module:
    return dpnn_bridge.load(SAMPLES / name / "model.t7").eval()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_is_written_and_verified(name: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(suffix, "torch"), reason="optional extra is not installed")
    model = model_of(name)
    takes = "input" in format_named(suffix).options
    export(model, tmp_path / f"model{suffix}", input=EXAMPLES[name] if takes else None)
    assert [p.name for p in tmp_path.iterdir()] == [f"model{suffix}"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".t7"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_formats_that_load_give_identical_outputs(name: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(suffix, "torch"), reason="optional extra is not installed")
    model, x = model_of(name), EXAMPLES[name]
    dpnn_bridge.save(tmp_path / f"model{suffix}", model)
    loaded = dpnn_bridge.load(tmp_path / f"model{suffix}").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz", ".t7", ".py"])
def test_a_single_element_may_have_any_stride(suffix: str, tmp_path: Path) -> None:
    """As parameters that select a column of a matrix with one row."""
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight = torch.nn.Parameter(torch.arange(12.0).view(3, 4)[1:2, 2:3].as_strided((1, 1), (7, 5)))
        model[0].bias = torch.nn.Parameter(torch.arange(12.0).view(3, 4)[1:2, 3])
    dpnn_bridge.save(tmp_path / f"m{suffix}", model)
    if suffix not in (".npz", ".py"):
        loaded = dpnn_bridge.load(tmp_path / f"m{suffix}")
        assert [p.item() for p in loaded.parameters()] == [p.item() for p in model.parameters()]


def test_npz_holds_the_state_dict(tmp_path: Path) -> None:
    model = model_of("torch-demos__mnist_convnet")
    dpnn_bridge.save(tmp_path / "m.npz", model)
    archive = np.load(tmp_path / "m.npz")
    assert set(archive.files) == set(model.state_dict())
    np.testing.assert_array_equal(archive["0.weight"], model[0].weight.detach())


def test_exported_program_runs_without_dpnn_bridge(tmp_path: Path, python: list[str]) -> None:
    name = "DeepDeblur_release__ResNet_scale"
    dpnn_bridge.save(tmp_path / "m.pt2", model_of(name), input=EXAMPLES[name])
    code = "import sys, torch; sys.modules['dpnn_bridge'] = None; torch.export.load('m.pt2').module()"
    subprocess.run([*python, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_tracing_formats_ask_for_an_example(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--input"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", model_of("torch-demos__mnist_convnet"))
    assert list(tmp_path.iterdir()) == []


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"\.safetensors"):
        dpnn_bridge.save(tmp_path / "m.h5", torch.nn.Linear(1, 1))


def test_existing_output(tmp_path: Path) -> None:
    (tmp_path / "m.npz").touch()
    with pytest.raises(OutputExistsError):
        dpnn_bridge.save(tmp_path / "m.npz", torch.nn.Linear(1, 1), force=False)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".t7"])
def test_damage_while_writing_is_noticed(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = format_named(suffix)
    write = handler.write

    def damaged(module, path, context):
        write(module, path, context)
        data = bytearray(path.read_bytes())
        weight = module.weight.detach().numpy().tobytes()
        data[data.find(weight)] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(handler, "write", damaged)
    with pytest.raises(DpnnBridgeError) as caught:
        dpnn_bridge.save(tmp_path / f"m{suffix}", torch.nn.Linear(3, 2))
    assert ".dpnn-" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight"])
def test_a_pt_names_the_tensor_that_a_failing_disk_changed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1200, 900), torch.nn.Linear(900, 3))
    model[1].weight = torch.nn.Parameter(torch.randn(900, 3).t())
    dpnn_bridge.save(tmp_path / "good.pt", model)
    write = Pt.write

    def damaged(self: Pt, module: torch.nn.Module, path: Path, context: ExportContext) -> None:
        write(self, module, path, context)
        data = bytearray(path.read_bytes())
        parameter = module.get_parameter(name).detach()
        stored = (parameter if parameter.is_contiguous() else parameter.t()).numpy().tobytes()
        data[data.find(stored) + len(stored) - 1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(Pt, "write", damaged)
    with pytest.raises(VerificationError, match=rf"{name} differs"):
        dpnn_bridge.save(tmp_path / "bad.pt", model)
    assert [p.name for p in tmp_path.iterdir()] == ["good.pt"]


@pytest.mark.parametrize(
    "change", [{"graph": "{"}, {"graph": '{"root": [7], "nodes": []}'}, {"graph": '{"root": [0], "nodes": [{}]}'}]
)
def test_a_damaged_graph_is_an_error_with_advice(change: dict[str, str], tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.pt", torch.nn.Linear(1, 1))
    torch.save(torch.load(tmp_path / "m.pt") | change, tmp_path / "m.pt")
    with pytest.raises(T7FormatError, match=r"m\.pt.*convert the \.t7 file again"):
        dpnn_bridge.load(tmp_path / "m.pt")


def test_a_model_with_a_state_is_traced_on_a_copy(tmp_path: Path) -> None:
    model = model_of("torch-rnn__lstm")
    x = to_value(dpnn_bridge.read_t7(SAMPLES / "torch-rnn__lstm" / "ref.t7")["input"])
    dpnn_bridge.save(tmp_path / "m.pt2", model, input=x)
    assert all(type(b) is torch.Tensor for b in model.buffers())
    assert isinstance(model(x), torch.Tensor)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_model_that_computes_its_weights_is_traced(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(suffix, "torch"), reason="optional extra is not installed")
    torch.manual_seed(0)
    normalized = torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))
    pruned = prune.l1_unstructured(torch.nn.Linear(2, 2), "weight", 0.5)
    spectral = torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2))
    model, x = torch.nn.Sequential(normalized, pruned, spectral), torch.randn(1, 2)
    model(x).sum().backward()
    with torch.no_grad():
        normalized.get_parameter("weight_g").mul_(2)  # what the last run computed is out of date
    dpnn_bridge.save(tmp_path / f"m{suffix}", model, input=x)
    assert not normalized.weight.is_leaf
    if suffix == ".pt2":
        torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), model.eval()(x))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_double_model_with_a_part_in_single_precision(suffix: str, tmp_path: Path) -> None:
    inner = DontCast(nn.Sequential(nn.Linear(40, 20), nn.Tanh(), nn.Linear(20, 3)), castin=True)
    net = nn.Sequential(nn.Linear(30, 40), inner, nn.Linear(3, 2)).double().eval()
    x = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dpnn_bridge.save(tmp_path / f"net{suffix}", net, input=x)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".py"])
def test_an_example_that_the_model_refuses(suffix: str, tmp_path: Path) -> None:
    """The message suggests one that it accepts, unless that has the same shape."""
    with pytest.raises(ConversionError, match=r"cannot run on the example input: .*; the model accepts --input 1x2 \("):
        dpnn_bridge.save(tmp_path / f"m{suffix}", torch.nn.Linear(2, 2), input=torch.randn(1, 3))
    with pytest.raises(ConversionError, match=r"cannot run on the example input: (?!.*accepts)"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", torch.nn.Linear(2, 2), input=torch.ones(1, 2).double())


class Noisy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


def test_a_random_model_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="draws random numbers"):
        dpnn_bridge.save(tmp_path / "m.pt2", Noisy(), input=torch.randn(50, 4))


def test_traced_programs_are_for_evaluation(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout()).train()
    x = torch.randn(50, 4)
    dpnn_bridge.save(tmp_path / "m.pt2", model, input=x)
    assert model.training
    assert not model[1].running_mean.any()
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), model.eval()(x))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_dynamic_file_is_run_on_two_sizes(suffix: str, tmp_path: Path) -> None:
    """A graph that holds for the size of the example alone is none whose first size may vary."""
    pytest.importorskip(NEEDS.get(suffix, "torch"), reason="optional extra is not installed")
    module, format = torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), format_named(suffix)
    format.write(module, tmp_path / f"m{suffix}", ExportContext(torch.randn(2, 3)))
    with pytest.raises(VerificationError, match="cannot run the file on an input of 3x3"):
        format.verify(module, tmp_path / f"m{suffix}", ExportContext(written=[torch.randn(n, 3) for n in (2, 3)]))


def test_an_operator_set_that_torch_onnx_cannot_write_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ConversionError, match=r"set \d+ and cannot convert .* 99; pass \d+, or omit the option"):
        dpnn_bridge.save(tmp_path / "m.onnx", torch.nn.Linear(2, 2), input=torch.randn(1, 2), opset=99)
    assert not list(tmp_path.iterdir())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_operator_set_that_does_not_allow_an_operation_is_refused(tmp_path: Path) -> None:
    """torch.onnx converts an operation with an attribute of operator set 18 without an error."""
    onnx = pytest.importorskip("onnx")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    node = onnx.helper.make_node("Split", ["x"], ["y"], axis=0, num_outputs=1)
    graph = onnx.helper.make_graph([node], "graph", [x], [y])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8),
        tmp_path / "m.onnx",
    )
    with pytest.raises(ConversionError, match=r"to opset= \(--opset\) 16: .*num_outputs.*; pass a newer operator set"):
        format_named(".onnx").verify(nn.Identity(), tmp_path / "m.onnx", ExportContext(options={"opset": 16}))


@pytest.mark.parametrize(
    ("layer", "example"),
    [(nn.Conv2d(1, 1, 3), torch.randn(1, 1, 5, 5)), (SeqLSTM(2, 3), torch.randn(2, 1, 2))],
    ids=["when_opened", "when_run"],
)
def test_onnx_in_double_precision_says_what_to_do(layer: nn.Module, example: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ConversionError, match="--dtype float32"):
        dpnn_bridge.save(tmp_path / "m.onnx", layer.double(), input=example.double())


class InverseError(nn.Module):
    """The inverse error function."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x)


def test_an_operation_that_onnx_lacks_names_another_format(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ConversionError, match=r"torch.onnx cannot export this model: .*erf_inv.*try \.pt2"):
        dpnn_bridge.save(tmp_path / "m.onnx", InverseError(), input=torch.rand(1, 2))


def test_onnx_of_an_lstm_with_a_projection(tmp_path: Path) -> None:
    """The LSTM of ONNX has none."""
    pytest.importorskip("onnxscript")
    dpnn_bridge.save(tmp_path / "m.onnx", SeqLSTMP(2, 4, 3), input=torch.randn(2, 1, 2))  # runs the file


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("m.pt", "no options"),
        ("m.npz", "no options"),
        ("m.onnx", "input, dynamic"),
        ("m.pt2", "input"),
        ("m.t7", "input"),
    ],
)
def test_options_that_a_format_does_not_take_are_refused(tmp_path: Path, name: str, takes: str) -> None:
    for value in (11, None):
        with pytest.raises(OptionError, match=f"does not take opst=; it takes {takes}"):
            export(torch.nn.Linear(2, 2), tmp_path / name, opst=value)
    assert list(tmp_path.iterdir()) == []


def test_a_placeholder_is_filled_once_its_class_is_mapped(tmp_path: Path) -> None:
    weight = LuaTensor.from_numpy(np.arange(3.0))
    scale = LuaObject("test.Later", LuaTable([("weight", weight)]))
    net = LuaObject("nn.Sequential", LuaTable([("modules", LuaTable.from_list([scale]))]))
    write_t7(tmp_path / "net.t7", net)
    for name in ("net.pt", "net.safetensors"):
        dpnn_bridge.convert(tmp_path / "net.t7", tmp_path / name, allow_unsupported=True)

    class Later(torch.nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(weight)

    @dpnn_bridge.lua_class("test.Later")
    class LaterClass(dpnn_bridge.LuaClass):
        torch_type = Later
        tensors = {"weight": "weight"}

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: Any) -> dict[str, Any]:
            return {"weight": torch.zeros(3, dtype=torch.float64)}

    for name in ("net.pt", "net.safetensors"):
        model = dpnn_bridge.load(tmp_path / name)
        assert isinstance(model[0], Later)
        assert torch.equal(model[0].weight, torch.arange(3.0, dtype=torch.float64))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_layer_in_lua_is_named(suffix: str, tmp_path: Path) -> None:
    lua = pytest.importorskip("dpnn_bridge.lua")
    bridge = lua.LuaBridge()
    bridge.execute(
        "require 'nn'; my = {}; local L = torch.class('my.Twice', 'nn.Module'); "
        "function L:updateOutput(x) self.output = x * 2; return self.output end"
    )
    model = nn.Sequential(nn.Linear(2, 2), bridge.module("my.Twice"))
    with pytest.raises(ConversionError, match=r"^1 \(my\.Twice\): torch.* cannot export a layer that runs in Lua; map"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", model.double(), input=torch.ones(1, 2).double())


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_random_layer_is_named_whose_draws_do_not_change_the_output(suffix: str, tmp_path: Path) -> None:
    """They may change the output for another input."""
    model = torch.nn.Sequential(Noisy(), torch.nn.Threshold(1e6, 0.0))
    with pytest.raises(VerificationError, match="draws random numbers"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", model, input=torch.ones(1, 2))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_map_of_a_layer_with_buffers_that_never_ran(suffix: str, shared: bool, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="needs the extra onnx")
    mapped = MapTable(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), shared=shared)
    dpnn_bridge.save(tmp_path / f"m{suffix}", mapped.eval(), input=[torch.randn(4, 3), torch.randn(4, 3)])
    assert len(mapped) == 1
