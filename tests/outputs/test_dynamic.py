"""Sizes that vary in ``.onnx`` and ``.pt2``: named axes, names of inputs and outputs, checked at several sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from samples import SAMPLES
from torch import nn
from torch.export import Dim

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.modules.dpnn import SpatialReSampling
from dpnn_bridge.modules.nn import Add, Bottle, TemporalMaxPooling, Transpose, UpsamplingBilinear2d
from dpnn_bridge.modules.nn.convolution_special import SpatialDepthWiseConvolution
from dpnn_bridge.modules.rnn import FastLSTM
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM
from dpnn_bridge.outputs.dynamic import Dynamic
from dpnn_bridge.outputs.value_names import input_names, output_names
from dpnn_bridge.outputs.verification import export_error
from dpnn_bridge.zoo.msg_net import GramMatrix


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    down = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*down, nn.ConvTranspose2d(6, 2, 4, 2, 1)).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully convolutional network and what the command makes of it."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    folder = tmp_path_factory.mktemp("dynamic")
    dpnn_bridge.write_t7(folder / "model.t7", convolutional())
    words = ["model.onnx", "--input", "1x3x16x16", "--dynamic", "batch,height,width", "--output-names", "map"]
    result = CliRunner().invoke(convert_command, [str(folder / "model.t7"), str(folder / words[0]), *words[1:]])
    assert result.exit_code == 0, result.output
    return folder


def test_a_fully_convolutional_network_runs_at_any_size(written: Path) -> None:
    runtime: Any = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = runtime.InferenceSession(written / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert [o.name for o in session.get_outputs()] == ["map"]
    model = convolutional()
    for size in ((1, 3, 16, 16), (2, 3, 34, 18), (3, 3, 64, 8)):
        x = torch.randn(size)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["dpnn_bridge.source"] == "model.t7"
    assert metadata["dpnn_bridge.version"] == dpnn_bridge.__version__
    assert metadata["dpnn_bridge_origin"].startswith("sha256:")


def test_verification_runs_a_second_size(written: Path) -> None:
    result = dpnn_bridge.verify(written / "model.t7", written / "model.onnx", input=torch.randn(1, 3, 16, 16))
    assert result.verdict is Verdict.EQUAL
    (other,) = (d for d in result.whole if d.name.startswith("output for"))
    assert other.name == "output for 5x3x24x8"


def test_an_exported_program_that_holds_at_one_size_is_refused(tmp_path: Path) -> None:
    """The size is a constant of the trace, which the batch alone does not show."""

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.zeros(int(x.shape[-1])) + int(x.shape[-2])

    net = nn.Sequential(Fixed())
    dpnn_bridge.save(tmp_path / "right.pt2", net, input=torch.randn(1, 4, 4), dynamic="batch")
    with pytest.raises(OptionError, match="does not accept other sizes"):
        dpnn_bridge.save(tmp_path / "wrong.pt2", net, input=torch.randn(1, 4, 4), dynamic="batch,height")
    assert not (tmp_path / "wrong.pt2").exists()


def test_a_small_example_of_a_pooling_network_is_accepted(tmp_path: Path) -> None:
    """torch.export excludes sizes for which the pooling returns size 1, so larger sizes are tried first."""
    net, example = nn.Sequential(nn.MaxPool2d(2)), torch.randn(1, 3, 4, 4)
    dpnn_bridge.save(tmp_path / "m.pt", net)
    dpnn_bridge.save(tmp_path / "m.pt2", net, input=example, dynamic="batch,height,width")
    assert dpnn_bridge.verify(tmp_path / "m.pt", tmp_path / "m.pt2", input=example).ok


def test_a_result_of_size_one_is_named(tmp_path: Path) -> None:
    net = nn.Sequential(nn.MaxPool2d(4))
    with pytest.raises(OptionError, match=r"a layer has a result of size 1, .* pass a larger example"):
        dpnn_bridge.save(tmp_path / "m.pt2", net, input=torch.randn(1, 3, 4, 4), dynamic="height")


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ("batch,hieght", "unknown axis hieght; expected batch, length, depth, height, width, or NAME=INDEX"),
        ("image:batch", "no input image; the inputs are left, right"),
        ("time=7", "an input of 1x3x8x8, 1x5 has no axis time=7"),
        ("left:time=x", "expected NAME=INDEX"),
        ("right:height", "an input of 1x5 has no axis height"),
        ("a:b:c", "expected AXES or INPUT:AXES"),
        ("", "expected AXES"),
    ],
)
def test_wrong_axes_are_named(dynamic: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Dynamic.of([dynamic], [torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)], ["left", "right"])


def test_axes_by_input_and_by_index() -> None:
    example = [torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)]
    assert Dynamic.of(True, example).axes == ({0: "batch"}, {0: "batch"})
    assert Dynamic.of("batch,height", example).axes == ({0: "batch", 2: "height"}, {0: "batch"})
    found = Dynamic.of(["left:width", "right:batch,time=-1"], example, ["left", "right"])
    assert found.axes == ({3: "width"}, {0: "batch", 1: "time"})
    assert not Dynamic.of(False, example)


def test_two_names_of_one_axis_are_refused() -> None:
    with pytest.raises(OptionError, match="length and width are one axis; omit one of them"):
        Dynamic.of(["length", "batch,width"], torch.zeros(1, 2, 3))
    assert Dynamic.of(["width", "batch,width"], torch.zeros(1, 2, 3)).axes == ({2: "width", 0: "batch"},)


def test_a_size_that_the_model_does_not_take_is_named() -> None:
    model = dpnn_bridge.load(SAMPLES / "torch-demos__mnist_convnet" / "model.t7")
    example = torch.zeros(1, 1, 32, 32)
    with pytest.raises(
        OptionError, match=r"--dynamic\) height: of the sizes 16, .* the model accepts only 32; omit height"
    ):
        Dynamic.of("batch,height", example).examples(example, model)
    shapes = [tuple(x.shape) for x in Dynamic.of("batch,height,width", example).examples(example, convolutional_of(1))]
    assert len(set(shapes)) == 3
    assert shapes[-1][2] != shapes[-1][3]
    example = torch.zeros(1, 1, 8, 8, 8)
    *_, last = Dynamic.of("batch,depth,height,width", example).examples(example, nn.Conv3d(1, 1, 3))
    assert len({*last.shape[2:]}) == 3


class OfSizes(nn.Module):
    """Accepts some sizes of the last axis."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] in self.sizes
        return x.tanh()


