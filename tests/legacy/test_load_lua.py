"""What ``load_lua`` returns: objects shaped as those of PyTorch 0.4, whose tensors the converted module uses."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, manifest

import dpnn_bridge
from dpnn_bridge.errors import T7Error, UnsupportedClassError
from dpnn_bridge.legacy import T7Reader, TorchObject, load_lua, nn
from dpnn_bridge.loaders import write_all
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

SAMPLES = FIXTURES / "samples"
LENET = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"


def table(**fields: Any) -> LuaTable:
    return LuaTable(list(fields.items()))


def tensor(*shape: int) -> LuaTensor:
    return LuaTensor.from_numpy(np.arange(np.prod(shape), dtype=np.float64).reshape(shape))


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def load(value: Any, **options: Any) -> Any:
        dpnn_bridge.write_t7(tmp_path / "value.t7", value)
        return load_lua(tmp_path / "value.t7", **options)

    return load


def test_a_net_as_scripts_use_it() -> None:
    net = load_lua(str(LENET))
    assert isinstance(net, nn.Sequential)
    assert type(net.get(0)).__name__ == "SpatialConvolution"
    convolutions, containers = net.findModules(nn.SpatialConvolution)
    assert containers == [net] * len(convolutions)
    assert convolutions[0].weight.dim() == 4
    assert not convolutions[0].weight.requires_grad
    assert (convolutions[0].kW, convolutions[0].kH) == tuple(convolutions[0].weight.shape[:1:-1])
    weights, gradients = net.parameters()
    assert [w.shape for w in weights] == [g.shape for g in gradients]
    assert weights[0] is convolutions[0].weight
    assert net.size() == len(net) == len(net.modules)
    assert net.listModules()[0] is net


def test_it_computes_what_the_converted_module_computes() -> None:
    net, model = load_lua(LENET), dpnn_bridge.load(LENET).eval()
    net.evaluate()
    image = torch.randn(2, 1, 32, 32, dtype=net.get(0).weight.dtype)
    output = net.forward(image)
    assert not output.requires_grad
    torch.testing.assert_close(output, model(image).detach(), rtol=0, atol=0)
    assert torch.equal(net.get(0).output, model[0](image).detach())
    assert net.get(net.size() - 1).output.data_ptr() == output.data_ptr()


@pytest.mark.parametrize("name", ["BinaryLogisticRegression", "SpatialBinaryLogisticRegression", "ModuleFromCriterion"])
def test_criterions_by_another_name_and_a_module_by_theirs(name: str) -> None:
    (entry, *_) = (e for s in ("nn", "dpnn") for e in manifest(**{"class": f"nn.{name}"}, set=s, dtype="double"))
    fixture = load_lua(FIXTURES / entry["file"])
    obj, other = fixture["module"], "gradOutput" if name.startswith("Module") else "target"
    given = [fixture["input"]] if name.startswith("Module") else [fixture["input"], fixture["target"]]
    assert isinstance(obj, nn.Criterion) is (other == "target")
    torch.testing.assert_close(obj.forward(*given), fixture["output"])
    torch.testing.assert_close(obj.backward(fixture["input"], fixture[other]), fixture["gradInput"])


def test_weights_are_those_that_compute() -> None:
    net = nn.Sequential().add(nn.Linear(3, 2)).add(nn.Tanh()).add(nn.Linear(2, 1))
    x = torch.randn(4, 3)
    before = net.forward(x)
    weights = net.parameters()[0]
    weights[0].zero_()
    weights[1].fill_(0.5)
    after = net.forward(x)
    assert not torch.equal(before, after)
    expected = torch.tanh(torch.full((4, 2), 0.5)) @ net.get(2).weight.t() + net.get(2).bias
    torch.testing.assert_close(after, expected)
    net.get(2).weight = torch.ones(1, 2)
    torch.testing.assert_close(net.forward(x), 2 * torch.tanh(torch.full((4, 1), 0.5)) + net.get(2).bias)


def test_surgery() -> None:
    net = load_lua(LENET)
    image = torch.randn(1, 1, 32, 32, dtype=net.get(0).weight.dtype)
    full = net.forward(image)
    last = net.modules[-1]
    net.remove()
    features = net.forward(image)
    assert torch.equal(last.forward(features), full)
    net.insert(nn.MulConstant(2), net.size())
    assert torch.equal(net.forward(image), features * 2)
    net.modules[-1] = nn.MulConstant(3)
    assert torch.equal(net.forward(image), features * 3)
    net.modules[-1].constant_scalar = 4
    assert torch.equal(net.forward(image), features * 4)
    net.replace(lambda m: nn.Identity() if isinstance(m, nn.MulConstant) else m)
    assert torch.equal(net.forward(image), features)


def test_values(written: Any) -> None:
    weights = tensor(2, 3)
    found = written(table(a=LuaTable.from_list([weights, weights]), n=2.0, h=0.5, s="text", b=True, f=table(x=1)))
    assert found["a"][0] is found["a"][1]
    assert found.n == 2
    assert type(found.n) is int
    assert (found.h, found.s, found.b, found.f.x, found.nothing) == (0.5, "text", True, 1, None)
    assert {found: 1}[found] == 1
    assert found.a[0].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("JoinTable", {"dimension": 2}, {"dimension": 1}),
        ("SplitTable", {"dimension": -1}, {"dimension": -1}),
        ("Select", {"dimension": 1, "index": 3}, {"dimension": 0, "index": 2}),
        ("Threshold", {"threshold": 0, "val": 1e-6}, {"threshold": 0, "value": 1e-6, "val": 1e-6}),
        ("Unsqueeze", {"pos": 1}, {"dim": 0, "pos": 0}),
        ("HardShrink", {"lambda": 0.5}, {"lambd": 0.5}),
        ("SpatialAdaptiveMaxPooling", {"H": 2, "W": 3}, {"h": 2, "w": 3}),
        ("LookupTable", {"paddingValue": 0, "weight": tensor(3, 2)}, {"paddingValue": -1, "maxNorm": None}),
        ("Linear", {"weight": tensor(2, 2)}, {"bias": None, "gradWeight": None}),
        ("Sum", {"dimension": 1}, {"dimension": 0}),
    ],
)
def test_fields_as_pytorch_had_them(written: Any, name: str, fields: Any, expected: Any) -> None:
    found = written(LuaObject(f"nn.{name}", table(**fields)))
    assert type(found) is nn.CLASSES[name]
    assert {key: getattr(found, key) for key in expected} == expected


def test_sizes_and_permutations(written: Any) -> None:
    swaps = LuaTable.from_list([LuaTable.from_list([1, 2]), LuaTable.from_list([2, 3])])
    assert written(LuaObject("nn.Transpose", table(permutations=swaps))).permutations == [[0, 1], [1, 2]]
    view = dpnn_bridge.read_t7(LENET)["modules"]
    size = next(m for m in view.as_list() if m.class_name in ("nn.View", "nn.Reshape"))
    assert isinstance(written(size).size, torch.Size)


def test_unknown_classes(written: Any, tmp_path: Path) -> None:
    inner = LuaObject("my.Layer", table(weight=tensor(2, 2), kW=3))
    net = LuaObject("nn.Sequential", table(modules=LuaTable.from_list([inner, LuaObject("nn.Tanh", table())])))
    value = table(model=net, extra=LuaObject("my.Thing", table(x=1)))
    with pytest.raises(UnsupportedClassError) as mine:
        written(value)
    with pytest.raises(UnsupportedClassError) as theirs:
        dpnn_bridge.load(tmp_path / "value.t7", key="model")
    assert {c.class_name for c in mine.value.classes} == {"my.Layer", "my.Thing"}
    assert {c.class_name for c in theirs.value.classes} == {"my.Layer"}
    found = written(value, unknown_classes=True)
    layer = found.model.get(0)
    assert type(layer).__name__ == "TorchObject"
    assert isinstance(layer, TorchObject)
    assert (layer._typename, layer.torch_typename(), layer.kW, layer["kW"], layer.padW) == (
        *["my.Layer"] * 2,
        3,
        3,
        None,
    )
    assert torch.equal(layer._obj["weight"], layer.weight)
    assert type(found.model.get(1)) is nn.Tanh


def test_classes_that_pytorch_had_not(written: Any) -> None:
    fields = {"nInputPlane": 2, "nOutputPlane": 3, "kW": 1, "kH": 1, "dW": 1, "dH": 1, "padW": 0, "padH": 0}
    values = table(**fields, groups=1, weight=tensor(3, 2, 1, 1), bias=tensor(3))
    convolution = LuaObject("cudnn.SpatialConvolution", values)
    found = written(convolution)
    assert isinstance(found, nn.SpatialConvolution)
    assert type(found).__name__ == "SpatialConvolution"
    assert repr(found).startswith("cudnn.SpatialConvolution(2 -> 3")
    image = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    as_object = written(convolution, unknown_classes=True)
    assert isinstance(as_object, TorchObject)
    assert as_object._obj.groups == 1
    assert torch.equal(as_object.forward(image), found.forward(image))


def test_methods_that_pytorch_had_not() -> None:
    with pytest.raises(AttributeError, match=r"had no method getParameters.*use flattenParameters\(\)"):
        nn.Linear(2, 2).getParameters()
    assert not hasattr(nn.Linear(2, 2), "groups")


def test_damaged_files_and_options(tmp_path: Path) -> None:
    (tmp_path / "bad.t7").write_bytes(b"\x09\0\0\0")
    with pytest.raises(T7Error):
        load_lua(tmp_path / "bad.t7")
    assert isinstance(load_lua(LENET, False, 8), nn.Sequential)
    assert isinstance(load_lua(LENET, force_8bytes_long=True), nn.Sequential)
    with pytest.raises(T7Error):
        load_lua(LENET, long_size=4)
    with open(LENET, "rb") as file:
        reader = T7Reader(file, unknown_classes=True)
        assert isinstance(reader.read(), nn.Sequential)
        with pytest.raises(EOFError):
            reader.read()


def test_an_object_after_one_of_an_unknown_class_is_read(tmp_path: Path) -> None:
    write_all(tmp_path / "two.t7", [LuaObject("nn.Unheard", LuaTable({"gradInput": LuaTensor.empty()})), "second"])
    with open(tmp_path / "two.t7", "rb") as file:
        reader = T7Reader(file)
        with pytest.raises(UnsupportedClassError):
            reader.read()
        assert reader.read() == "second"


def test_modules_of_torch_nn_under_a_deprecated_option() -> None:
    with pytest.warns(DeprecationWarning, match=r"use dpnn_bridge\.load") as caught:
        assert isinstance(load_lua(LENET, torch_nn=True), torch.nn.Sequential)
    assert caught[0].filename == __file__


def test_a_table_of_modules() -> None:
    checkpoint = load_lua(SAMPLES / "char-rnn__lstm" / "model.t7")
    assert type(checkpoint.protos.rnn).__name__ == "gModule"
    assert isinstance(checkpoint.protos.criterion, nn.ClassNLLCriterion)
    assert checkpoint.protos.rnn.parameters()[0]
    assert isinstance(checkpoint.train_losses, list | dict)


def test_copies() -> None:
    net = load_lua(LENET)
    image = torch.randn(1, 1, 32, 32, dtype=net.get(0).weight.dtype)
    expected = net.forward(image)
    net.add(load_lua(SAMPLES / "rnn__simple-bisequencer-network" / "model.t7")).remove()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.clone()):
        other.get(0).weight.mul_(1)
        assert torch.equal(other.forward(image), expected)
        other.get(0).weight.zero_()
        assert torch.equal(net.forward(image), expected)
    shared = net.clone("weight", "bias")
    net.get(0).weight.zero_()
    assert torch.equal(shared.get(0).weight, net.get(0).weight)


def test_types() -> None:
    net = nn.Sequential().add(nn.Linear(2, 2))
    net.add(net.get(0).clone("weight", "bias"))
    net.double()
    assert net.type() == net.get(0)._type == "torch.DoubleTensor"
    assert net.get(0).weight.dtype == torch.float64
    net.get(0).weight.fill_(3)
    assert torch.equal(net.get(1).weight, net.get(0).weight)
    assert net.forward(torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64
    assert net.float() is net
    assert net.get(1).bias.dtype == torch.float32


def test_an_old_normalization_has_a_running_variance(tmp_path: Path) -> None:
    """As PyTorch 0.4 and Torch7 read version 1, which kept an inverse deviation."""
    path = FIXTURES / "nn/nn.BatchNormalization/BatchNormalization__legacy_running_std__double_train.t7"
    old, module = read_t7(path)["module"], load_lua(path).module
    expected = old["running_std"].torch().pow(-2) - old["eps"]
    torch.testing.assert_close(module.running_var, expected)
    assert not hasattr(module, "running_std")
    dpnn_bridge.write_t7(tmp_path / "again.t7", module)
    assert read_t7(tmp_path / "again.t7").version == 2


@pytest.mark.parametrize("unknown_classes", [False, True])
def test_a_graph_of_any_length_is_loaded(unknown_classes: bool, tmp_path: Path) -> None:
    """Each node of an nngraph model contains the next one, so recursion ended at two hundred nodes."""
    node = LuaObject("nngraph.Node", table(data=table(id=0)))
    for i in range(1, 3000):
        node = LuaObject("nngraph.Node", table(data=table(id=i), children=LuaTable.from_list([node])))
    dpnn_bridge.write_t7(tmp_path / "deep.t7", node)
    loaded = load_lua(tmp_path / "deep.t7", unknown_classes=unknown_classes)
    for i in reversed(range(1, 3000)):
        assert loaded.data.id == i
        loaded = loaded.children[0]


def test_an_unknown_class_in_each_level_is_named_once(tmp_path: Path) -> None:
    module = LuaObject("my.Module", table(modules=LuaTable(), train=True, gradInput=1))
    for _ in range(300):
        module = LuaObject("my.Module", table(modules=LuaTable.from_list([module]), train=True, gradInput=1))
    dpnn_bridge.write_t7(tmp_path / "deep.t7", module)
    with pytest.raises(UnsupportedClassError) as caught:
        load_lua(tmp_path / "deep.t7")
    assert sum(len(c.paths) for c in caught.value.classes) <= 301


def test_fields_of_any_depth_are_cast() -> None:
    layer = nn.Tanh()
    chain: list[Any] = [torch.ones(2)]
    for _ in range(2000):
        chain = [chain]
    layer.chain = chain
    layer.double()
    for _ in range(2000):
        chain = chain[0]
    assert chain[0].dtype == torch.float64


def test_a_module_in_a_graph_is_replaced() -> None:
    """As nngraph's gModule:replace does; the nodes kept the old module."""
    fixture = load_lua(FIXTURES / "nn" / "nn.gModule" / "gModule__chain__double_train.t7")
    net = fixture["module"]
    before = net.forward(fixture["input"]).clone()
    kept = net.modules
    net.replace(lambda m: nn.Identity() if isinstance(m, nn.Tanh) else m)
    assert any(isinstance(m, nn.Identity) for m in kept)
    assert not torch.equal(net.forward(fixture["input"]), before)
