"""A file is equal to itself and to what was made of it, wherever its tensors lie and however many threads compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge.batch import Task, run
from dpnn_bridge.compare import memory, nested
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import OptionError
from dpnn_bridge.modules.dpnn.category import ArgMax
from dpnn_bridge.modules.nn import (
    CMulTable,
    GModule,
    GraphNode,
    LookupTable,
    MulConstant,
    Narrow,
    Padding,
    Reshape,
    Select,
    TemporalConvolution,
)
from dpnn_bridge.modules.rnn import LookupTableMaskZero, SeqLSTM
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs.formats import py as program
from dpnn_bridge.parity import converted
from dpnn_bridge.parity.manifest_check import check_manifest
from dpnn_bridge.parity.run import OTHER_INPUT
from dpnn_bridge.parity.source import Source
from dpnn_bridge.parity.verification import summary
from dpnn_bridge.parity.verify import verify

#: of published nets with layers of every kind: recurrent, convolutional, with normalization, a graph
NETS = [
    "char-rnn__lstm",
    "torch-demos__mnist_convnet",
    "lstm-char-cnn__lstmtdnn_words0",
    "deepmask__symmetric_padding_small",
]
#: elements that the tensors of the file are moved by, threads
LAYOUTS = [(0, 1), (1, 2), (3, 1), (8, 2)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def alarms(model: Path, file: Path, value: object, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of a right file in several layouts of memory, beside equal."""
    found = []
    for offset, count in LAYOUTS:
        for place in (converted, program):
            monkeypatch.setattr(place, "relocate", lambda module, offset=offset: memory.relocate(module, offset))
        torch.set_num_threads(count)
        result = verify(model, file, input=value)
        if result.verdict is not Verdict.EQUAL:
            found.append(f"{file.name}, moved by {offset}, {count} threads: {summary(result)}")
    return found


@pytest.mark.parametrize("suffix", ["itself", ".pt", ".safetensors", ".npz", ".t7", ".py"])
@pytest.mark.parametrize("name", NETS)
def test_right_files_are_equal(name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = file = SAMPLES / name / "model.t7"
    value = to_value(dpnn_bridge.read_t7(SAMPLES / name / "ref.t7")["input"])
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="optional extra is not installed")
    if suffix != "itself":
        file = tmp_path / f"m{suffix}"
        dpnn_bridge.save(file, dpnn_bridge.load(model).eval())
    assert alarms(model, file, value, monkeypatch) == []


def test_views_and_copies_take_other_ways_through_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 60), Narrow(2, 3, 41), nn.Sigmoid(), nn.Linear(41, 1000), nn.Tanh())
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    assert alarms(tmp_path / "model.t7", tmp_path / "model.t7", torch.randn(7, 40), monkeypatch) == []


def test_a_program_has_no_faster_versions_of_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = SeqLSTM(20, 50).double()
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    dpnn_bridge.save(tmp_path / "m.py", net)
    assert alarms(tmp_path / "model.t7", tmp_path / "m.py", torch.randn(10, 8, 20).double(), monkeypatch) == []


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize(
    "table", [LookupTableMaskZero(6, 4), LookupTable(6, 4, max_norm=0.5)], ids=lambda m: type(m).__name__
)
def test_writing_changes_no_weight(suffix: str, table: nn.Module, tmp_path: Path) -> None:
    """A layer that changes its weights when it runs is written with those it had."""
    pytest.importorskip("onnxscript", reason="optional extra is not installed")
    net = nn.Sequential(table := copy.deepcopy(table), nn.Tanh()).eval()
    before = copy.deepcopy(table.weight)
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    dpnn_bridge.save(tmp_path / f"m{suffix}", net, input=(x := torch.tensor([[1, 2, 3]])))
    assert torch.equal(table.weight, before)
    assert verify(tmp_path / "model.t7", tmp_path / f"m{suffix}", input=x).verdict is Verdict.EQUAL


def test_an_output_of_a_graph_has_no_name_of_an_operation(tmp_path: Path) -> None:
    """A reshape to the same sizes is left out, so that the padding before it gives the output."""
    pytest.importorskip("onnxscript", reason="optional extra is not installed")
    net = nn.Sequential(nn.Sequential(nn.Tanh(), nn.Sequential(nn.Sigmoid(), Padding(2, 1))), Reshape(5)).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    for names in ({}, {"input_names": ["sigmoid"], "output_names": ["tanh"]}):  # names of operations
        dpnn_bridge.save(tmp_path / "m.onnx", net, input=(x := torch.randn(2, 4)), **names)
        assert verify(tmp_path / "model.t7", tmp_path / "m.onnx", input=x).verdict is Verdict.EQUAL
    with pytest.raises(OptionError, match=r"output_names= \(--output-names\): x is the name of an input"):
        dpnn_bridge.save(tmp_path / "m.onnx", net, input=x, input_names=["x"], output_names=["x"])


