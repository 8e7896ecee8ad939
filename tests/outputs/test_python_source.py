"""``.py``: what is written needs only torch, computes and trains as the model does, and reads well."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, manifest
from samples import SAMPLES, cases
from standalone import executed
from test_registry import OWN, mapping_id
from test_sharing import linear, sequential, storage, view
from torch import nn
from torch.nn.utils import prune

import dpnn_bridge
from dpnn_bridge import memory, plugins, training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import fields, registry, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.affine import CMul
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.nn.container import ConcatTable, DepthConcat
from dpnn_bridge.modules.nn.linear import Cosine
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.nn.unpooling import MaxUnpooling
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs import ExportContext
from dpnn_bridge.outputs.py import program
from dpnn_bridge.outputs.py.closure import SourceClosure

#: one fixture for each class, if possible one that runs, and of these the smallest in training mode
ENTRIES = {
    e["class"]: e
    for e in sorted(
        manifest(kind=("module", "criterion", "structure")),
        key=lambda e: (e["kind"] != "structure", e.get("mode") == "train", -(FIXTURES / e["file"]).stat().st_size),
    )
}
#: classes that the registry does not know
UNKNOWN = {
    "cudnn.SpatialDivisiveNormalization",
    "dp.Experiment",
    "nn.DataList",
    "nn.DataSet",
    "nn.FunctionWrapper",
    "Dict",
}
#: the fixtures hold unpoolings alone, after a run of their pooling; a fresh pooling has not run
NEED_A_RUN = {"nn.SpatialMaxUnpooling", "nn.VolumetricMaxUnpooling"}
NETS = [c["name"] for c in cases() if c["name"] not in ("VQA_LSTM_CNN__weights_only", "mc-cnn__slow_net_te")]


def source_of(model: nn.Module, path: Path, **options: Any) -> str:
    dpnn_bridge.save(path / "net.py", model, **options)
    return (path / "net.py").read_text()


def rebuilt(model: nn.Module, path: Path, **options: Any) -> nn.Module:
    built = executed(source_of(model, path, **options)).build()
    built.load_state_dict(model.state_dict())
    return built


def trained(model: nn.Module, arguments: list[Any]) -> Any:
    """Output and gradient of the input, or the error that a call raises. Parameters collect their gradients."""
    torch.manual_seed(0)
    inputs = nested.require_grad(copy.deepcopy(arguments[0]))
    memory.forget(model)
    model.zero_grad()
    try:
        output = list(nested.leaves(model(inputs, *arguments[1:])))
        outputs = [o for o in output if isinstance(o, torch.Tensor) and o.requires_grad]
        training.reinforce(model, torch.linspace(-1, 1, len(outputs[0])) if outputs and outputs[0].dim() else None)
        torch.autograd.backward(outputs, [torch.randn(o.shape, dtype=o.dtype) for o in outputs])
    except Exception as e:
        return type(e)
    output = [[*o.encode()] if isinstance(o, str) else o for o in output]
    return output, [v.grad for v in nested.leaves(inputs) if isinstance(v, torch.Tensor)]


def tensors_of(module: nn.Module) -> dict[str, Any]:
    """Gradients of the parameters and values of the buffers of one module."""
    gradients = {name: p.grad for name, p in module.named_parameters(recurse=False)}
    return gradients | dict(module.named_buffers(recurse=False))


def assert_same_training(model: nn.Module, built: nn.Module, arguments: list[Any]) -> None:
    pairs = program.Program(model, ExportContext()).pairs(built)
    for mode in (model.training, not model.training):
        model.train(mode), built.train(mode)
        expected, found = trained(model, arguments), trained(built, arguments)
        if isinstance(expected, type):
            assert found is expected
            continue
        torch.testing.assert_close(found, expected, equal_nan=True)
        for _, ours, theirs in pairs:
            torch.testing.assert_close(tensors_of(theirs), tensors_of(ours), equal_nan=True)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Takes the files of the tests; at the end ruff checks all of them."""
    path = tmp_path_factory.mktemp("written")
    yield path
    check = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", path], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout[-3000:]


