"""A model that is run to be verified takes what its files are worth, whatever sizes and counts it declares."""

from __future__ import annotations

import functools
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from dpnn_bridge import load, to_lua
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion.limits import BYTES, STEPS, STEPS_PER_VIEW, ResourceLimitMode, ResourceLimits
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.files.summary import summarize
from dpnn_bridge.loaders import dumps, read_t7, write_t7
from dpnn_bridge.modules.inputs import input_shapes
from dpnn_bridge.modules.nn import GModule, ParallelTable
from dpnn_bridge.modules.nn.nngraph import GraphNode
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.verify import verify


def layer(name: str, **fields: Any) -> LuaObject:
    return LuaObject(f"nn.{name}", LuaTable({"_type": "torch.FloatTensor", "train": False, **fields}))


def ones(*shape: int) -> LuaTensor:
    return LuaTensor.from_numpy(np.ones(shape, np.float32))


IMAGE = (1, 1, 4, 4)
#: layers whose results, or whose work, grow with a number in the file, and the shape of an input
GROWING: dict[str, tuple[LuaObject, tuple[int, ...]]] = {
    "nearest": (layer("SpatialUpSamplingNearest", scale_factor=4096), IMAGE),
    "bilinear": (layer("SpatialUpSamplingBilinear", oheight=1 << 15, owidth=1 << 15), IMAGE),
    "zero padding": (layer("SpatialZeroPadding", pad_l=1 << 20, pad_r=0, pad_t=1 << 20, pad_b=0), IMAGE),
    "padding": (layer("Padding", dim=1, pad=1 << 40, nInputDim=3, value=0, index=1), IMAGE),
    "replicate": (  # a view, which the layer behind it reads
        layer(
            "Sequential",
            modules=LuaTable.from_list([layer("Replicate", nfeatures=1 << 40, dim=1, ndim=4), layer("Tanh")]),
        ),
        IMAGE,
    ),
    "replication padding": (layer("SpatialReplicationPadding", pad_l=1 << 15, pad_r=0, pad_t=1 << 15, pad_b=0), IMAGE),
    "adaptive pooling": (layer("SpatialAdaptiveMaxPooling", W=1 << 15, H=1 << 15), IMAGE),
    "full convolution": (
        layer(
            "SpatialFullConvolution",
            **{
                "nInputPlane": 1,
                "nOutputPlane": 1,
                "kW": 2,
                "kH": 2,
                "dW": 1 << 15,
                "dH": 1 << 15,
                "padW": 0,
                "padH": 0,
            },
            **{"adjW": 0, "adjH": 0, "weight": ones(1, 1, 2, 2), "bias": ones(1)},
        ),
        IMAGE,
    ),
    "padded convolution": (
        layer(
            "SpatialConvolution",
            **{
                "nInputPlane": 1,
                "nOutputPlane": 1,
                "kW": 3,
                "kH": 3,
                "dW": 1,
                "dH": 1,
                "padW": 1 << 14,
                "padH": 1 << 14,
            },
            **{"weight": ones(1, 1, 3, 3), "bias": ones(1)},
        ),
        IMAGE,
    ),
    "repeated": (
        LuaObject("nn.Repeater", LuaTable({"rho": 10**9, "modules": LuaTable.from_list([layer("Tanh")])})),
        (2, 3),
    ),
    "views": (  # which take no elements
        layer(
            "Sequential",
            modules=LuaTable.from_list(
                [layer("Replicate", nfeatures=1 << 28, dim=1, ndim=4), layer("SplitTable", dimension=1, nInputDims=5)]
            ),
        ),
        IMAGE,
    ),
    "calls": (  # which do no operation
        LuaObject("nn.Repeater", LuaTable({"rho": 10**9, "modules": LuaTable.from_list([layer("Identity")])})),
        (2, 3),
    ),
    "pixels that are chosen": (layer("SpatialMaxSampling", oheight=1 << 30, owidth=1 << 30), IMAGE[1:]),
    "an image that is scaled": (layer("Scale", height=1 << 30, width=1 << 30), (3, 4, 4)),
    "a chain": (
        layer("Sequential", modules=LuaTable.from_list([layer("SpatialUpSamplingNearest", scale_factor=3)] * 9)),
        IMAGE,
    ),
}


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(model: LuaObject, shape: tuple[int, ...], **more: Any) -> Path:
        path = tmp_path / "m.t7"
        write_t7(path, LuaTable({"module": model, "input": ones(*shape), "output": ones(1), **more}))
        return path

    return write