def test_an_empty_batch_is_refused(tmp_path: Path) -> None:
    """A tensor without elements has no sizes in Torch7: the model would run on something else."""
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(nn.Embedding(7, 4), nn.Tanh()))
    for value in (torch.zeros(0, 5, dtype=torch.int64), [torch.ones(1, 5), torch.ones(5, 0)]):
        with pytest.raises(OptionError, match="has no elements; pass at least one sample"):
            dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.t7", input=value)


def test_the_name_of_a_file_is_no_input(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Linear(3, 2))
    for given in ({"input": "x.t7"}, {"input": tmp_path / "x.t7"}, {"input": torch.ones(1, 3), "output": b"y.t7"}):
        with pytest.raises(
            OptionError, match=r"(input|output)= is the \w+ '.*[xy]\.t7'; pass a tensor, an array or a table"
        ):
            dpnn_bridge.verify(tmp_path / "m.t7", **given)


def test_a_file_whose_indices_start_at_0_is_compared_as_it_was_converted(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(nn.Embedding(5, 3), nn.ReLU()))
    task, how = Task(tmp_path / "m.t7", tmp_path / "m.pt2"), {"input": torch.ones(2, 3).long(), "index_base": 0}
    assert [o.status for o in run([task], manifest=tmp_path / "done.jsonl", **how)] == ["converted"]
    for value in (None, torch.tensor([[0, 4, 1], [2, 2, 3]])):  # None: the file's own input
        result = dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.pt2", input=value, index_base=0)
        assert result.verdict is Verdict.EQUAL
        assert not any("index_base" in note for note in result.notes)
    result = dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.pt2")
    assert result.verdict is Verdict.DIFFERENT
    assert any("If m.pt2 was converted with index_base=0" in note for note in result.notes)
    for base, verdict in ((0, "equal"), (1, "different")):
        (line,) = check_manifest(tmp_path / "done.jsonl", index_base=base, trusted=True)
        assert line.verdict == verdict
    with pytest.raises(OptionError, match="needs a converted file"):
        dpnn_bridge.verify(tmp_path / "m.t7", index_base=0)