# ---------------------------------------------------------------------- every class
@pytest.mark.parametrize("kind", OWN, ids=mapping_id)
def test_source_of_every_class_stands_alone(kind: type[nn.Module]) -> None:
    closure = SourceClosure()
    name = closure.add(kind)
    code = "\n\n".join(["from __future__ import annotations", closure.imports(), *closure.definitions().values()])
    assert issubclass(getattr(executed(code), name), nn.Module)


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - UNKNOWN))
def test_every_class(name: str, written: Path) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / ENTRIES[name]["file"])
    module = to_torch(fixture["module"] if "module" in fixture else fixture["object"])
    dpnn_bridge.save(written / f"{name}.py", module)
    built = executed((written / f"{name}.py").read_text()).build()
    built.load_state_dict(module.state_dict())
    built.load_state_dict(copy.deepcopy(built.state_dict()))
    if "input" in fixture and name not in NEED_A_RUN:
        target = [to_value(fixture.get("target"))] if fixture["kind"] == "criterion" else []
        assert_same_training(module, built, [to_value(fixture["input"]), *target])


@pytest.mark.parametrize("name", NETS)
def test_whole_nets(name: str, written: Path) -> None:
    model = dpnn_bridge.load(SAMPLES / name / "model.t7")
    example = to_value(dpnn_bridge.read_t7(SAMPLES / name / "ref.t7")["input"])
    example = None if isinstance(example, dict) else example
    dpnn_bridge.save(written / f"{name}.py", model, input=example)
    built = executed((written / f"{name}.py").read_text()).build()
    built.load_state_dict(model.state_dict())
    if example is not None:
        assert_same_training(model, built, [example])


# ---------------------------------------------------------------------- what depends on how modules are put together
def test_runs_in_a_process_without_dpnn_bridge(tmp_path: Path, python: list[str]) -> None:
    model = dpnn_bridge.load(SAMPLES / "char-rnn__lstm" / "model.t7").eval()
    x = [torch.tensor([1, 2, 3]), *(torch.randn(3, 24) for _ in range(4))]
    dpnn_bridge.save(tmp_path / "net.py", model)
    dpnn_bridge.save(tmp_path / "net.pt", model)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; sys.modules['dpnn_bridge'] = None\n"
        "from net import load\n"
        "torch.save(load('net.pt')(torch.load('x.pt')), 'y.pt')\n"
    )
    subprocess.run([*python, "-c", code], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), model(x), rtol=0, atol=0)


def residual(width: int) -> nn.Sequential:
    branch = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
    return nn.Sequential(ConcatTable(branch, nn.Identity()), CAddTable(), nn.ReLU())


def test_what_is_there_several_times_is_written_once(tmp_path: Path) -> None:
    source = source_of(nn.Sequential(residual(4), residual(4), residual(2)), tmp_path)
    assert source.count("residual1()") == 3
    assert source.count("ConcatTable(\n") == 2


def test_shapes_stand_where_they_change(tmp_path: Path) -> None:
    convolutions = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()
    )
    source = source_of(convolutions, tmp_path, input=torch.randn(1, 3, 8, 8), metadata={"source": "net.t7"})
    assert source.startswith('"""net.t7 as a PyTorch module')
    assert "dpnn-convert net.t7 model.pt" in source
    assert "Input: (1, 3, 8, 8); output: (1, 8, 4, 4)." in source
    assert "nn.Conv2d(3, 8, 3, padding=1),  # (1, 8, 8, 8)\n        nn.BatchNorm2d(8),\n        nn.ReLU(),\n" in source
    assert "nn.MaxPool2d(2),  # (1, 8, 4, 4)\n        nn.ReLU(),\n" in source


def graph(*modules: nn.Module, **options: Any) -> GModule:
    """``sigmoid(linear(a)) + sigmoid(linear(b))`` of the input ``[a, b]``."""
    name = {"annotations": {"name": "left side"}}
    nodes = [
        GraphNode(splits=2),
        GraphNode((0,), select=1),
        GraphNode((0,), select=2),
        GraphNode((1,), "0", attributes=name),
        GraphNode((2,), "1"),
        GraphNode((3,), "2"),
        GraphNode((4,), "3"),
        GraphNode((5, 6), "4"),
    ]
    modules = modules or (nn.Linear(3, 2), nn.Linear(3, 2), nn.Sigmoid(), nn.Sigmoid(), CAddTable())
    return GModule(*modules, nodes=nodes, num_inputs=2, **options)


