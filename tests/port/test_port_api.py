"""The public function: what it fills, what it refuses, what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.errors import ConversionError, OptionError

LENET = Path(__file__).parents[2] / "fixtures/samples/torch-demos__mnist_convnet/model.t7"


class Net(nn.Module):
    """The LeNet of Torch7's demo, as a user writes it."""

    def __init__(self, pool: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.fc1, self.fc2 = nn.Linear(576, 200), nn.Linear(200, 10)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 3, 3, 1)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), self.pool)
        return F.log_softmax(self.fc2(torch.tanh(self.fc1(x.flatten(1)))), 1)


def images(seed: int) -> Tensor:
    return torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def state(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@dataclass(frozen=True)
class Scores:
    """An output of :class:`ScoresNet`."""

    logits: Tensor
    hidden: Tensor | None = None


class ScoresNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> list[Scores]:
        return [Scores(self.layer(x))]


def test_outputs_may_be_in_a_dataclass() -> None:
    torch.manual_seed(0)
    model, net = nn.Sequential(nn.Linear(3, 2)), ScoresNet()
    assert dpnn_bridge.port(model, net, torch.randn(4, 3)).equal
    assert torch.equal(net.layer.weight, model[0].weight)


def test_an_input_may_be_a_dataclass() -> None:
    torch.manual_seed(0)
    model, net = nn.Sequential(nn.Linear(3, 2)), nn.Linear(3, 2)
    seen = []

    def target(net: nn.Module, example: Scores) -> Tensor:
        seen.append(example.logits)
        return net(example.logits)

    report = dpnn_bridge.port(model, net, Scores(torch.randn(4, 3)), source=lambda m, x: m(x.logits), target=target)
    assert report.equal
    assert {x.dtype for x in seen} == {torch.float64}
    assert len({x.sum().item() for x in seen}) > 1  # the second input is shuffled, with noise


@pytest.mark.parametrize("example", [images, images(0), (images(0),)], ids=["function", "tensor", "tuple"])
def test_an_equal_module_is_filled(example: Any) -> None:
    net = Net()
    report = dpnn_bridge.port(LENET, net, example)
    assert report.equal, report
    assert report.first is None
    assert report.difference < 1e-12
    assert {m.parameter for m in report.matches} == set(net.state_dict())
    assert next(m.source for m in report.matches if m.parameter == "fc1.weight") == "modules[8]"
    model = dpnn_bridge.load(LENET)
    assert torch.allclose(net(images(2)), model(images(2).to(next(model.parameters()))).float(), atol=1e-5)


def test_a_module_that_differs_is_left_as_it_was() -> None:
    net = Net().train()
    net.fc2 = nn.Linear(200, 10, bias=False)
    before = state(net)
    report = dpnn_bridge.port(LENET, net, images)
    assert not report.equal
    assert report.first is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    report.apply()
    assert not torch.equal(before["conv1.weight"], net.conv1.weight)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(OptionError, match="argument module: expected a"):
        dpnn_bridge.port(LENET, Net, images)  # type: ignore[arg-type]


def test_random_forward_is_refused() -> None:
    class Dropping(Net):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x))

    with pytest.raises(ConversionError, match=r"test_port_api\.py:\d+.*training=self\.training"):
        dpnn_bridge.port(LENET, Dropping(), images)


def test_an_argument_that_makes_no_difference_for_this_size_is_a_note() -> None:
    class Ceiling(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(torch.tanh(self.conv1(x)), 3, 3, 1)
            x = F.max_pool2d(torch.tanh(self.conv2(x)), 2, ceil_mode=True)
            return F.log_softmax(self.fc2(torch.tanh(self.fc1(x.flatten(1)))), 1)

    report = dpnn_bridge.port(LENET, Ceiling(), images)
    assert report.equal, report
    assert any("ceil_mode True here, False in the source" in note for note in report.notes)


@pytest.mark.parametrize("example", [torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)])
def test_an_example_that_proves_nothing_is_refused(example: Tensor) -> None:
    with pytest.raises(OptionError, match="proves nothing"):
        dpnn_bridge.port(LENET, Net(), example)


def test_a_parameter_that_nothing_goes_into_is_named() -> None:
    net = Net()
    net.spare = nn.Parameter(torch.zeros(3))
    report = dpnn_bridge.port(LENET, net, images)
    assert not report.equal
    assert report.unset == ["spare"]
    assert dpnn_bridge.port(LENET, net, images, allow_unset=["spare"]).equal
    net.other = net.spare  # one parameter with two names
    assert dpnn_bridge.port(LENET, net, images, allow_unset=["other"]).equal
    for name, hint in (("spar", r"did you mean spare\?"), ("b", r"see named_parameters\(\)")):
        with pytest.raises(OptionError, match=f"allow_unset: the module has no parameter '{name}'; {hint}"):
            dpnn_bridge.port(net, net, images, allow_unset=[name])


def relu_net(activation: nn.Module) -> nn.Sequential:
    convolutions = nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 4, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 5))