def test_a_traced_file_is_said_to_be_compared_in_evaluation(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.pt2", input=torch.ones(2, 3))
    result = dpnn_bridge.verify(tmp_path / "m.t7", tmp_path / "m.pt2", mode="train")
    assert (result.verdict, result.mode) == (Verdict.EQUAL, "eval")
    assert any("evaluation mode" in note for note in result.notes)


def test_a_moved_tensor_is_the_same_elsewhere() -> None:
    for tensor in (torch.randn(3, 4), torch.randn(4, 3).t(), torch.arange(6)[::2], torch.randn(3, 1).expand(3, 5)):
        for offset in (0, 1, 3):
            there = memory.moved(tensor, offset)
            assert torch.equal(there, tensor)
            assert there.data_ptr() % 64 == offset * tensor.itemsize % 64
    empty, shared = torch.empty(0), nn.Linear(2, 2)
    assert memory.moved(empty, 3) is empty
    both = nn.Sequential(shared, shared)
    weight = shared.weight
    memory.relocate(both, 1)
    assert both[1].weight is both[0].weight is weight


@pytest.mark.parametrize("by", [1e-6, 1e-3])
def test_a_small_change_of_a_constant_is_no_rounding(by: float, tmp_path: Path) -> None:
    """Layers whose result is the same bits wherever they lie have no allowance."""
    model = dpnn_bridge.load(SAMPLES / "torch-demos__mnist_convnet" / "model.t7").eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", nn.Sequential(*model, nn.LeakyReLU(0.25)))  # type: ignore[misc]
    dpnn_bridge.save(tmp_path / "m.py", dpnn_bridge.load(tmp_path / "model.t7"))
    source = (tmp_path / "m.py").read_text()
    assert "negative_slope=0.25" in source
    (tmp_path / "m.py").write_text(source.replace("negative_slope=0.25", f"negative_slope={0.25 * (1 + by)!r}"))
    x = torch.randn(2, 1, 32, 32)
    result = verify(tmp_path / "model.t7", tmp_path / "m.py", input=x)
    assert result.verdict is Verdict.DIFFERENT
    assert result.first_deviating is not None
    assert result.first_deviating.class_name == "nn.LeakyReLU"


def test_a_sum_may_be_as_far_off_as_runs_of_the_source_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allowance of a layer is what its own runs give, some times over, and no more."""
    torch.manual_seed(0)
    dpnn_bridge.write_t7(tmp_path / "model.t7", nn.Sequential(nn.Linear(300, 2)))
    dpnn_bridge.save(tmp_path / "m.pt", dpnn_bridge.load(tmp_path / "model.t7"))
    x = torch.randn(4, 300)
    real, spread = converted.run_modules, {"0": {"output": 1e-6}, "": {"output": 1e-6}}
    monkeypatch.setattr(Source, "spread", lambda *_: spread)
    verdicts = []
    for off in (0.0, 3e-6, 6e-6):

        def run(*arguments: Any, off: float = off) -> dict[str, Any]:
            return {name: nested.map_tensors(lambda t: t + off, value) for name, value in real(*arguments).items()}

        monkeypatch.setattr(converted, "run_modules", run)
        verdicts.append(verify(tmp_path / "model.t7", tmp_path / "m.pt", input=x).verdict)
    assert verdicts == [Verdict.EQUAL, Verdict.EQUAL, Verdict.DIFFERENT]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_file_may_store_weights_in_another_order(
    swapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch7's order in memory is not that of .safetensors; without vector instructions PyTorch's sums differ."""
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    torch.manual_seed(0)
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(TemporalConvolution(6, 5, 2)))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.safetensors")
    model, file = (tmp_path / "m.t7", tmp_path / "m.safetensors")[:: -1 if swapped else 1]
    strides = {dpnn_bridge.load(name)[0].weight.stride() for name in (model, file)}  # type: ignore[index]
    assert len(strides) == 2
    forward, off = TemporalConvolution.forward, 1e-7

    def in_order(layer: TemporalConvolution, x: torch.Tensor) -> torch.Tensor:
        return forward(layer, x) * (1 + off * layer.weight.is_contiguous())

    monkeypatch.setattr(TemporalConvolution, "forward", in_order)
    assert verify(model, file, input=torch.randn(2, 7, 6)).verdict is Verdict.EQUAL


def test_a_runtime_may_add_up_many_values_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 2, 200, 200).relu() + 1  # onnxruntime's statistics of a map are off by 1e-5
    source, file, other = tmp_path / "net.t7", tmp_path / "net.onnx", tmp_path / "other.t7"
    norm = nn.InstanceNorm2d(2, affine=True)
    again = nn.InstanceNorm2d(2, affine=True)
    dpnn_bridge.write_t7(source, nn.Sequential(norm, nn.ReLU(), again).eval())
    dpnn_bridge.convert(source, file, input=x)
    runs, run_source = [], Source.run
    monkeypatch.setattr(Source, "run", lambda self, *args, **how: runs.append(how) or run_source(self, *args, **how))
    result = verify(source, file, input=x)
    assert result.verdict is Verdict.ROUNDING
    reasons = {d.reason for d in result.differences if d.error > d.tolerance}
    assert reasons == {"rounding explains it: an element depends on 40,000 elements of the input"}
    assert sum(d.error > d.tolerance for d in result.differences) > 1
    assert (
        len(runs) == 6
    )  # as it is, in double precision, with three sets of last bits, and for the inputs of all layers
    norm.eps = 2e-4
    dpnn_bridge.write_t7(other, nn.Sequential(norm, nn.ReLU(), again).eval())
    assert verify(other, file, input=x).verdict is Verdict.DIFFERENT


def test_a_sequence_that_a_file_continues_and_another_begins(tmp_path: Path) -> None:
    """A .py begins a new sequence, all other formats continue the one that the model was saved in."""
    model = SeqLSTM(3, 4).double().eval()
    model.remember()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    model(x)
    dpnn_bridge.save(tmp_path / "m.t7", model)
    for suffix in (".t7", ".pt", ".py", ".pt2"):
        options = {} if suffix == ".pt" else {"input": x}
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / f"out{suffix}", **options)
        result = verify(tmp_path / "m.t7", tmp_path / f"out{suffix}", input=x)
        assert result.verdict is Verdict.EQUAL, (suffix, summary(result))