FORWARD = """
    def forward(self, inputs):
        x1, x2 = inputs
        left_side = self.left_side(x1)
        x2 = self.linear(x2)
        x3 = self.sigmoid(left_side)
        x2 = self.sigmoid(x2)
        x3 = self.add([x3, x2])
        return x3
"""


def test_graph_is_written_out(tmp_path: Path) -> None:
    source = source_of(graph(), tmp_path)
    assert FORWARD in source
    assert 'super().__init__({"0": "left_side", "1": "linear"})' in source
    assert "GraphNode" not in source
    inner = rebuilt(nn.Sequential(graph(), nn.Sequential(nn.ReLU())), tmp_path)
    assert sorted(inner.state_dict()) == ["0.left_side.bias", "0.left_side.weight", "0.linear.bias", "0.linear.weight"]


def test_elements_of_an_element_are_written_out(tmp_path: Path) -> None:
    """``linear(a) + b + c`` of the input ``[a, [b, [c, d]]]``: Lua's ``pair:split(2)`` of an input."""
    nodes = [
        GraphNode(splits=2),
        GraphNode((0,), select=1),
        GraphNode((0,), select=2),
        GraphNode((2,), splits=2),
        GraphNode((3,), select=1),
        GraphNode((3,), select=2),
        GraphNode((5,), splits=2),
        GraphNode((6,), select=1),
        GraphNode((1,), "0"),
        GraphNode((8, 4, 7), "1"),
    ]
    model = GModule(nn.Linear(3, 3), CAddTable(), nodes=nodes, num_inputs=2)
    a, b, c, d = torch.randn(4, 2, 3)
    built = rebuilt(model, tmp_path)
    torch.testing.assert_close(built([a, [b, [c, d]]]), model([a, [b, [c, d]]]), rtol=0, atol=0)


def test_a_program_has_no_state_of_the_converter(tmp_path: Path) -> None:
    source = source_of(LookupTable(5, 3, max_norm=1.0), tmp_path)
    assert "return torch.jit.is_tracing()" in source
    assert "ContextVar" not in source


def test_names_of_members_are_unique(tmp_path: Path) -> None:
    model = graph(*(nn.Conv1d(1, 1, 1) for _ in range(4)), CAddTable())
    labels = ["conv1", "conv_2", "1", "node 9"]
    for i, label in enumerate(labels):
        model.nodes[3 + i] = GraphNode(model.nodes[3 + i].inputs, str(i), attributes={"annotations": {"name": label}})
    model.nodes[5] = GraphNode((3,), "2")
    model.nodes[6] = GraphNode((4,), "3")
    x = [torch.randn(1, 1, 2), torch.randn(1, 1, 2)]
    built = rebuilt(model, tmp_path)
    torch.testing.assert_close(built(x), model(x))
    assert [name for name, _ in built.named_children()] == ["conv1", "conv_2", "conv2", "conv3", "add"]


def test_graphs_that_are_equal_are_one_class(tmp_path: Path) -> None:
    pair = nn.Sequential(ConcatTable(graph(), graph()), CAddTable())
    assert source_of(pair, tmp_path).count("def forward(self, inputs)") == 1


def test_module_that_a_graph_shares_with_another_module(tmp_path: Path) -> None:
    linear = nn.Linear(3, 2)
    model = ConcatTable(
        nn.Sequential(nn.Identity(), graph(linear, linear, nn.Sigmoid(), nn.Tanh(), CAddTable())), linear
    )
    assert "def __init__(self, shared_linear):" in source_of(model, tmp_path)
    built = rebuilt(model, tmp_path)
    assert built[0][1].left_side is built[1]
    assert len(list(built.parameters())) == 2


def test_class_names_that_are_taken(tmp_path: Path) -> None:
    from dpnn_bridge.modules.dpnn import category
    from dpnn_bridge.zoo import char_lm

    model = nn.Sequential(category.OneHot(3), nn.Sequential(char_lm.OneHot(4)))
    built = rebuilt(model, tmp_path)
    assert [type(m).__name__ for m in (built[0], built[1][0])] == ["OneHot", "OneHot2"]


