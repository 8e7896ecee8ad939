"""dpnn-verify MODEL CONVERTED: a file of any format is the model, or the layer that is another one is named."""

from __future__ import annotations

import re
import time
import tracemalloc
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES, RESIDUAL, manifest
from networks import unpooling_network
from test_sharing import linear, sequential, storage, view
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.cli.inputs import example_input
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ModelNotFoundError, T7FormatError, T7LimitError
from dpnn_bridge.modules.rnn import SeqLSTM
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs.formats import format_of
from dpnn_bridge.outputs.npy import ArrayHeader
from dpnn_bridge.outputs.written import GraphNode, results_of_modules
from dpnn_bridge.parity.folded import _only_scaled
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify

CHANGED = "modules[5].modules[1].modules[1]"
FORMATS = [
    ".pt",
    ".safetensors",
    ".npz",
    ".t7",
    ".onnx",
    ".pt2",
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small residual network, in evaluation mode."""
    module = dpnn_bridge.to_torch(dpnn_bridge.read_t7(RESIDUAL)["module"]).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", module)
    return tmp_path / "model.t7"


def residual_input() -> Tensor:
    return to_value(dpnn_bridge.read_t7(RESIDUAL)["input"])


def save(module: nn.Module, path: Path) -> None:
    needed = {".safetensors": "safetensors", ".onnx": "onnxscript"}
    if path.suffix in needed:
        pytest.importorskip(needed[path.suffix], reason="optional extra is not installed")
    takes = "input" in format_of(path).options
    dpnn_bridge.save(path, module, input=residual_input() if takes else None)


def with_one_weight_changed(model: Path, by: float = 1e-3) -> nn.Module:
    module = dpnn_bridge.load(model)
    with torch.no_grad():
        module.get_submodule("4.0.0").weight[0, 0, 1, 0] += by  # type: ignore[index]
    return module


def ran(result: Verification) -> int:
    """How many layers were compared by what they return."""
    return sum(any(d.name.startswith("output") for d in layer.converted) for layer in result.layers)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_converted_file_is_the_model(suffix: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    save(dpnn_bridge.load(model), path)
    result = verify(model, path, input=residual_input())
    assert result.verdict is Verdict.EQUAL
    tensors = [d for layer in result.layers for d in layer.converted if not d.name.startswith("output")]
    assert len(tensors) >= 6
    assert all(d.error == 0 or "folded in" in d.name for d in tensors)
    assert ran(result) == (0 if suffix == ".npz" else 15) or (suffix in (".onnx", ".pt2") and ran(result) > 9)


@pytest.mark.parametrize("given", [True, False], ids=["input", "no-input"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_one_changed_weight_is_found(suffix: str, given: bool, model: Path, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    save(with_one_weight_changed(model), path)
    result = verify(model, path, input=residual_input() if given else None)
    assert result.verdict is Verdict.DIFFERENT
    assert result.first_deviating is not None
    assert result.first_deviating.path == CHANGED
    inner = [layer.path for layer in result.layers if layer.depth and not layer.ok]
    if suffix == ".onnx":  # the batch normalization behind it was folded into its weights
        inner = [path for path in inner if path not in ("modules[5].modules[1]", "modules[5].modules[1].modules[2]")]
    assert inner == [CHANGED], "one layer alone is another one"


@pytest.mark.parametrize("part", ["conv", "norm"])
def test_folded_weights_say_which_of_both_layers_is_another(part: str, tmp_path: Path) -> None:
    """torch.onnx multiplies a batch normalization into the convolution; dropout may stand between them."""
    pytest.importorskip("onnxscript", reason="optional extra is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(0.1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    for m in net:
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None
            nn.init.normal_(m.weight, 1, 0.1)
            nn.init.normal_(m.running_mean)
    dpnn_bridge.write_t7(tmp_path / "model.t7", net.eval())
    x = torch.randn(2, 2, 5, 5)
    model = dpnn_bridge.load(tmp_path / "model.t7").eval()
    dpnn_bridge.save(tmp_path / "same.onnx", model, input=x)
    result = verify(tmp_path / "model.t7", tmp_path / "same.onnx", input=x)
    assert result.verdict is Verdict.EQUAL
    with torch.no_grad():
        layer = model.get_submodule("0" if part == "conv" else "2")
        layer.get_parameter("weight").view(-1)[3] += 1e-3
    dpnn_bridge.save(tmp_path / "other.onnx", model, input=x)
    result = verify(tmp_path / "model.t7", tmp_path / "other.onnx")
    assert result.first_deviating is not None
    assert result.first_deviating.path == ("modules[1]" if part == "conv" else "modules[3]")


def test_the_bias_of_a_folded_norm_is_compared(tmp_path: Path) -> None:
    """The layer has no bias; folding the batch normalization adds one."""
    onnx = pytest.importorskip("onnx", reason="optional extra is not installed")
    pytest.importorskip("onnxscript", reason="optional extra is not installed")
    layer, norm = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)
    assert norm.running_mean is not None
    nn.init.normal_(norm.running_mean)
    dpnn_bridge.write_t7(tmp_path / "model.t7", nn.Sequential(layer, norm).eval())
    model = dpnn_bridge.load(tmp_path / "model.t7").eval()
    dpnn_bridge.save(tmp_path / "model.onnx", model, input=torch.randn(1, 2, 3, 3))
    assert verify(tmp_path / "model.t7", tmp_path / "model.onnx").verdict is Verdict.EQUAL
    graph = onnx.load(tmp_path / "model.onnx")
    (bias,) = (i for i in graph.graph.initializer if list(i.dims) == [4])
    changed = onnx.numpy_helper.to_array(bias).copy()
    changed[2] += 1e-5 * changed[2]  # an output of a large model would not show this change
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    onnx.save(graph, tmp_path / "model.onnx")
    result = verify(tmp_path / "model.t7", tmp_path / "model.onnx")
    assert any(d.name.startswith("bias") and not d.ok for layer in result.layers for d in layer.converted)


def test_weights_of_either_sign_show_whether_they_are_only_scaled() -> None:
    expected = torch.tensor([[1.0, 2.0, -1.0, -2.0], [1.0, 3.0, -2.0, -5.0]])
    layer = nn.Linear(4, 2)
    assert _only_scaled(expected * torch.tensor([[1.1], [0.9]]), expected, layer)
    assert not _only_scaled(torch.where(expected < 0, expected - 0.5, expected * 1.1), expected, layer)


def test_a_changed_constant_in_python_source_is_found(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.py"
    save(dpnn_bridge.load(model), path)
    result = verify(model, path, input=residual_input())
    assert result.verdict is Verdict.EQUAL
    assert ran(result) == 15
    assert any("out.py was run to build the model" in note for note in result.notes)
    source = path.read_text()
    assert "MulConstant(150)" in source
    path.write_text(source.replace("MulConstant(150)", "MulConstant(150.15)"))
    result = verify(model, path, input=residual_input())
    assert result.verdict is Verdict.DIFFERENT
    assert [layer.path for layer in result.layers if not layer.ok] == ["modules[10]"]


def net_with_constants() -> nn.Sequential:
    """Layers with settings that no output of one forward pass in evaluation mode shows."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.25), nn.Dropout(0.25), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("suffix", [".pt", ".t7", ".py"])
@pytest.mark.parametrize(("layer", "name"), [(1, "momentum"), (2, "p"), (3, "requires_grad")])
def test_a_setting_that_no_output_shows_is_compared(layer: int, name: str, suffix: str, tmp_path: Path) -> None:
    module, other = net_with_constants(), net_with_constants()
    if name == "requires_grad":
        other[layer].weight.requires_grad_(False)
    else:
        setattr(other[layer], name, 0.125)
    other.load_state_dict(module.state_dict())
    dpnn_bridge.save(tmp_path / "model.pt", module)
    dpnn_bridge.save(tmp_path / f"out{suffix}", other)
    dpnn_bridge.save(tmp_path / f"same{suffix}", module)
    assert verify(tmp_path / "model.pt", tmp_path / f"same{suffix}").verdict is Verdict.EQUAL
    result = verify(tmp_path / "model.pt", tmp_path / f"out{suffix}")
    if (name, suffix) == ("requires_grad", ".t7"):
        assert result.verdict is Verdict.EQUAL  # Torch7 stores no frozen parameters
        return
    assert [found.path for found in result.layers if not found.ok and found.depth] == [f"modules[{layer + 1}]"]
    (difference,) = (d for found in result.layers for d in found.converted if not d.ok)
    expected = "0.125 instead of 0.25" if name in ("momentum", "p") else "weight.requires_grad_(True)"
    assert expected in difference.message


@pytest.mark.parametrize("suffix", [".pt", ".t7", ".py"])
@pytest.mark.parametrize("modes", [("neither", "both"), ("eval", "neither")])
def test_a_sequence_that_is_continued_in_one_of_both_is_found(
    modes: tuple[str, str], suffix: str, tmp_path: Path
) -> None:
    for name, mode in zip(("model.t7", f"file{suffix}"), modes, strict=True):
        module = SeqLSTM(2, 2)
        module.remember(mode)
        dpnn_bridge.save(tmp_path / name, module)
    result = verify(tmp_path / "model.t7", tmp_path / f"file{suffix}")
    assert result.verdict is Verdict.DIFFERENT
    assert any(f'remember("{modes[0]}")' in d.message for d in result.differences)


@pytest.mark.parametrize("suffix", [".pt", ".t7", ".py"])
def test_a_tied_weight_is_tied_in_the_file(suffix: str, tmp_path: Path) -> None:
    numbers = storage(12)
    tied = to_torch(sequential(linear(view(numbers, (3, 4), (4, 1))), linear(view(numbers, (4, 3), (1, 4)))))
    dpnn_bridge.write_t7(tmp_path / "model.t7", tied)
    path = tmp_path / f"out{suffix}"
    dpnn_bridge.convert(tmp_path / "model.t7", path)
    assert verify(tmp_path / "model.t7", path).verdict is Verdict.EQUAL


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_traced_file_brings_its_own_input(suffix: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    save(dpnn_bridge.load(model), path)
    result = verify(model, path)
    assert result.verdict is Verdict.EQUAL
    assert ran(result) > 9


@pytest.mark.parametrize("noted", [True, False])
def test_a_dynamic_graph_of_a_net_with_unpooling(noted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its optimizer puts operations in place of others, of which no module is noted; then layers are left out."""
    pytest.importorskip("onnxscript", reason="optional extra is not installed")
    if not noted:
        monkeypatch.setattr("dpnn_bridge.outputs.formats.onnx._add_scopes", lambda program: None)
    torch.manual_seed(0)
    module = unpooling_network()
    dpnn_bridge.write_t7(tmp_path / "model.t7", module)
    dpnn_bridge.save(tmp_path / "model.onnx", module, input=torch.randn(1, 3, 16, 16), dynamic=True)
    compared = []
    for size in (2, 3):
        result = verify(tmp_path / "model.t7", tmp_path / "model.onnx", input=torch.randn(size, 3, 16, 16))
        assert result.verdict is Verdict.EQUAL, result
        compared.append(ran(result))
    assert compared == ([19, 19] if noted else [18, 18])
    with torch.no_grad():
        module.get_submodule("2.0.0.0").weight[0, 0] += 1e-2  # type: ignore[index]
    dpnn_bridge.write_t7(tmp_path / "other.t7", module)
    assert not verify(tmp_path / "other.t7", tmp_path / "model.onnx", input=torch.randn(2, 3, 16, 16)).ok


def test_the_result_of_a_module_is_unknown_where_a_rewritten_operation_may_be_its_own() -> None:
    a, b = frozenset({"a"}), frozenset({"b"})
    nodes = [GraphNode(a, ("x",), ("1",)), GraphNode(None, ("1",), ("2",)), GraphNode(b, ("2",), ("3",))]
    assert results_of_modules(nodes, ["3"]) == {"b": "3"}
    inside = [GraphNode(a, ("x",), ("1",)), GraphNode(None, ("1",), ("2",)), GraphNode(a, ("2",), ("3",))]
    assert results_of_modules(inside, ["3"]) == {"a": "3"}


def test_batches_that_a_norm_counted_are_no_result(tmp_path: Path) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    net[0].num_batches_tracked += 30  # type: ignore[operator]
    dpnn_bridge.save(tmp_path / "model.pt", net)
    assert verify(tmp_path / "model.t7", converted=tmp_path / "model.pt").ok


def test_a_file_in_another_precision_is_compared_in_it(model: Path, tmp_path: Path) -> None:
    dpnn_bridge.convert(model, tmp_path / "half.pt", dtype=torch.float16)
    result = verify(model, tmp_path / "half.pt", input=residual_input())
    assert result.verdict is Verdict.EQUAL
    assert any("contains float16" in note for note in result.notes)


def test_weights_of_another_form_and_missing_ones_are_named(model: Path, tmp_path: Path) -> None:
    state = {k: v.numpy() for k, v in dpnn_bridge.load(model).state_dict().items()}
    state["4.0.0.weight"] = state["4.0.0.weight"][:1]
    del state["7.bias"]
    state["extra"] = np.zeros(1)
    np.savez(tmp_path / "out.npz", **state)
    result = verify(model, tmp_path / "out.npz")
    assert [layer.path for layer in result.layers if not layer.ok] == [CHANGED, "modules[8]"]
    assert [d.name for d in result.whole] == ["converted extra"]


def test_converted_file_of_a_net_with_filled_buffers(tmp_path: Path) -> None:
    """What Torch7 left in the model's buffers is of another input and no reference."""
    after = dpnn_bridge.read_t7(RESIDUAL)["after"]
    dpnn_bridge.write_t7(tmp_path / "model.t7", after)
    dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "model.pt")
    command = [str(tmp_path / "model.t7"), str(tmp_path / "model.pt"), "--input", "2x2x8x8"]
    result = CliRunner().invoke(verify_command, command)
    assert result.exit_code == 0, result.output
    assert "PASS: forward equal" in result.output
    assert "all bit-identical" in result.output


@pytest.mark.parametrize("name", ["Sequential__net_mlp_bn_dropout__double_train", "2016_SeqLSTM__basic__double_train"])
def test_recurrent_and_random_models(name: str, tmp_path: Path) -> None:
    (entry,) = manifest(name=name)
    fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
    dpnn_bridge.write_t7(tmp_path / "model.t7", fixture["module"])
    dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "model.pt")
    for mode in ("train", "eval"):
        result = verify(tmp_path / "model.t7", tmp_path / "model.pt", input=to_value(fixture["input"]), mode=mode)
        assert result.verdict is Verdict.EQUAL, mode


# ---------------------------------------------------------------------- archives that are not what they say
UNFOLDED = 1 << 27  # bytes, twice what a command may keep in memory


def npy(shape: tuple[int, ...], descr: str = "<f4", version: int = 1, padding: int = 0) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode() + b" " * padding + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 * version, "little") + header