@pytest.mark.parametrize("larger_first", [False, True])
def test_size_one_is_not_traced(larger_first: bool) -> None:
    for n in (1, 2, 3, 4):
        dynamic = replace(Dynamic.of("batch,height,width", torch.zeros(2, 2, n, n)), larger_first=larger_first)
        *_, last = dynamic.examples(torch.zeros(2, 2, n, n), nn.Tanh())
        assert min(last.shape) > 1
    x = torch.zeros(2, 2)
    shapes = [
        e.shape for e in replace(Dynamic.of("length", x), larger_first=larger_first).examples(x, OfSizes(1, 2, 4))
    ]
    assert shapes == [(2, 2), (2, 1), (2, 4)]


@pytest.mark.parametrize("size", [2, 3])
def test_a_small_example_leaves_the_axis_variable(size: int, tmp_path: Path) -> None:
    """At a traced size of 1, broadcasting would fix the axis."""
    onnx: Any = pytest.importorskip("onnx", reason="needs the extra onnx")
    net, example = nn.Sequential(Transpose((1, 2)), nn.Embedding(6, 2)), torch.ones((2, size), dtype=torch.long)
    dpnn_bridge.save(tmp_path / "m.onnx", net, input=example, dynamic=["batch=0", "time=1"])
    (output,) = onnx.load(tmp_path / "m.onnx").graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["time", "batch", 2]