@pytest.mark.parametrize("suffix", [".t7", ".py", ".pt2"])
def test_writing_a_model_leaves_its_sequence(suffix: str, tmp_path: Path) -> None:
    model = SeqLSTM(3, 4).eval()
    model.remember()
    x = torch.randn(5, 2, 3)
    model(x)
    expected = copy.deepcopy(model)(x)
    dpnn_bridge.save(tmp_path / f"m{suffix}", model, input=x)
    assert torch.equal(model(x), expected)


def test_a_program_that_uses_one_module_for_several_has_none_of_their_results(tmp_path: Path) -> None:
    """Sigmoids of columns take another way through the function than those of copies."""
    nodes = [GraphNode(), GraphNode((0,), "0"), GraphNode((1,), "1"), *(GraphNode((2,), str(i)) for i in (2, 3))]
    nodes += [GraphNode((3,), "4"), GraphNode((4,), "5"), GraphNode((5, 6), "6"), GraphNode((7,), "7"), GraphNode((8,))]
    gates = [nn.Linear(6, 10), Reshape(2, 5), Select(2, 1), Select(2, 2), nn.Sigmoid(), nn.Sigmoid()]
    found = []
    for seed in range(5):
        torch.manual_seed(seed)
        net = GModule(*copy.deepcopy(gates), CMulTable(), nn.BatchNorm1d(5), nodes=nodes).double().eval()
        dpnn_bridge.write_t7(tmp_path / "model.t7", net)
        dpnn_bridge.save(tmp_path / "model.py", net)
        result = verify(tmp_path / "model.t7", tmp_path / "model.py", input=torch.randn(5, 6).double())
        found.append(result.verdict)
    assert found == [Verdict.EQUAL] * 5


def test_stored_results_of_another_call_with_the_same_output_are_not_used(tmp_path: Path) -> None:
    """Zeros, such as those of a dead ReLU, do not show that the file contains the results of this call."""
    x = torch.ones(2, 3, dtype=torch.float64)

    def used(module: nn.Module, output: torch.Tensor) -> LuaObject:
        return dpnn_bridge.to_lua(module.double()).changed(output=lua_value(output))

    linear, zero = nn.Linear(3, 3), MulConstant(0.0)
    layers = LuaTable.from_list([used(linear, torch.full((2, 3), 9.0).double()), used(zero, 0 * x)])
    model = dpnn_bridge.to_lua(nn.Sequential(linear, zero)).changed(modules=layers, output=lua_value(0 * x))
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    result = dpnn_bridge.verify(tmp_path / "m.t7", input=x, output=0 * x)
    assert result.verdict == Verdict.EQUAL
    assert OTHER_INPUT in result.notes


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_wrong_layer_before_a_right_output_is_named(wrong: int, tmp_path: Path) -> None:
    """Its stored result was taken for one of another call."""
    layers: list[nn.Module] = [nn.Linear(3, 4).double(), nn.Tanh(), nn.Linear(4, 5).double(), ArgMax(-1)]
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    objects, output = [], x
    for layer in layers:
        output = layer(output).detach()
        objects.append(lua_value(output))
    with torch.no_grad():
        next(layers[wrong].parameters())[0, 0] += 1e-6
    modules = [dpnn_bridge.to_lua(layer).changed(output=value) for layer, value in zip(layers, objects, strict=True)]
    model = dpnn_bridge.to_lua(nn.Sequential(*layers)).changed(modules=LuaTable.from_list(modules), output=objects[-1])
    dpnn_bridge.write_t7(tmp_path / "m.t7", model)
    result = dpnn_bridge.verify(tmp_path / "m.t7", input=x, output=output)
    assert [layer.path for layer in result.layers if not layer.ok] == [f"modules[{wrong + 1}]"]


def test_a_program_that_computes_in_place_is_equal(tmp_path: Path) -> None:
    net = dpnn_bridge.to_lua(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval())
    net["modules"][2]["inplace"] = True
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    for inplace in (False, True):
        dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "net.py", inplace=inplace, force=True)
        assert ("inplace=True" in (tmp_path / "net.py").read_text()) == inplace
        result = verify(tmp_path / "model.t7", tmp_path / "net.py", input=torch.randn(5, 3))
        assert result.verdict == Verdict.EQUAL, str(result)
    text = (tmp_path / "net.py").read_text()
    net["modules"][2]["inplace"] = False
    dpnn_bridge.write_t7(tmp_path / "model.t7", net)
    (tmp_path / "net.py").write_text(text)
    assert not verify(tmp_path / "model.t7", tmp_path / "net.py").ok  # it could change what another layer reads