def small_images(seed: int) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("other", [nn.ReLU6(), nn.Hardtanh(0, 20), nn.Threshold(-100.0, 0.0)])
def test_a_clip_that_the_example_does_not_reach_is_found(other: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dpnn_bridge.save(tmp_path / "model.t7", relu_net(nn.ReLU()))
    assert dpnn_bridge.port(tmp_path / "model.t7", relu_net(nn.ReLU()), small_images).equal
    report = dpnn_bridge.port(tmp_path / "model.t7", relu_net(other), small_images)
    assert not report.equal
    assert report.first is not None


def test_a_module_that_is_not_deterministic_is_refused(tmp_path: Path) -> None:
    class Drifting(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.net = relu_net(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            Drifting.calls += 1
            return self.net(x) + 1e-3 * Drifting.calls

    dpnn_bridge.save(tmp_path / "model.t7", relu_net(nn.ReLU()))
    with pytest.raises(ConversionError, match="the module is not deterministic"):
        dpnn_bridge.port(tmp_path / "model.t7", Drifting(), small_images)


def test_random_numbers_that_a_network_draws_are_not_missing_afterwards() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    model = relu_net(nn.ReLU())
    before = torch.get_rng_state()
    with pytest.raises(ConversionError, match="draws random numbers"):
        dpnn_bridge.port(model, nn.Sequential(Noisy()), small_images)
    assert torch.equal(before, torch.get_rng_state())


def test_layers_in_a_plain_list_are_refused() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = [nn.Conv2d(3, 8, 3)]

        def forward(self, x: Tensor) -> Tensor:
            return self.convs[0](x)

    with pytest.raises(ConversionError, match=r"layers in convs, a list.*ModuleList"):
        dpnn_bridge.port(relu_net(nn.ReLU()), nn.Sequential(Listed())[0], small_images)


def test_a_forward_that_fails_is_named_with_its_error() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = relu_net(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).view(3)

    report = dpnn_bridge.port(relu_net(nn.ReLU()), Failing(), small_images)
    assert report.first is not None
    assert report.first.reason.startswith("the module's forward fails: RuntimeError")


def test_a_notebook_shows_the_verdict_and_the_parameters() -> None:
    html = dpnn_bridge.port(LENET, Net(), images)._repr_html_()
    assert "equal: largest relative difference" in html
    assert "<td" in html


def test_the_line_is_in_the_package_beside_pytorch_that_has_the_network() -> None:
    text = """
class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return F.avg_pool2d(self.layer(x), 2)
"""
    given: dict[str, Any] = {"nn": nn, "F": F}
    exec(compile(text, f"{Path(torch.__file__).parent}vision/models.py", "exec"), given)
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    report = dpnn_bridge.port(source, given["Pooled"](), small_images)
    assert report.first is not None
    assert report.first.line.endswith("torchvision/models.py:8")


@pytest.mark.parametrize("constant", [False, True])
def test_a_single_score_is_compared_on_two_inputs(constant: bool) -> None:
    def net() -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), *([nn.Softmax(1)] if constant else []))

    report = dpnn_bridge.port(net(), net(), torch.randn(1, 5))
    assert report.equal is not constant, report
    if report.first is not None:
        assert "every element of the output is equal" in report.first.reason


class Added(nn.Module):
    """A linear layer as one addition and product."""

    def __init__(self, *shape: int, **scales: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scales = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.zeros(shape)), scales

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight, **self.scales)


def test_a_bias_without_dimensions_fits_a_layer_without_bias() -> None:
    net = Added()
    assert dpnn_bridge.port(nn.Linear(5, 3, bias=False), net, torch.randn(4, 5)).equal
    assert net.bias == 0
    report = dpnn_bridge.port(nn.Linear(5, 3), net, torch.randn(4, 5))
    assert report.first is not None
    assert "its bias is 1, the source's is 3" in report.first.reason


def test_a_factor_of_a_product_is_named() -> None:
    report = dpnn_bridge.port(nn.Linear(5, 3), Added(3, alpha=2.0), torch.randn(4, 5))
    assert report.first is not None
    assert report.first.reason == "linear: alpha 2 here, None in the source"


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_cannot_be_compared_is_refused() -> None:
    x = torch.randn(4, 5)
    with pytest.raises(OptionError, match="the module contains a ScriptModule"):
        dpnn_bridge.port(nn.Linear(5, 3), nn.Sequential(torch.jit.script(nn.Linear(5, 3))), x)
    with pytest.raises(OptionError, match="it contains NaN"):
        dpnn_bridge.port(nn.Linear(5, 3), nn.Linear(5, 3), torch.where(x > 0, x, torch.nan))


def test_modules_of_pytorch_have_no_line_of_code() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh())
    report = dpnn_bridge.port(model, nn.Sequential(nn.Linear(5, 3), nn.Sigmoid()), torch.randn(4, 5))
    assert report.first is not None
    assert (report.first.layer, report.first.line) == ("1", "")
    assert {step.line for steps in report.sides for step in steps} == {""}


def test_a_function_of_a_seed_returns_two_different_inputs_of_numbers() -> None:
    x = torch.randn(4, 5)
    for example, reason in (
        (lambda seed: x, "the same input for seeds 0 and 1"),
        (lambda seed: torch.full((4, 5), torch.nan), "it contains NaN"),
        (lambda seed: seed, "expected a tensor"),
    ):
        with pytest.raises(OptionError, match=reason):
            dpnn_bridge.port(nn.Linear(5, 3), nn.Linear(5, 3), example)


def test_outputs_that_are_no_numbers_are_not_called_random() -> None:
    class Root(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).sqrt()

    report = dpnn_bridge.port(Root(5, 3), Root(5, 3), torch.randn(4, 5))
    assert not report.equal


def test_weights_of_a_layer_in_lua_are_named_as_not_ported() -> None:
    pytest.importorskip("lupa")
    from dpnn_bridge.lua import LuaBridge

    bridge = LuaBridge.from_files([Path(__file__).parents[2] / "examples" / "scaled_power.lua"])

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x.sign() * x**2

    layer = bridge.module("nn.ScaledPower", 3, 2)
    layer.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    report = dpnn_bridge.port(nn.Sequential(layer), Scaled(), torch.randn(4, 3))
    assert not report.equal
    assert "the weights of modules[1] (nn.ScaledPower) are not ported, because this layer runs in Lua" in str(report)
