"""Graphs in which an exporter merged layers: a new export of the model shows which tensors are those of its layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.modules.dpnn.glimpse import SpatialGlimpse
from dpnn_bridge.modules.nn import JoinTable, MapTable, TemporalConvolution, TemporalMaxPooling
from dpnn_bridge.parity.graph_results import NO_VALUE
from dpnn_bridge.parity.verify import verify

onnx = pytest.importorskip("onnx", reason="optional extra is not installed")
pytest.importorskip("onnxscript", reason="optional extra is not installed")


def norm(channels: int) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(channels)
    assert module.running_mean is not None
    for tensor in (module.weight, module.running_mean, module.bias):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return module


def norms() -> nn.Sequential:
    """The norms are folded into the layer before them, also across dropout."""
    return nn.Sequential(nn.Conv2d(2, 3, 3), norm(3), nn.Dropout(), norm(3), norm(3))


def transposes() -> nn.Sequential:
    """The transposes between the layers cancel each other; the second result has the size of the right one."""
    return nn.Sequential(
        TemporalConvolution(3, 4, 2), TemporalMaxPooling(2), TemporalConvolution(4, 4, 2), TemporalConvolution(4, 2, 1)
    )


def one_channel() -> nn.Sequential:
    """The values of the graph are the results, but in another shape."""
    return nn.Sequential(TemporalConvolution(3, 1, 2), TemporalConvolution(1, 2, 2))


NETS = {norms: (2, 2, 9, 9), transposes: (2, 9, 3), one_channel: (2, 9, 3)}


def written(module: nn.Sequential, x: Tensor, folder: Path, dynamic: str = "") -> tuple[Path, Path]:
    source, file = folder / "model.t7", folder / "model.onnx"
    dpnn_bridge.write_t7(source, module.eval())
    dpnn_bridge.save(file, dpnn_bridge.load(source).eval(), input=x, **({"dynamic": dynamic} if dynamic else {}))  # type: ignore[arg-type]
    return source, file


@pytest.mark.parametrize("build", NETS)
def test_a_right_graph_of_merged_layers_is_equal_and_a_changed_weight_is_found(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.randn(NETS[build])
    source, file = written(build(), x, tmp_path)
    assert verify(source, file, input=x).verdict is Verdict.EQUAL
    result = verify(source, file)
    assert result.verdict is Verdict.EQUAL, result
    assert any(layer.note == NO_VALUE for layer in result.layers) == (build is not norms)
    graph = onnx.load(file)
    weight = next(i for i in graph.graph.initializer if len(i.dims) > 1 and i.data_type == 1)
    changed = onnx.numpy_helper.to_array(weight).copy()
    changed.flat[1] *= 1.001
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(graph, file)
    for value in (x, None):
        result = verify(source, file, input=value)
        assert result.verdict is Verdict.DIFFERENT
        assert result.first_deviating is not None
        assert result.first_deviating.path.startswith("modules[1]")


def test_a_changed_norm_of_several_that_were_folded_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = norms(), torch.randn(2, 2, 9, 9)
    _, file = written(module, x, tmp_path)
    with torch.no_grad():
        module.get_parameter("4.bias")[1] *= 1.001
    dpnn_bridge.write_t7(tmp_path / "other.t7", module)
    assert verify(tmp_path / "other.t7", file).verdict is Verdict.DIFFERENT


def test_a_constant_that_the_graph_alone_shows_is_found_where_layers_are_omitted(tmp_path: Path) -> None:
    """The output of the model is compared, whatever layers are omitted."""
    torch.manual_seed(0)
    module = nn.Sequential(TemporalConvolution(3, 4, 2), TemporalMaxPooling(2), nn.LeakyReLU(0.1))
    x = torch.randn(2, 9, 3)
    _, file = written(module, x, tmp_path)
    slope = module[2]
    assert isinstance(slope, nn.LeakyReLU)
    slope.negative_slope = 0.101
    dpnn_bridge.write_t7(tmp_path / "other.t7", module)
    assert verify(tmp_path / "other.t7", file, input=x).verdict is Verdict.DIFFERENT


def test_the_input_of_a_dynamic_graph_may_be_too_short_for_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, file = written(norms(), torch.randn(2, 2, 9, 9), tmp_path, "batch,height,width")
    result = verify(source, file)
    assert result.verdict is Verdict.EQUAL, result
    assert any("MODEL cannot run on the input" in note for note in result.notes)


def test_last_bits_that_cancellation_makes_large_are_rounding(tmp_path: Path) -> None:
    """``tanh`` of onnxruntime has other last bits, and ``x - tanh(x)`` is a thousandth of x."""
    torch.manual_seed(11)
    module, x = nn.Sequential(nn.Linear(4, 5), nn.Tanhshrink()), torch.randn(3, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 0.2
    source, file = written(module, x, tmp_path, "batch")
    for seed in range(5):
        torch.manual_seed(seed)
        assert verify(source, file, input=torch.randn(3, 4)).verdict is Verdict.EQUAL
    assert verify(source, file).verdict is Verdict.EQUAL
    with torch.no_grad():
        module[0].bias[1] += 1e-6  # type: ignore[index]
    dpnn_bridge.write_t7(tmp_path / "other.t7", module)
    assert verify(tmp_path / "other.t7", file, input=x).verdict is Verdict.DIFFERENT


def test_an_index_that_last_bits_change_explains_no_difference(tmp_path: Path) -> None:
    """The center of a glimpse is rounded down, so a perturbed run looks at another place."""
    torch.manual_seed(1)
    value, layer = [torch.rand(2, 1, 9, 9), torch.zeros(2, 2)], nn.Linear(18, 3)
    for name, scale in (("source", 2), ("other", 3)):
        module = nn.Sequential(SpatialGlimpse(3, 2, scale), nn.Flatten(), layer)
        dpnn_bridge.write_t7(tmp_path / f"{name}.t7", module.eval())
    dpnn_bridge.save(tmp_path / "other.onnx", dpnn_bridge.load(tmp_path / "other.t7").eval(), input=value)
    assert verify(tmp_path / "other.t7", tmp_path / "other.onnx", input=value).verdict is Verdict.EQUAL
    assert verify(tmp_path / "source.t7", tmp_path / "other.onnx", input=value).verdict is Verdict.DIFFERENT


def test_a_wrong_graph_of_a_model_that_adds_layers_when_it_runs_is_different(tmp_path: Path) -> None:
    """``nn.MapTable`` adds a clone for each element of its input."""
    model = nn.Sequential(MapTable(nn.Linear(3, 2)), JoinTable(1)).eval()
    x = [torch.randn(2, 3), torch.randn(2, 3)]
    dpnn_bridge.write_t7(tmp_path / "model.t7", model)
    dpnn_bridge.save(tmp_path / "right.onnx", dpnn_bridge.load(tmp_path / "model.t7").eval(), input=x)
    assert verify(tmp_path / "model.t7", tmp_path / "right.onnx", input=x).verdict == Verdict.EQUAL
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    dpnn_bridge.save(tmp_path / "wrong.onnx", model, input=x)
    assert verify(tmp_path / "model.t7", tmp_path / "wrong.onnx", input=x).verdict == Verdict.DIFFERENT