def test_unpooling_uses_the_pooling_of_the_model(tmp_path: Path) -> None:
    pooling = nn.MaxPool2d(2)
    model = nn.Sequential(pooling, nn.ReLU(), MaxUnpooling(pooling))
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(rebuilt(model, tmp_path)(x), model(x))


def test_ties_need_no_dpnn_bridge(tmp_path: Path) -> None:
    s = storage(12)
    model = to_torch(sequential(linear(view(s, (3, 4), (4, 1))), linear(view(s, (4, 3), (1, 4)))))
    source = source_of(model, tmp_path, input=torch.randn(2, 4, dtype=torch.float64))
    assert 'tie(model[1], "weight", model[0], "weight", (4, 3), (1, 4), 0)' in source
    built = executed(source).build()
    with torch.no_grad():
        built[0].weight.fill_(2)
    assert built[1].weight.unique().tolist() == [2]
    assert len(list(built.parameters())) == 1


def test_same_parameter_in_two_modules(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    built = rebuilt(model, tmp_path)
    assert built[2].weight is built[0].weight
    assert [p.requires_grad for p in built.parameters()] == [True, False, True]


def test_an_attribute_that_is_no_number_is_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Tanh())
    model[0].limit = float("nan")
    assert "nan" in source_of(model, tmp_path)


def test_what_goes_without_saying_is_left_out(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, (3, 3), padding=(1, 1)), nn.ReLU(), nn.MaxPool2d((2, 2), (2, 2), (0, 0)))
    source = source_of(model, tmp_path)
    assert "return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))" in source
    assert "import torch\nfrom torch import nn\n\n\ndef build()" in source


def test_copied_classes_come_without_examples_and_remarks_for_tools(tmp_path: Path) -> None:
    source = source_of(dpnn_bridge.load(SAMPLES / "torch-demos__mnist_convnet" / "model.t7"), tmp_path)
    assert "class Reshape(nn.Module):" in source
    assert ">>>" not in source
    assert "type: ignore" not in source
    assert {line for line in source.splitlines() if line.strip() == "Lua:"} == {"    Lua:"}


def test_fx_records_copied_classes_as_one_step(tmp_path: Path) -> None:
    built = rebuilt(nn.Sequential(Cosine(2, 3), DepthConcat(nn.Linear(3, 2), dimension=2)), tmp_path)
    assert [node.target for node in torch.fx.symbolic_trace(built).graph.nodes][1:-1] == ["0", "1"]


@pytest.mark.parametrize(
    "module",
    [
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
        nn.LSTM(2, 3, num_layers=2),
        nn.RNN(2, 3, nonlinearity="relu"),
        nn.Sequential(nn.Linear(2, 3).double(), nn.Linear(3, 1)),
        CMul(3, 1),
        Cosine(2, 3),
    ],
    ids=lambda m: type(m).__name__,
)
def test_rebuilds(module: nn.Module, tmp_path: Path) -> None:
    built = rebuilt(module, tmp_path)
    assert [t.dtype for t in built.parameters()] == [t.dtype for t in module.parameters()]


class Renamed(nn.Module):
    def __init__(this, size: int) -> None:  # noqa: N805
        super().__init__()
        this.size = size
        this.linear = nn.Linear(size, 2)

    def forward(this, input: torch.Tensor) -> torch.Tensor:  # noqa: N805
        return this.linear(input)


class Forwarded(Renamed):
    def __init__(me, *args: Any, **kwargs: Any) -> None:  # noqa: N805
        super().__init__(*args, **kwargs)


class Normalized(nn.Sequential):
    def __init__(self, planes: int) -> None:
        super().__init__(nn.Conv2d(3, planes, 3), nn.BatchNorm2d(planes))


class Residual(Normalized):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input[..., 1:-1, 1:-1] + super().forward(input)