@pytest.mark.parametrize("name", GROWING)
def test_a_layer_that_grows_is_named(file: Any, name: str) -> None:
    model, shape = GROWING[name]
    path = file(layer("Sequential", modules=LuaTable.from_list([layer("Identity"), model])), shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ConversionLimitError, match=r"modules\[2\].*the limit for the size.*unbounded=True \(--unbounded\)"
    ) as raised:
        verify(path)
    assert raised.value.path.startswith("modules[2]")
    write_t7(path.with_name("model.t7"), read_t7(path)["module"])
    summarize(path.with_name("model.t7"))  # tries inputs of its own
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_an_input_of_a_billion_parts_is_not_tried(tmp_path: Path) -> None:
    edges = [GraphNode(), GraphNode((0,), "0")]
    module = GModule(nn.Linear(2, 2), nodes=edges, num_inputs=10**9)
    assert input_shapes(module, 100) == []


def test_branches_do_not_run_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpnn_bridge.modules.inputs.MAX_SECONDS", -1)
    branch = nn.Linear(3, 2)
    branch.register_forward_pre_hook(lambda *_: pytest.fail("it runs"))
    assert input_shapes(ParallelTable(branch, branch), 100) == []


def test_what_is_written_of_a_layer_is_bounded(tmp_path: Path) -> None:
    bottle = layer("Bottle", modules=LuaTable.from_list([layer("Tanh")]), nInputDim=1 << 40, nOutputDim=1 << 40)
    write_t7(tmp_path / "m.t7", bottle)
    assert len(dumps(to_lua(load(tmp_path / "m.t7")))) < 10_000


def test_each_module_of_a_file_may_run(tmp_path: Path) -> None:
    many = layer("Sequential", modules=LuaTable.from_list([layer("Identity") for _ in range(25_000)]))
    write_t7(tmp_path / "m.t7", many)
    assert verify(tmp_path / "m.t7", input=torch.ones(2, 3)).ok


