"""Converted models work with PyTorch's own tools like any other model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import cyclegan, resnet20
from samples import SAMPLES
from test_sharing import linear, sequential, storage, view  # pyright: ignore[reportMissingImports]
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

import dpnn_bridge
from dpnn_bridge import to_torch
from dpnn_bridge.conversion import registry, to_lua
from dpnn_bridge.conversion.lua_class import torch_types
from dpnn_bridge.objects import LuaObject

INPUTS = {
    "torch-demos__mnist_convnet": torch.randn(2, 1, 32, 32),
    "DeepDeblur_release__ResNet_scale": torch.randn(1, 3, 16, 16),
    "dp__convolutionneuralnetwork_Serial": torch.randn(2, 3, 32, 32),
    "tied_autoencoder": torch.randn(2, 4),
}
nets = pytest.mark.parametrize("name", INPUTS)


def net(name: str) -> nn.Module:
    if name == "tied_autoencoder":
        s = storage(12)
        return to_torch(sequential(linear(view(s, (3, 4), (4, 1))), linear(view(s, (4, 3), (1, 4))))).float()
    return dpnn_bridge.load(SAMPLES / name / "model.t7").eval()


@nets
def test_compile_without_graph_breaks(name: str) -> None:
    model, x = net(name), INPUTS[name]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@nets
def test_autocast(name: str) -> None:
    model, x = net(name), INPUTS[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    output.float().sum().backward()
    expected = model(x)
    assert (output.float() - expected).abs().max() < 0.1 * expected.abs().max()


@nets
def test_trace(name: str) -> None:
    model, x = net(name), INPUTS[name]
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))  # type: ignore[operator]


@nets
def test_functional_call_and_per_sample_gradients(name: str) -> None:
    model, x = net(name), INPUTS[name]
    parameters = dict(model.named_parameters())

    def loss(parameters: Mapping[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(parameters), (sample[None],)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    model(x).square().sum().backward()
    for key, p in parameters.items():
        torch.testing.assert_close(grads[key].sum(0), p.grad, rtol=1e-3, atol=1e-3 * float(p.grad.abs().max()))  # type: ignore[union-attr]


@nets
def test_clipping_and_vectors(name: str) -> None:
    model, x = net(name), INPUTS[name]
    model(x).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    assert nn.utils.clip_grad_norm_(model.parameters(), float("inf")) <= 0.501
    vector = nn.utils.parameters_to_vector(model.parameters())
    expected = model(x)
    nn.utils.vector_to_parameters(vector.clone(), model.parameters())
    torch.testing.assert_close(model(x), expected)


@nets
def test_hooks_see_every_layer(name: str) -> None:
    model, x = net(name), INPUTS[name]
    seen: set[int] = set()
    for module in model.modules():
        module.register_forward_hook(lambda m, args, output: seen.add(id(m)))
    model(x)
    assert seen == {id(m) for m in model.modules()}


@nets
def test_averaged_model(name: str) -> None:
    model, x = net(name), INPUTS[name]
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    torch.testing.assert_close(average(x), model(x))


def test_parametrize() -> None:
    model = net("torch-demos__mnist_convnet")
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    nn.utils.parametrizations.spectral_norm(layer)
    assert model(INPUTS["torch-demos__mnist_convnet"]).shape == (2, 10)
    parametrize.remove_parametrizations(layer, "weight")
    assert torch.linalg.matrix_norm(layer.weight, 2) < 1.5


def test_batch_normalization_is_folded_into_the_convolution() -> None:
    model = to_torch(to_lua(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))).eval()
    x = torch.randn(2, 3, 8, 8)
    model[1].running_mean.normal_()  # type: ignore[index]
    fused = fuse_conv_bn_eval(model[0], model[1])  # type: ignore[index]
    torch.testing.assert_close(fused(x), model(x))


# ---------------------------------------------------------------------- tools that look for the types of stock layers
def lenet() -> nn.Module:
    return net("torch-demos__mnist_convnet")


three = pytest.mark.parametrize(
    ("build", "shape", "fused"),
    [
        (lenet, (2, 1, 32, 32), []),  # Tanh is never fused
        (resnet20, (2, 3, 32, 32), [["0", "1", "2"], ["3.0.0.0", "3.0.0.1", "3.0.0.2"]]),
        (cyclegan, (1, 3, 32, 32), [["1", "2", "3"], ["4", "5", "6"]]),
    ],
)


@three
def test_layers_that_fuse_are_stock(build: Any, shape: Any, fused: Any) -> None:
    stock = {nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d}
    types = {type(m) for m in build().modules()}
    assert len(types & stock) >= 4
    assert not [t for t in types - stock if issubclass(t, tuple(stock))]


@three
def test_fx_and_jit_trace(build: Any, shape: Any, fused: Any) -> None:
    model, x = build(), torch.randn(shape)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))  # type: ignore[operator]


@three
def test_fusion_finds_batch_normalization(build: Any, shape: Any, fused: Any) -> None:
    from torch.fx.experimental.optimization import fuse

    model, x = build(), torch.randn(shape)
    together = fuse(model)
    torch.testing.assert_close(together(x), model(x), rtol=1e-4, atol=1e-5)
    before = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in together.modules()) < before or not before
    for names in fused:
        eager = torch.ao.quantization.fuse_modules(copy.deepcopy(model), [names])
        torch.testing.assert_close(eager(x), model(x), rtol=1e-4, atol=1e-5)


@three
def test_static_and_weight_only_quantization(build: Any, shape: Any, fused: Any) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    model, x = build(), torch.randn(shape)
    expected = model(x)
    prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping(), (x,))
    prepared(x)
    quantized = convert_fx(prepared)
    assert (quantized(x) - expected).abs().max() < 0.25 * expected.abs().max()
    assert any("quantized" in type(m).__module__ for m in quantized.modules())
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
    weights = copy.deepcopy(model)
    quantization.quantize_(weights, quantization.Int8WeightOnlyConfig())
    assert (weights(x) - expected).abs().max() < 0.05 * expected.abs().max()


def test_single_samples_are_torch7s_although_the_layer_is_stock() -> None:
    model = to_torch(to_lua(nn.Sequential(nn.BatchNorm2d(3))))
    layer: Any = model[0]  # type: ignore[index]
    assert type(model[0]) is nn.BatchNorm2d  # type: ignore[index]
    layer.running_mean.fill_(2)
    x = torch.randn(1, 3, 5, 5)
    expected = (x - 2) / (1 + layer.eps) ** 0.5
    torch.testing.assert_close(model(x), expected)  # in training: with the running statistics, which stay
    assert layer.running_mean.eq(2).all()
    assert layer.training
    torch.testing.assert_close(model.eval()(x[0]), expected)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x[0]), expected)


def test_dynamic_quantization() -> None:
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    expected = model(x)
    assert (quantized(x) - expected).abs().max() < 0.1 * expected.abs().max()


# ---------------------------------------------------------------------- one switch for all index modules
def indexed() -> list[LuaObject]:
    """The first fixture of each class whose module, or a part of it, counts from ``index_base``."""
    from conftest import FIXTURES, manifest

    found = {}
    for entry in manifest(kind="module"):
        if entry["class"] not in found:
            obj = dpnn_bridge.read_t7(FIXTURES / entry["file"])["module"]
            if any(hasattr(m, "index_base") for m in to_torch(obj).modules()):
                found[entry["class"]] = obj
    return list(found.values())


def test_index_base_reaches_every_module() -> None:
    objects = indexed()
    assert len(objects) > 10
    for obj in objects:
        for base in (0, 1):
            bases = {m.index_base for m in to_torch(obj, index_base=base).modules() if hasattr(m, "index_base")}
            # index 0 of a LookupTableMaskZero is the mask, whatever the base
            assert bases == {0 if "MaskZero" in obj.class_name else base}, obj.class_name


def test_every_class_that_counts_takes_the_switch_from_the_caller() -> None:
    import inspect

    for name, mappings in registry.known_names().items():
        for mapping in mappings:
            for kind in torch_types(mapping):
                parameter = inspect.signature(kind.__init__).parameters.get("index_base")
                assert parameter is None or parameter.default == 1, name


@nets
def test_pickle_and_deepcopy(name: str) -> None:
    model, x = net(name), INPUTS[name]
    expected = model(x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected, rtol=0, atol=0)


# ---------------------------------------------------------------------- what else PyTorch's users do with a model
def test_export_and_onnx(tmp_path: Path) -> None:
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    torch.onnx.export(model, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(x), rtol=1e-4, atol=1e-5)


@nets
def test_script(name: str, tmp_path: Path) -> None:
    """Whole models are traced; single layers without tables can be scripted."""
    model, x = net(name).eval(), INPUTS[name]
    traced = torch.jit.freeze(torch.jit.trace(model, x))
    traced.save(tmp_path / "m.ts")
    torch.testing.assert_close(torch.jit.load(tmp_path / "m.ts")(x), model(x), rtol=1e-4, atol=1e-5)
    for module in model.modules():
        if type(module) in (nn.Conv2d, nn.Linear, nn.ReLU, nn.Tanh, nn.MaxPool2d, nn.BatchNorm2d):
            torch.jit.script(module)


@nets
def test_pruning(name: str) -> None:
    from torch.nn.utils import prune

    model, x = net(name), INPUTS[name]
    layer: Any = next(m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    prune.l1_unstructured(layer, "weight", amount=0.5)
    assert torch.isfinite(model(x)).all()
    prune.remove(layer, "weight")
    assert (layer.weight == 0).float().mean() > 0.45
    again = to_torch(to_lua(model)).eval()
    torch.testing.assert_close(again(x), model(x))


@nets
def test_surgery_on_the_state_dict(name: str, tmp_path: Path) -> None:
    model, x = net(name), INPUTS[name]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other = net(name)
    nn.init.zeros_(next(other.parameters()))
    assert other.load_state_dict(state).missing_keys == []
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    last = next(reversed(state))
    del state[last]
    assert last in model.load_state_dict(state, strict=False).missing_keys
    torch.save(model.state_dict(), tmp_path / "s.pt")
    assert torch.load(tmp_path / "s.pt", weights_only=True).keys() == model.state_dict().keys()


def test_features_of_inner_layers() -> None:
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    assert isinstance(model, nn.Sequential)
    seen: list[Any] = []
    model[2].register_forward_hook(lambda m, args, output: seen.append(output))
    model(x)
    torch.testing.assert_close(model[:3](x), seen[0])
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="needs torchvision")
    torch.testing.assert_close(extraction.create_feature_extractor(model, ["2"])(x)["2"], seen[0])


def test_freezing_and_a_new_head() -> None:
    model, x = net("torch-demos__mnist_convnet").requires_grad_(False), INPUTS["torch-demos__mnist_convnet"]
    assert isinstance(model, nn.Sequential)
    model[9] = nn.Linear(200, 3)
    model(x).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["9.weight", "9.bias"]


@nets
def test_gradient_checkpointing(name: str) -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = net(name), INPUTS[name].clone().requires_grad_()
    (direct,) = torch.autograd.grad(model(x).square().sum(), x)
    (saved,) = torch.autograd.grad(checkpoint(model, x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(saved, direct)


@nets
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(name: str, dtype: torch.dtype) -> None:
    model, x = net(name), INPUTS[name]
    expected = model(x)
    output = model.to(dtype)(x.to(dtype))
    assert output.dtype == dtype
    assert (output.float() - expected).abs().max() < 0.1 * expected.abs().max()


@nets
def test_jacobians_and_hessians(name: str) -> None:
    model, x = net(name), INPUTS[name][:1]
    jacobian = torch.func.jacrev(lambda v: model(v).flatten()[:3])(x)
    assert jacobian.shape == (3, *x.shape)
    (vector,) = torch.autograd.grad(model(x.requires_grad_()).flatten()[1], x)
    torch.testing.assert_close(jacobian[1], vector, rtol=1e-3, atol=1e-5)


@nets
def test_data_parallel_and_meta_device(name: str) -> None:
    model, x = net(name), INPUTS[name]
    torch.testing.assert_close(nn.DataParallel(model)(x), model(x))
    assert all(p.is_meta for p in copy.deepcopy(model).to("meta").parameters())


@nets
def test_low_rank_adapters(name: str) -> None:
    """LoRA as a parametrization, which is what peft does to stock layers."""

    class LowRank(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(2, weight[0].numel()) * 0.01)
            self.b = nn.Parameter(torch.zeros(len(weight), 2))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + (self.b @ self.a).view_as(weight)

    model, x = net(name).requires_grad_(False), INPUTS[name]
    expected = model(x)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in [m for m in layers if "weight" in m._parameters]:  # views of one storage have their tie there
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))  # type: ignore[arg-type]
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_low_rank_adapters_of_peft() -> None:
    peft = pytest.importorskip("peft", reason="needs peft")
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    expected = model(x)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["7", "9"]))
    torch.testing.assert_close(adapted(x), expected)
    assert 0 < sum(p.numel() for p in adapted.parameters() if p.requires_grad) < 5000


def test_summary_table() -> None:
    torchinfo = pytest.importorskip("torchinfo", reason="needs torchinfo")
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    found = torchinfo.summary(model, input_data=x, verbose=0)
    assert found.total_params == sum(p.numel() for p in model.parameters())


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(model, x)
        for name, p in model.named_parameters():
            writer.add_histogram(name, p)
    assert next(tmp_path.iterdir()).stat().st_size > 1000


def test_profiler() -> None:
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_modules=True) as profile:
        model(x)
    assert any("conv" in event.key for event in profile.key_averages())


def test_hub(tmp_path: Path) -> None:
    """``torch.hub`` of a repository whose ``hubconf.py`` loads a .t7."""
    path = str(SAMPLES / "torch-demos__mnist_convnet" / "model.t7")
    code = f"import dpnn_bridge\n\ndef lenet():\n    return dpnn_bridge.load({path!r})\n"
    (tmp_path / "hubconf.py").write_text(code)
    model: Any = torch.hub.load(str(tmp_path), "lenet", source="local")
    assert isinstance(model[0], nn.Conv2d)


def test_safetensors_and_the_hub_of_hugging_face(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch", reason="needs the extra safetensors")
    model, x = net("torch-demos__mnist_convnet"), INPUTS["torch-demos__mnist_convnet"]
    library.save_model(model, tmp_path / "m.safetensors")
    other = net("torch-demos__mnist_convnet")
    nn.init.zeros_(next(other.parameters()))
    assert library.load_model(other, tmp_path / "m.safetensors") == (set(), [])
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")

    class Lenet(nn.Module, hub.PyTorchModelHubMixin):
        def __init__(self) -> None:
            super().__init__()
            self.net = net("torch-demos__mnist_convnet")

    Lenet().save_pretrained(tmp_path / "hub")
    torch.testing.assert_close(Lenet.from_pretrained(tmp_path / "hub").net(x), model(x), rtol=0, atol=0)


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs the extra recipes")
    model, x = net("torch-demos__mnist_convnet").train(), INPUTS["torch-demos__mnist_convnet"]
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.01))
    before = model(x).detach()
    accelerator.backward(model(x).square().sum())
    optimizer.step()
    assert not torch.equal(model(x), before)