@pytest.mark.parametrize(
    "module",
    [
        Normalized(3),
        nn.Sequential(Normalized(3), nn.Tanh()),
        nn.AdaptiveAvgPool2d((None, None)),
        nn.AdaptiveMaxPool3d((None, None, None)),
        nn.AdaptiveMaxPool2d((None, 2)),
        Renamed(4),
        Forwarded(4),
    ],
    ids=str,
)
def test_arguments_are_those_of_the_constructor(module: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(rebuilt(module, tmp_path)(x), module(x))


def test_an_argument_that_a_sequence_with_its_own_forward_does_not_keep_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"^0 \(Residual\): the value of its .* argument 'planes' is unknown"):
        source_of(nn.Sequential(Residual(3)), tmp_path)


def test_a_module_without_a_constructor_of_its_own(tmp_path: Path) -> None:
    assert type(rebuilt(nn.Module(), tmp_path)) is nn.Module


def test_a_shape_that_the_constructor_does_not_give_is_named(tmp_path: Path) -> None:
    layer = nn.Embedding(3, 2)
    layer.weight = nn.Parameter(torch.ones(4, 2))
    with pytest.raises(ConversionError, match=r"its weight has shape \(4, 2\), but shape \(3, 2\) in a new layer"):
        source_of(layer, tmp_path)


def test_class_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    (tmp_path / "layers.py").write_text(PLUGIN)
    plugins.load_plugins([tmp_path / "layers.py"])
    model = to_torch(LuaObject("mine.Scale", LuaTable({"factor": 3.0})))
    x = torch.randn(2, 3)
    torch.testing.assert_close(rebuilt(model, tmp_path)(x), 3 * x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), 3 * x)


PLUGIN = """
from dataclasses import dataclass

from torch import nn
from dpnn_bridge import LuaClass, lua_class

@dataclass
class Settings:
    power: float = 1.0

class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, input):
        input = input ** Settings().power
        return input * self.factor

@lua_class("mine.Scale")
class ScaleClass(LuaClass):
    torch_type = Scale
    scalars = {"factor": "factor"}
"""


# ---------------------------------------------------------------------- what cannot be written
def test_unknown_class_is_refused(tmp_path: Path) -> None:
    model = to_torch(LuaObject("nn.Mystery", LuaTable()), allow_unsupported=True)
    with pytest.raises(ConversionError, match=r"nn\.Mystery.*@lua_class"):
        source_of(nn.Sequential(model), tmp_path)


@pytest.mark.parametrize("suffix", [".py", ".pt"])
@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            nn.utils.parametrizations.spectral_norm,
            r"SpectralNorm computes its weight, .*remove_parametrizations\(module, '",
        ),
        (nn.utils.weight_norm, r"WeightNorm computes its weight, .*nn\.utils\.remove_weight_norm\(module, 'weight'\)"),
        (nn.utils.spectral_norm, r"SpectralNorm computes its weight, .*nn\.utils\.remove_spectral_norm\(module, 'w"),
        (prune.identity, r"Identity computes its weight, .*nn\.utils\.prune\.remove\(module, 'weight'\)"),
    ],
    ids=["parametrization", "weight_norm", "spectral_norm", "pruning"],
)
def test_a_weight_that_is_computed_is_refused_by_name(compute: Any, message: str, suffix: str, tmp_path: Path) -> None:
    for layer in (nn.Linear(2, 3), dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(2, 3)))):
        with pytest.raises(ConversionError, match=message) as caught:
            dpnn_bridge.save(tmp_path / f"a{suffix}", nn.Sequential(nn.Tanh(), compute(layer, "weight")))
        assert (caught.value.path, caught.value.class_name) == ("1", "Linear")


def test_class_without_source_is_refused(tmp_path: Path) -> None:
    class Local(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ConversionError, match="in a function"):
        source_of(Local(), tmp_path)


@pytest.mark.parametrize("text", ['"""\nraise SystemExit(9)\n"""', "\\", "a'b", '"', "\udc80", "ä 😀"])
def test_names_from_a_file_are_no_code(text: str, tmp_path: Path) -> None:
    record = fields.LuaRecord("nn.Linear", fields={"name": text})
    named, place = graph(), ConcatTable(nn.Identity())
    named.get_submodule("0").__dict__["lua_record"] = record
    place[0].note = text
    source = source_of(nn.Sequential(named, place), tmp_path, metadata={"source": text, "key": text})
    assert executed(source).build()[1][0].note == text