def test_calls_in_another_thread_are_not_counted() -> None:
    called = threading.Thread(target=lambda: [nn.Identity()(1) for _ in range(STEPS // STEPS_PER_VIEW + 1)])
    with ResourceLimitMode(ResourceLimits()):
        called.start()
        called.join()
        nn.Identity()(1)


def test_the_gradients_of_a_layer_are_bounded() -> None:
    wide = torch.zeros(1, requires_grad=True)
    first = wide.expand(1 << 40)[0]  # of a view, whose gradient is none
    with pytest.raises(ConversionLimitError, match="64 MiB of results"), ResourceLimitMode(ResourceLimits()):
        first.backward()


def test_a_loss_of_a_scalar_is_measured() -> None:
    with ResourceLimitMode(ResourceLimits()):
        assert nn.MultiLabelMarginLoss()(torch.tensor(1.0), torch.tensor(0)) == 0


def _embedding_gradient(rows: int) -> torch.Tensor:
    indices = torch.zeros(1, dtype=torch.int64)
    return torch.ops.aten.embedding_dense_backward(torch.zeros(1, 1), indices, rows, -1, False)


def _ctc_loss(count: int) -> torch.Tensor:
    labels = torch.ones(1, 1000, dtype=torch.int64)
    return nn.functional.ctc_loss(torch.zeros(count, 1, 2), labels, torch.tensor([count]), torch.tensor([1000]))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("MiB of results", lambda: torch.zeros(BYTES // 4 + 1)),
        ("MiB of results", lambda: torch.zeros(9000, 1) + torch.zeros(9000)),
        ("MiB of results", lambda: torch.arange(1 << 40)),
        ("MiB of results", lambda: torch.zeros(8).repeat(1 << 30)),
        ("MiB of results", lambda: torch.zeros(8).repeat_interleave(1 << 30)),
        ("MiB of results", lambda: torch.tensor([1 << 40]).bincount()),
        ("MiB of results", lambda: nn.functional.one_hot(torch.tensor([1 << 40]))),
        ("MiB of results", lambda: torch.tensor([1]).repeat_interleave(torch.tensor([1 << 40]))),
        ("MiB of results", lambda: torch.zeros(1, 2)[:, torch.zeros(1, dtype=torch.int64).expand(1 << 40)]),
        ("MiB of results", lambda: torch.zeros(2, 2).index_select(0, torch.zeros(1 << 25, dtype=torch.int64))),
        ("MiB of results", lambda: torch.zeros(1).resize_(1 << 40)),
        ("MiB of results", lambda: nn.functional.pad(torch.zeros(1, 1, 1), (1 << 30, 0))),
        ("MiB of results", lambda: torch.zeros(9000, 1) @ torch.zeros(1, 9000)),
        ("MiB of results", lambda: torch.zeros(1).expand(1 << 40).sum()),
        ("MiB of results", lambda: torch.zeros(9000, 1).masked_select(torch.ones(1, 9000, dtype=torch.bool))),
        ("MiB of results", lambda: torch.zeros(1, dtype=torch.uint8).expand(1 << 25).double()),
        ("MiB of results", lambda: torch.zeros(1).expand(1 << 23).sort()),
        ("MiB of results", lambda: torch.zeros((1,) * 8).expand(1 << 21, *(1,) * 7).nonzero()),
        ("MiB of results", lambda: nn.LSTM(1, 1)(torch.zeros(1 << 17, 1, 1))),
        ("MiB of results", lambda: _embedding_gradient(1 << 25)),
        ("MiB of results", lambda: _ctc_loss(1 << 14)),
        ("steps", lambda: nn.functional.max_pool2d(torch.zeros(1, 1, 2000, 2000), 1000, 1)),
        ("steps", lambda: nn.functional.avg_pool2d(torch.zeros(1, 1, 2000, 2000), 1000, 1)),
        ("steps", lambda: torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)),
        ("steps", lambda: nn.AdaptiveAvgPool2d((1, 1 << 15))(torch.zeros(1, 1 << 15, 1))),
        ("steps", lambda: nn.AdaptiveMaxPool2d((1, 1 << 15))(torch.zeros(1, 1 << 15, 1))),
        ("steps", lambda: nn.MultiLabelMarginLoss()(torch.zeros(1 << 15), torch.ones(1 << 15, dtype=torch.int64))),
        ("steps", lambda: torch.zeros(1).expand(1 << 40).unbind()),
        ("steps", lambda: torch.zeros(3, 1).expand(3, 1 << 40).split(2, dim=1)),
        ("steps", lambda: torch.zeros(1).expand(1 << 40).chunk(1 << 39)),
        ("steps", lambda: [torch.zeros(1)[0] for _ in range(1 << 20)]),
        ("steps", lambda: [nn.Identity()(None) for _ in range(1 << 20)]),
        ("steps", lambda: [torch.tanh(torch.zeros(1)) for _ in range(1 << 20)]),
        ("steps", lambda: nn.Identity()(functools.reduce(lambda value, _: [value, value], range(60), []))),
        ("of results|steps", lambda: torch.conv2d(torch.zeros(1, 1, 2000, 2000), torch.zeros(1, 1, 1000, 1000))),
    ],
)
def test_operations_that_grow_are_measured_before_they_happen(text: str, call: Any) -> None:
    with pytest.raises(ConversionLimitError, match=text), ResourceLimitMode(ResourceLimits()):
        call()


def test_a_run_may_take_what_the_input_is_worth() -> None:
    value = torch.ones(1 << 20)
    with ResourceLimitMode(ResourceLimits(more=value.nbytes)):
        total = sum(torch.tanh(value + k).sum() for k in range(60))
    assert float(total) > 0


def test_a_small_recurrent_layer_may_run_a_thousand_steps() -> None:
    """Its many small operations were counted like large ones."""
    layer, x = nn.LSTM(1, 1).double(), torch.ones(1000, 1, 1, dtype=torch.float64)
    with ResourceLimitMode(ResourceLimits(more=656 + 4 * x.numel())):
        layer(x)


def test_columns_of_a_gradient_count_once() -> None:
    value, weight = (torch.ones(1, 1, n, n, requires_grad=True) for n in (256, 12))
    with ResourceLimitMode(ResourceLimits()):
        torch.conv2d(value, weight).sum().backward()  # each gradient may take 33 MiB of columns, one after the other
    assert weight.grad is not None


def test_who_trusts_a_file_runs_it_all_the_same(file: Any) -> None:
    path = file(layer("SpatialUpSamplingNearest", scale_factor=1100), (1, 1, 4, 4))
    with pytest.raises(ConversionLimitError):
        verify(path)
    assert not verify(path, bounded=False).ok  # its output is not what the file says
    result = CliRunner().invoke(verify_command, [str(path)])
    assert result.exit_code == 5
    assert re.search(r"nn\.SpatialUpSamplingNearest.*--unbounded", result.output)
    assert CliRunner().invoke(verify_command, [str(path), "--unbounded"]).exit_code == 4


def test_a_converted_file_that_grows_is_named(file: Any, tmp_path: Path) -> None:
    small, large = (layer("SpatialUpSamplingNearest", scale_factor=n) for n in (2, 1 << 14))
    write_t7(tmp_path / "small.t7", small)
    write_t7(tmp_path / "large.t7", large)
    for model, converted in (("large", "small"), ("small", "large")):
        with pytest.raises(ConversionLimitError, match="the limit for the size of the file"):
            verify(tmp_path / f"{model}.t7", tmp_path / f"{converted}.t7", input=torch.ones(IMAGE))


@pytest.mark.parametrize("name", ["nearest", "repeated", "views", "calls"])
def test_a_model_that_is_compared_with_a_network_is_bounded(name: str, file: Any, tmp_path: Path) -> None:
    model, shape = GROWING[name]
    path, network = file(model, shape), tmp_path / "net.py"
    network.write_text("from torch import nn\nclass Net(nn.Tanh): pass\n")
    words = [str(path), f"{network}:Net", "--key", "module", "--input", "x".join(map(str, shape))]
    result = CliRunner().invoke(verify_command, words)
    assert result.exit_code == ConversionLimitError.exit_code, result.output
    assert "--unbounded runs it anyway" in result.output
    assert len(result.output.splitlines()) == 1


def test_who_trusts_a_model_compares_it_with_a_network_all_the_same(
    file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpnn_bridge.conversion.limits.STEPS", 0)
    monkeypatch.setattr("dpnn_bridge.conversion.limits.STEPS_PER_BYTE", 0)
    path, network = file(layer("Tanh"), (2, 3)), tmp_path / "net.py"
    network.write_text("from torch import nn\nclass Net(nn.Tanh): pass\n")
    words = [str(path), f"{network}:Net", "--key", "module", "--input", "2x3"]
    assert CliRunner().invoke(verify_command, words).exit_code == ConversionLimitError.exit_code
    assert CliRunner().invoke(verify_command, [*words, "--unbounded"]).exit_code == 0


def test_verifying_imports_neither_the_compiler_nor_sympy() -> None:
    folder = Path(__file__).parents[2] / "fixtures" / "samples" / "torch-demos__mnist_convnet"
    code = f"""
import gc
import sys
from dpnn_bridge.cli.verify import verify_command

verify_command([{str(folder / "model.t7")!r}, "--reference", {str(folder / "ref.t7")!r}, "-q"], standalone_mode=False)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules], gc.isenabled())
print(gc.get_freeze_count() > 50_000)  # PyTorch's objects
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[] True", "True"]


def test_a_chain_of_layers_adds_no_dimensions_without_end(file: Any) -> None:
    """Every operation reads all sizes."""
    chain = [layer("Replicate", nfeatures=1, dim=1, ndim=9999) for _ in range(100)]
    path = file(layer("Sequential", modules=LuaTable.from_list(chain)), (1, 1))
    with pytest.raises(ConversionLimitError, match=r"modules\[6\d\].*more than 64 dimensions"):
        verify(path)