class Cell(nn.Module):
    def forward(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        x, h, c = values
        return [x.tanh() + h, c]


def test_a_model_that_keeps_a_state_is_tried_on_every_batch() -> None:
    x, step = torch.randn(4, 10), FastLSTM(Cell(), input_size=10, output_size=10)
    assert [len(e) for e in Dynamic.of(True, x).examples(x, step)] == [4, 2, 3, 5]


def test_a_program_runs_on_its_example_and_on_a_batch_as_large_as_a_sample(tmp_path: Path) -> None:
    dpnn_bridge.save(tmp_path / "m.pt2", nn.Sequential(Add(4), nn.Tanh()), input=torch.randn(4, 4), dynamic=True)
    program = torch.export.load(tmp_path / "m.pt2").module()
    assert [tuple(program(torch.ones(n, 4)).shape) for n in (1, 3, 4, 5)] == [(1, 4), (3, 4), (4, 4), (5, 4)]


class NotFour(nn.Module):
    """Computes something else for a batch of four."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh() if x.shape[0] == 4 else x.relu()


def test_a_program_that_excludes_the_size_of_its_example_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="it runs on 5x4, not on 4x4"):
        dpnn_bridge.save(tmp_path / "m.pt2", NotFour(), input=torch.randn(4, 4), dynamic=True)


@pytest.mark.parametrize("name", ["self", "module", "example", "sizes"])
def test_an_axis_may_have_any_name(name: str) -> None:
    x = torch.randn(2, 3, 8)
    assert len({e.shape for e in Dynamic.of(f"{name}=2", x).examples(x, nn.ReLU())}) == 3


def test_of_two_axes_the_one_that_the_model_does_not_take_is_named() -> None:
    x = torch.randn(3, 16, 16)  # no batch
    with pytest.raises(OptionError, match="batch: the model does not accept the sizes 2, 5; omit batch"):
        Dynamic.of("batch,last=2", x).examples(x, nn.Conv2d(3, 4, 3))


def test_a_batch_that_the_model_does_not_take_is_one_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = r"--dynamic\) batch: the model does not accept the sizes 2, 3, 5; omit batch"
    with pytest.raises(OptionError, match=message):  # an input without a batch
        dpnn_bridge.save(tmp_path / "a.pt2", nn.Linear(4, 5), input=torch.randn(4), dynamic=True)
    assert capfd.readouterr().err == ""


def convolutional_of(planes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(planes, 1, 3, stride=2))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_example_without_elements_is_refused(suffix: str, tmp_path: Path) -> None:
    """The program would take empty batches only, and no output would be compared."""
    with pytest.raises(OptionError, match="needs an example input with elements, such as"):
        dpnn_bridge.save(tmp_path / f"a{suffix}", nn.Linear(3, 2), input=torch.ones(0, 3))


def test_names_are_those_of_nodes() -> None:
    from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
    from dpnn_bridge.objects import LuaTable

    def node(name: str, *args: Any, **kwargs: Any) -> GraphNode:
        return GraphNode(*args, **kwargs, attributes={"annotations": LuaTable({"name": name})})

    graph = GModule(nn.Linear(3, 3), nodes=[node("image", ()), node("class scores", (0,), "0")], output_node=1)
    x = torch.zeros(1, 3)
    assert input_names(graph, x) == ["image"]
    assert output_names(graph, x) == ["class_scores"]
    assert output_names(nn.Linear(1, 1), [x, x]) == ["output_1", "output_2"]
    assert output_names(nn.Linear(1, 1), [x, x], ["a", "b"]) == ["a", "b"]
    for wrong in (["a"], ["a", "a"], ["a", ""]):
        with pytest.raises(OptionError, match=r"output_names= \(--output-names\): expected 2 different names"):
            output_names(nn.Linear(1, 1), [x, x], wrong)
    assert output_names(nn.Linear(1, 1), x, inputs=["output"]) == ["output_"]
    assert output_names(nn.Linear(1, 1), [x, x], inputs=["output_1"]) == ["output__1", "output__2"]


class OfDict(nn.Module):
    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2 * inputs["a"] - inputs["b"]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_model_that_takes_a_dict(suffix: str, tmp_path: Path) -> None:
    example = {"b": torch.randn(2, 3), "a": torch.randn(2, 3)}
    dpnn_bridge.save(tmp_path / f"m{suffix}", OfDict(), input=example, dynamic=True)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_time_steps_cannot_vary_in_a_traced_program(suffix: str, tmp_path: Path) -> None:
    """The first size of a sequence is time, not the batch; the model runs with any number of steps."""
    pytest.importorskip("onnxruntime")
    sequence = SeqLSTM(3, 4)
    with pytest.raises(
        OptionError, match=r"--dynamic.*: the traced program does not accept other sizes: .*omit this size"
    ):
        dpnn_bridge.save(tmp_path / f"m{suffix}", sequence, input=torch.randn(5, 2, 3), dynamic="batch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", [UpsamplingBilinear2d(scale_factor=2), SpatialReSampling(rwidth=2, rheight=3)])
def test_an_integer_factor_keeps_the_sizes_variable(layer: nn.Module) -> None:
    sizes = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(layer, (torch.randn(2, 3, 6, 6),), dynamic_shapes=(sizes,), strict=False)
    x = torch.randn(2, 3, 7, 9)
    assert torch.equal(program.module()(x), layer(x))


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            "tracing inferred a static shape of 5 for dimension inputs['x'].shape[0]",
            "found the constant size 5; .*omit",
        ),
        ("your code specialized it to be a constant (5).", "found the constant size 5; .*omit"),
        ("The inequality cannot be solved", r"cannot be solved; omit a size from dynamic= \(--dynamic\); try .pt2"),
    ],
)
def test_an_exporter_that_rejects_variable_sizes_has_a_next_step(cause: str, message: str) -> None:
    with pytest.raises((OptionError, ConversionError), match=message):
        raise export_error("torch.onnx", ValueError(cause), nn.ReLU(), dynamic=True, advice="try .pt2")


@pytest.mark.parametrize(
    ("module", "sizes", "others"),
    [
        (Bottle(nn.Tanh()), (2, 3, 4), (5, 6, 4)),
        (GramMatrix(), (2, 3, 4, 5), (3, 3, 6, 7)),
        (TemporalMaxPooling(2, 2), (2, 8, 3), (3, 11, 3)),
        (SpatialDepthWiseConvolution(2, 3, 3, (2, 1)), (2, 2, 7, 7), (3, 2, 8, 13)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_functions_that_fix_a_size_are_avoided(
    module: nn.Module, sizes: tuple[int, ...], others: tuple[int, ...]
) -> None:
    """torch.export traces torch.Size.numel(), and the length in F.max_pool1d, as constants."""
    axes = {axis: Dim.AUTO for axis, (a, b) in enumerate(zip(sizes, others, strict=True)) if a != b}
    program = torch.export.export(module, (torch.zeros(sizes),), dynamic_shapes=(axes,)).module()
    value = torch.randn(others)
    assert torch.equal(program(value), module(value))


def test_a_layer_of_pytorch_called_bridge_does_not_run_in_lua() -> None:
    net = nn.Module()
    net.bridge = nn.Linear(2, 2)
    assert "Lua" not in str(export_error("torch.export", ValueError("no kernel"), net, dynamic=False))