def zeros(file: IO[bytes], count: int) -> None:
    for _ in range(count >> 20):
        file.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (npy((UNFOLDED // 4,)), 4),
        (npy((3, 4)), 3),
        (npy((1 << 44,)), 4),
        (npy((1 << 62, 1 << 62)), 3),
        (npy((-1,)), 3),
        (npy((1,), f"|V{UNFOLDED}"), 3),
        (npy((1,), version=2, padding=UNFOLDED), 3),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", 3),
        (b"", 3),
    ],
    ids=[
        "elements",
        "more than it says",
        "a lie",
        "no size",
        "a negative size",
        "a large element",
        "a large header",
        "a header without an end",
        "nothing",
    ],
)
def test_an_archive_that_unfolds_to_much_is_one_error(head: bytes, code: int, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(4, 3))
    with ZipFile(tmp_path / "m.npz", "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for name in ("weight.npy", "bias.npy"):
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(head)
                zeros(file, UNFOLDED)
    tracemalloc.start()
    start = time.process_time()
    try:
        result = CliRunner().invoke(verify_command, [str(tmp_path / "m.t7"), str(tmp_path / "m.npz")])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.exit_code == code, result.output
    assert peak < 64 << 20
    assert time.process_time() - start < 10


@pytest.mark.parametrize("names", [range(20_000), ["x"] * 20_000], ids=["other names", "one name"])
def test_an_archive_that_lists_many_arrays_is_one_error(names: Sequence[object], tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(4, 3))
    with warnings.catch_warnings(), ZipFile(tmp_path / "m.npz", "w") as archive:
        warnings.simplefilter("ignore")  # of the names
        for name in names:
            archive.writestr(f"{name}.npy", npy((0,)))
    start = time.process_time()
    result = CliRunner().invoke(verify_command, [str(tmp_path / "m.t7"), str(tmp_path / "m.npz")])
    assert result.exit_code == 4
    assert "contains 20,000 arrays, and the model has 2 tensors" in result.stderr
    assert time.process_time() - start < 5  # took 12


def test_the_elements_of_an_array_that_the_model_lacks_are_not_read(tmp_path: Path) -> None:
    net = nn.Linear(4, 3)
    with ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("weight.npy", npy((3, 4)) + bytes(48))
        archive.writestr("other.npy", npy((1 << 30,)))
    assert format_of(tmp_path / "m.npz").open(tmp_path / "m.npz", net).tensors["other"].shape == (1 << 30,)


def test_an_array_that_an_archive_names_twice_is_one_error(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(4, 3))
    with ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("weight.npy", npy((3, 4)) + bytes(48))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("weight.npy", npy((3, 4)) + bytes(48))
    result = CliRunner().invoke(verify_command, [str(tmp_path / "m.t7"), str(tmp_path / "m.npz")])
    assert result.exit_code == 3
    assert "contains weight twice" in result.stderr


def test_data_are_not_compared_with_a_model(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(4, 3))
    (tmp_path / "m.json").write_text("[]")
    result = CliRunner().invoke(verify_command, [str(tmp_path / "m.t7"), str(tmp_path / "m.json")])
    assert result.exit_code == 5
    assert ".json stores data" in result.stderr


def test_an_archive_of_other_methods_is_refused(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(4, 3))
    with ZipFile(tmp_path / "m.npz", "w", ZIP_LZMA) as archive:
        archive.writestr("weight.npy", npy((3, 4)) + bytes(48))
    result = CliRunner().invoke(verify_command, [str(tmp_path / "m.t7"), str(tmp_path / "m.npz")])
    assert result.exit_code == 3
    assert re.search("m.npz: .* has a compression method that numpy does not use", result.output)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_every_archive_of_numpy_is_read(write: Any, byte_order: str, order: Any, tmp_path: Path) -> None:
    module = nn.Linear(4, 3)
    dpnn_bridge.save(tmp_path / "m.t7", module)
    arrays = {k: np.asarray(v.numpy(), f"{byte_order}f4", order=order) for k, v in module.state_dict().items()}
    write(tmp_path / "m.npz", **arrays)
    result = verify(tmp_path / "m.t7", converted=tmp_path / "m.npz")
    assert result.ok


@pytest.mark.parametrize(
    "head", [npy((1 << 44,)), npy((2, 4)), npy((1 << 62, 1 << 62)), b"\x93NUMPY\2\0\xff\xff\xff\xff"]
)
def test_an_input_that_lies_is_one_error(head: bytes, tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.t7", nn.Linear(4, 3))
    (tmp_path / "x.npy").write_bytes(head + bytes(16))
    result = CliRunner().invoke(verify_command, [str(tmp_path / "m.t7"), "--input", str(tmp_path / "x.npy")])
    assert (result.exit_code, result.output.count("\n")) == (3, 1), result.output


@pytest.mark.parametrize(
    "numbers", ["<m8[1s/0]", "<M8[s]", "|O", "<f4,<f4", "(2,)<f4", "|V4", "<c8", "<f16", "float32", 4]
)
def test_another_kind_of_array_is_refused_before_numpy_parses_its_type(numbers: Any) -> None:
    header = f"{{'descr': {numbers!r}, 'fortran_order': False, 'shape': (2,)}}".encode()
    with (
        patch.object(np, "dtype", side_effect=AssertionError("numpy parses it")),
        pytest.raises(T7FormatError, match="not an array of numbers"),
    ):
        ArrayHeader(BytesIO(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header))


@pytest.mark.parametrize("numbers", ["<m8[1s/0]", "<m8[s]"])
def test_numpy_parses_no_header_of_data(numbers: str, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "d.t7", LuaTable({"name": "text", "size": 3}))
    dpnn_bridge.convert(tmp_path / "d.t7", tmp_path / "d.npz")
    assert CliRunner().invoke(verify_command, [str(tmp_path / "d.t7"), str(tmp_path / "d.npz")]).exit_code == 0
    header = f"{{'descr': {numbers!r}, 'fortran_order': False, 'shape': (2,)}}".encode()
    with ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("size.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(16))
    result = CliRunner().invoke(verify_command, [str(tmp_path / "d.t7"), str(tmp_path / "x.npz")])
    assert (result.exit_code, result.output.count("\n")) == (4, 1), result.output
    assert "x.npz: not an array of numbers or text: " in result.output


@pytest.mark.parametrize("shape", ["(2L, 3L)", "(2,3L,)"])
def test_an_array_of_python_2_is_read_without_a_warning(shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}}}".encode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ArrayHeader(BytesIO(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header))
    assert (found.shape, found.dtype, found.fortran) == ((2, 3), np.float32, True)


@pytest.mark.parametrize("shape", ["(2.0,)", "(-1,)", "(True,)", "[2]", "2", "None", "('2',)", f"({'9' * 5000},)"])
def test_another_shape_is_one_error(shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    with pytest.raises(T7FormatError, match="not an array of numbers"):
        ArrayHeader(BytesIO(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header))


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False}", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}"],
    ids=["an entry less", "an entry more"],
)
def test_a_header_has_three_entries(header: str) -> None:
    with pytest.raises(T7FormatError, match="not an array of numbers"):
        ArrayHeader(BytesIO(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()))


