"""A graph also runs without results of the model, which hide the shape and the dtype of a layer's result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.modules.nn import CAddTable, ConcatTable, MulConstant, Reshape, Transpose
from dpnn_bridge.parity.graph_results import ALONE
from dpnn_bridge.parity.verify import verify

onnx = pytest.importorskip("onnx", reason="optional extra is not installed")
pytest.importorskip("onnxruntime", reason="optional extra is not installed")


def written(module: nn.Module, folder: Path, suffix: str) -> tuple[Path, Path, torch.Tensor]:
    x = torch.randn(3, 6)
    model, file = folder / "model.t7", folder / f"file{suffix}"
    dpnn_bridge.write_t7(model, module.eval())
    dpnn_bridge.convert(model, file, input=x)
    assert verify(model, file, input=x).verdict is Verdict.EQUAL
    return model, file, x


def layers() -> list[nn.Module]:
    return [nn.Linear(6, 8), Reshape(2, 4), nn.ReLU()]


def tail() -> list[nn.Module]:
    return [Transpose([2, 3]), Reshape(8), nn.Linear(8, 3)]


def change(file: Path, edit: str) -> None:
    """Change a graph so that the elements of a result remain in their order."""
    if file.suffix == ".pt2":
        program = torch.export.load(file)
        view = next(n for n in program.graph.nodes if "view" in str(n.target) or "reshape" in str(n.target))
        view.args = (view.args[0], [3, 4, 2])
        program.graph_module.recompile()
        torch.export.save(program, file)
        return
    model = onnx.load(file)
    graph: Any = model.graph
    del graph.value_info[:]
    output, reshapes = graph.output[0], [n for n in graph.node if n.op_type == "Reshape"]
    if edit == "sizes":
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 4, 2]), "other"))
        reshapes[0].input[1] = "other"
        output.type.tensor_type.ClearField("shape")
    elif edit == "missing":
        reshapes[-1].op_type = "Identity"
        del reshapes[-1].input[1:], reshapes[-1].attribute[:]
    else:
        graph.node[-1].output[0] = "inner"
        graph.node.append(onnx.helper.make_node("Cast", ["inner"], [output.name], to=onnx.TensorProto.DOUBLE))
        output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, file)


@pytest.mark.parametrize(
    ("edit", "suffix", "end", "reason"),
    [
        ("sizes", ".onnx", True, "elements differ"),
        ("sizes", ".onnx", False, "expected a tensor of shape (3, 2, 4), found a tensor of shape (3, 4, 2)"),
        ("sizes", ".pt2", False, "expected a tensor of shape (3, 2, 4), found a tensor of shape (3, 4, 2)"),
        ("missing", ".onnx", True, "does not run on this input"),
        ("cast", ".onnx", True, "float64 instead of float32"),
    ],
)
def test_a_result_of_another_shape_or_dtype_is_found(
    edit: str, suffix: str, end: bool, reason: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, file, x = written(nn.Sequential(*layers(), *(tail() if end else ())), tmp_path, suffix)
    change(file, edit)
    result = verify(model, file, input=x)
    assert result.verdict is Verdict.DIFFERENT
    (failure,) = (d for d in result.differences if not d.ok)
    assert failure.name == ("converted" if edit == "missing" else ALONE)
    assert reason in failure.message


def test_another_number_of_inputs_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file, x = written(nn.Sequential(nn.Linear(6, 2), nn.Tanh()), tmp_path, ".onnx")
    graph = onnx.load(file)
    graph.graph.input.append(onnx.helper.make_tensor_value_info("extra", 1, [3, 8]))
    onnx.save(graph, file)
    result = verify(model, file, input=x)
    assert result.verdict is Verdict.DIFFERENT
    assert "the graph has 2 inputs (input, extra), found 1 tensors" in str([d.message for d in result.differences])


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_random_numbers_explain_only_results_that_change_with_them(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, model, file = torch.randn(3, 6), tmp_path / "model.t7", tmp_path / f"file{suffix}"
    lua = dpnn_bridge.to_lua(nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8), nn.Dropout()).eval())
    lua["modules"][4]["stochastic_inference"] = True
    dpnn_bridge.write_t7(model, lua)
    for slope, verdict in ((0.2, Verdict.EQUAL if suffix == ".pt2" else Verdict.RANDOM), (-3.0, Verdict.DIFFERENT)):
        net = dpnn_bridge.load(model).eval()
        net.get_submodule("1").negative_slope = slope  # type: ignore[assignment]
        if suffix == ".pt2":
            torch.export.save(torch.export.export(net, (x,)), file)
        else:
            program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
            assert program is not None
            program.save(file)
        result = verify(model, file, input=x)
        assert result.verdict is verdict
        if verdict is Verdict.DIFFERENT:
            assert result.first_deviating is not None
            assert result.first_deviating.path == "modules[2]"


def scale(file: Path, factor: float) -> None:
    """Multiply the output of a graph."""
    graph: Any = (model := onnx.load(file)).graph
    graph.node[-1].output[0] = "inner"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor"))
    graph.node.append(onnx.helper.make_node("Mul", ["inner", "factor"], [graph.output[0].name]))
    onnx.save(model, file)


def cancelling(delta: float, *after: nn.Module) -> nn.Sequential:
    """A network in single precision that subtracts numbers with a relative difference of about ``delta``."""
    torch.manual_seed(0)
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    with torch.no_grad():
        b.weight.copy_(-a.weight * (1 + delta))
        b.bias.copy_(-a.bias)
    return nn.Sequential(*layers(), *tail(), ConcatTable(a, b), CAddTable(), MulConstant(1e6), *after).eval()


def exported(net: nn.Module, folder: Path) -> tuple[Path, Path, torch.Tensor]:
    dpnn_bridge.write_t7(folder / "m.t7", net)
    x = torch.randn(3, 6)
    program = torch.onnx.export(dpnn_bridge.load(folder / "m.t7").eval(), (x,), dynamo=True, verbose=False)
    assert program is not None
    program.save(folder / "f.onnx")
    return folder / "m.t7", folder / "f.onnx", x


def test_random_numbers_of_an_earlier_layer_do_not_explain_a_scaled_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lua = dpnn_bridge.to_lua(nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 4)).eval())
    lua["modules"][2]["stochastic_inference"] = True
    model, file, x = exported(dpnn_bridge.to_torch(lua), tmp_path)
    assert verify(model, file, input=x).verdict is Verdict.RANDOM
    scale(file, 3.0)
    assert verify(model, file, input=x).verdict is Verdict.DIFFERENT


def test_rounding_errors_of_earlier_layers_do_not_explain_a_wrong_layer(tmp_path: Path) -> None:
    model, file, x = exported(cancelling(1e-4, nn.Linear(3, 4)), tmp_path)
    scale(file, 1 + 5e-5)
    assert verify(model, file, input=x).verdict is Verdict.DIFFERENT


def test_rounding_errors_larger_than_the_output_are_named(tmp_path: Path) -> None:
    """They would explain any output."""
    model, file, x = exported(cancelling(1e-6), tmp_path)
    change(file, "sizes")
    notes = verify(model, file, input=x).notes
    assert any("rounding errors in MODEL change its output by" in note for note in notes)