def test_more_elements_than_the_header_states_are_an_error() -> None:
    file = BytesIO(npy((2,)) + bytes(8 * 3))
    with pytest.raises(T7FormatError, match="has more elements than its header states"):
        ArrayHeader(file).elements(file)


def test_a_size_is_no_reason_to_allocate() -> None:
    file = BytesIO(npy((1 << 25,)) + bytes(8))
    header = ArrayHeader(file)
    tracemalloc.start()
    try:
        with pytest.raises(T7FormatError, match="has fewer elements than its header states"):
            header.elements(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".t7"])
def test_a_file_of_several_models(suffix: str, tmp_path: Path) -> None:
    source, file, x = tmp_path / "models.t7", tmp_path / f"m{suffix}", torch.ones(2, 3)
    encoder, decoder = nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 3))
    models = {"enc": {"net": encoder}, "dec": {"net": decoder}}
    dpnn_bridge.write_t7(source, models)
    dpnn_bridge.convert(source, file)
    result = dpnn_bridge.verify(source, file)
    assert (result.verdict, len(result.differences)) == (Verdict.EQUAL, 4)
    for key in ("enc.net", "dec.net"):
        assert dpnn_bridge.verify(source, file, key=key, input=x).verdict is Verdict.EQUAL
    with pytest.raises(ModelNotFoundError, match="select one with key="):
        dpnn_bridge.verify(source, file, input=x)
    decoder[1].bias.data[1] += 1e-3
    dpnn_bridge.write_t7(source, models)
    for key, verdict in ((None, Verdict.DIFFERENT), ("dec.net", Verdict.DIFFERENT), ("enc.net", Verdict.EQUAL)):
        assert dpnn_bridge.verify(source, file, key=key).verdict is verdict


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".t7"])
def test_a_reference_that_contains_two_modules(suffix: str, tmp_path: Path) -> None:
    source, file, layer, x = tmp_path / "reference.t7", tmp_path / f"m{suffix}", nn.Linear(3, 3), torch.ones(2, 3)
    dpnn_bridge.write_t7(source, {"module": layer, "teacher": nn.Linear(3, 3), "input": x, "output": layer(x)})
    dpnn_bridge.convert(source, file)
    assert dpnn_bridge.verify(source, file).verdict is Verdict.EQUAL


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".py", ".t7"])
def test_a_model_without_tensors_equals_its_own_conversion(suffix: str, tmp_path: Path) -> None:
    source, file = tmp_path / "source.t7", tmp_path / f"m{suffix}"
    dpnn_bridge.write_t7(source, nn.Sequential(nn.Tanh(), nn.Threshold(0.5, 0)))
    dpnn_bridge.convert(source, file)
    assert str(dpnn_bridge.verify(source, file)).endswith("PASS: forward equal (1 comparison, all bit-identical))")
    dpnn_bridge.write_t7(source, nn.Sequential(nn.Tanh(), nn.Threshold(0.25, 0)))
    assert dpnn_bridge.verify(source, file).verdict is Verdict.DIFFERENT


def test_an_input_whose_lists_contain_one_another_very_often_is_one_error(tmp_path: Path) -> None:
    """The lists were gone through as often as they are contained: without an end."""
    value: Any = [torch.ones(2)]
    for _ in range(60):
        value = [value, {"again": value}]
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(T7LimitError, match="share values too often"):
        example_input([str(tmp_path / "x.pt")])
    torch.save([torch.ones(2)], tmp_path / "y.pt")
    assert example_input([str(tmp_path / "y.pt")])[0].tolist() == [1, 1]


def test_a_placeholder_is_the_same_wherever_the_file_has_it(tmp_path: Path) -> None:
    """Its path in the source is no setting: a converted file has another one."""
    model = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([LuaObject("my.Layer", LuaTable())])}))
    dpnn_bridge.write_t7(tmp_path / "a.t7", LuaTable({"model": model}))
    dpnn_bridge.convert(tmp_path / "a.t7", tmp_path / "a.pt", allow_unsupported=True)
    options = Options(allow_unsupported=True)
    assert verify(tmp_path / "a.t7", tmp_path / "a.pt", options=options).ok
