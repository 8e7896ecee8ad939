"""Networks with unregistered tensors, empty tensors, scalars, repeated elements, and weights changed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.porting import PortReport, judge


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A network of a function; tensors are its parameters, modules its layers."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part.clone()) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def normed(norm: nn.Module) -> nn.Module:
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


ROWS, IMAGES = randn(5, 4), randn(2, 3, 6, 6)


# -- tensors that are not registered -----------------------------------------------------------------------------------
OUTSIDE = {
    "norm": normed(nn.BatchNorm1d(3)).double().eval(),
    "norm of images": normed(nn.BatchNorm2d(3)).double().eval(),
    "convolution": nn.Conv2d(3, 3, 3).double(),
    "transposed convolution": nn.ConvTranspose2d(3, 3, 3).double(),
    "linear": nn.Linear(4, 3).double(),
}


@pytest.mark.parametrize(
    ("source", "run", "x"),
    [
        (nn.Sequential(linear(), normed(nn.BatchNorm1d(3))), lambda m, x: OUTSIDE["norm"](m.layer(x)), ROWS),
        (nn.Sequential(linear()), lambda m, x: OUTSIDE["linear"](x), ROWS),
        (normed(nn.BatchNorm2d(3)), lambda m, x: OUTSIDE["norm of images"](x), IMAGES),
        (nn.Conv2d(3, 3, 3), lambda m, x: OUTSIDE["convolution"](x), IMAGES),
        (nn.ConvTranspose2d(3, 3, 3), lambda m, x: OUTSIDE["transposed convolution"](x), IMAGES),
    ],
    ids=["norm", "linear", "norm of images", "convolution", "transposed convolution"],
)
def test_a_layer_outside_of_the_module_is_named(source: nn.Module, run: Any, x: Tensor) -> None:
    report = dpnn_bridge.port(source, Net(run, layer=linear()), x)
    assert report.first is not None
    assert "neither a parameter nor a buffer" in report.first.reason
    assert "register_buffer" in report.first.reason
    assert report.first.line


def test_a_norm_after_an_unregistered_convolution_is_named() -> None:
    source = nn.Sequential(nn.Conv2d(3, 3, 3), normed(nn.BatchNorm2d(3)))
    run = lambda m, x: OUTSIDE["norm of images"](OUTSIDE["convolution"](x))  # noqa: E731
    report = dpnn_bridge.port(source, Net(run), IMAGES)
    assert report.first is not None
    assert "neither a parameter nor a buffer" in report.first.reason


@pytest.mark.parametrize("training", [False, True])
def test_a_functional_norm_without_weights_is_named(training: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.layer(x)
        return F.batch_norm(x, x.new_zeros(3), x.new_ones(3), training=training)

    report = dpnn_bridge.port(nn.Sequential(linear(), normed(nn.BatchNorm1d(3))), Net(run, layer=linear()), ROWS)
    assert report.first is not None
    assert "batch norm (running statistics) in the source" in report.first.reason


def test_the_same_statistics_may_be_unregistered() -> None:
    norm = normed(nn.BatchNorm1d(3, affine=False))
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr, operator]
    run = lambda m, x: F.batch_norm(m.layer(x), mean, variance)  # noqa: E731
    assert dpnn_bridge.port(nn.Sequential(linear(), norm), Net(run, layer=linear()), ROWS).equal


# -- initial states ----------------------------------------------------------------------------------------------------
STATES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "expand": lambda h, n: h.expand(1, n, 6),
    "expand, contiguous": lambda h, n: h.expand(1, n, 6).contiguous(),
    "expand, clone": lambda h, n: h.expand(1, n, 6).clone(),
    "repeat": lambda h, n: h.repeat(1, n, 1),
}


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("state", STATES)
def test_learned_initial_states_keep_their_values(layer: type[nn.RNNBase], state: str) -> None:
    source, x = layer(5, 6), randn(4, 3, 5)

    def run(m: Any, x: Tensor) -> Tensor:
        h = STATES[state](m.h0, x.shape[1])
        return m.rnn(x, (h, h) if layer is nn.LSTM else h)[0]

    def port(h0: Tensor, *allowed: str) -> PortReport:
        net = Net(run, rnn=layer(5, 6), h0=h0)
        report = dpnn_bridge.port(source, net, x, source=lambda m, x: m(x)[0], allow_unset=allowed)
        assert torch.equal(net.h0, h0)  # type: ignore[arg-type]
        return report

    assert port(torch.zeros(1, 1, 6), "h0").equal
    unset = port(torch.zeros(1, 1, 6))
    assert unset.unset == ["h0"]
    assert "name it in allow_unset" in str(unset.first)
    assert not port(randn(1, 1, 6), "h0").equal


# -- repeated elements -------------------------------------------------------------------------------------------------
def constant(bias: float, *, repeated: bool = True) -> nn.Linear:
    layer = linear()
    if repeated:
        nn.init.constant_(layer.bias, bias)
    return layer


REPEATED: dict[str, Callable[[Tensor], Tensor]] = {
    "expand": lambda b: b.expand(3),
    "expand, contiguous": lambda b: b.expand(3).contiguous(),
    "repeat": lambda b: b.repeat(3),
    "product": lambda b: b.expand(3) * 2,
}


@pytest.mark.parametrize("form", REPEATED)
def test_a_bias_may_repeat_one_number(form: str) -> None:
    def net() -> Net:
        run = lambda m, x: F.linear(x, m.weight, REPEATED[form](m.bias))  # noqa: E731
        return Net(run, weight=torch.zeros(3, 4), bias=torch.zeros(1))

    filled = net()
    assert dpnn_bridge.port(constant(0.25), filled, ROWS).equal
    torch.testing.assert_close(filled(ROWS), constant(0.25)(ROWS))
    report = dpnn_bridge.port(linear(), net(), ROWS)
    assert report.first is not None
    assert "cannot invert" in report.first.reason


def test_a_parameter_or_buffer_may_be_expanded() -> None:
    def net() -> nn.Linear:
        layer = linear()
        layer.bias = nn.Parameter(torch.zeros(1).expand(3))
        layer.register_buffer("mask", torch.ones(1).expand(3))
        return layer

    filled = net()
    assert dpnn_bridge.port(constant(0.25), filled, ROWS).equal
    assert filled.bias.tolist() == [0.25] * 3
    assert "cannot invert" in str(dpnn_bridge.port(linear(), net(), ROWS))


def test_repeated_rows_have_their_own_shape() -> None:
    source = Net(lambda m, x: x + m.weight, weight=randn(1, 4).expand(5, 4))
    net = Net(lambda m, x: x + m.weight.repeat(5, 1), weight=torch.zeros(4))
    assert dpnn_bridge.port(source, net, ROWS).equal
    torch.testing.assert_close(net(ROWS), source(ROWS))


# -- weights that are computed -----------------------------------------------------------------------------------------
def in_place(m: Any, x: Tensor) -> Tensor:
    return F.linear(x, torch.zeros(3, 4).copy_(m.layer.weight), m.layer.bias)


COMPUTED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "copied into zeros": (in_place, "in place"),
    "changed in place": (lambda m, x: F.linear(x, m.layer.weight.clone().mul_(2), m.layer.bias), "in place"),
    "divided constant": (lambda m, x: F.linear(x, torch.ones(()) / m.layer.weight, m.layer.bias), "cannot invert"),
    "with a constant row": (
        lambda m, x: F.linear(x, torch.cat([torch.zeros(1, 4), m.layer.weight[1:]]), m.layer.bias),
        "constant that has other values",
    ),
    "ones times the weight": (lambda m, x: F.linear(x, torch.ones(3, 4) * m.layer.weight, m.layer.bias), ""),
    "weight over a buffer": (lambda m, x: F.linear(x, m.layer.weight / m.layer.scale.sum(), m.layer.bias), ""),
    "with an empty part": (
        lambda m, x: F.linear(x, torch.cat([torch.zeros(0), m.layer.weight], 1), m.layer.bias),
        "",
    ),
    "real numbers of an index": (
        lambda m, x: F.linear(x, m.layer.weight * (torch.arange(3)[:, None] + 0.1), m.layer.bias),
        "",
    ),
    "a number": (lambda m, x: F.linear(x, m.layer.weight, m.layer.bias) + torch.full((3,), 0.0), ""),
}


@pytest.mark.parametrize("form", COMPUTED)
def test_a_computed_weight_is_set_or_named(form: str) -> None:
    run, reason = COMPUTED[form]
    layer = nn.Linear(4, 3)
    layer.register_buffer("scale", torch.rand(7) + 1)
    net = Net(run, layer=layer)
    report = dpnn_bridge.port(linear(), net, ROWS)
    assert report.equal == (not reason)
    assert reason in str(report.first)
    if report.equal:
        torch.testing.assert_close(net(ROWS), linear()(ROWS))


@pytest.mark.parametrize("part", [0, 1])
def test_each_part_of_a_parameter_is_judged(part: int) -> None:
    """A part that is not the first was compared by the values of the first part."""
    source = Net(lambda m, x: torch.tanh(m.a(x)) * m.b(x), a=linear(), b=nn.Linear(4, 3))

    def run(m: Any, x: Tensor) -> Tensor:
        weights, biases = m.weight.chunk(2), m.bias.chunk(2)
        return torch.tanh(F.linear(x, weights[0], biases[0])) * F.linear(x, weights[1], biases[1])

    net = Net(run, weight=torch.zeros(6, 4), bias=torch.zeros(6))
    assert dpnn_bridge.port(source, net, ROWS).equal
    assert judge(source, net, ROWS).equal
    with torch.no_grad():
        net.weight[3 * part] += 1  # type: ignore[index, operator]
    report = judge(source, net, ROWS)
    assert not report.equal
    assert "weight differs" in str(report.first)


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_a_weight_that_is_changed_in_place_is_judged(change: float) -> None:
    double = lambda m, x: F.linear(x, m.layer.weight.clone().mul_(1), m.layer.bias)  # noqa: E731
    report = judge(linear(), Net(double, layer=constant(change)), ROWS)
    assert "in place" in str(report.first)


# -- empty tensors, scalars and other sizes ----------------------------------------------------------------------------
EMPTY: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "no samples": lambda m, x: torch.cat([x, m.other(x[:0])]),
    "no outputs": lambda m, x: torch.cat([x, m.no_outputs(x)], 1),
    "no inputs": lambda m, x: x + m.no_inputs(x[:, :0]).mean() * 0,
    "no elements of a norm": lambda m, x: torch.cat([x, F.layer_norm(x[:0], (3,), m.other.bias)]),
    "an empty part": lambda m, x: torch.cat(list(x.split([0, 3], 1)), 1),
}


@pytest.mark.parametrize("form", EMPTY)
def test_empty_tensors_are_no_layers(form: str) -> None:
    run = lambda m, x: EMPTY[form](m, m.layer(x))  # noqa: E731
    with pytest.warns(UserWarning, match="zero-element"):
        parts = {"other": nn.Linear(3, 3), "no_outputs": nn.Linear(3, 0), "no_inputs": nn.Linear(0, 3)}
    net = Net(run, layer=nn.Linear(4, 3), **parts)
    allowed = [name for name, _ in net.named_parameters() if not name.startswith("layer")]
    report = dpnn_bridge.port(linear(), net, ROWS, allow_unset=allowed)
    assert report.equal, report
    assert not dpnn_bridge.port(linear(), net, ROWS).equal


def test_a_scalar_may_be_multiplied() -> None:
    source = Net(lambda m, x: m.layer(x).mean() * m.scale, layer=linear(), scale=torch.tensor(0.7))
    net = Net(lambda m, x: m.layer(x).mean() * m.scale, layer=nn.Linear(4, 3), scale=torch.zeros(()))
    assert dpnn_bridge.port(source, net, ROWS).equal


def test_an_output_may_be_a_scalar() -> None:
    source = Net(lambda m, x: m.layer(x).sum(), layer=linear())
    assert dpnn_bridge.port(source, Net(lambda m, x: m.layer(x).sum(), layer=nn.Linear(4, 3)), ROWS[:1]).equal


@pytest.mark.parametrize(("here", "there"), [((4, 1, 3), (1, 3)), ((4, 3, 1), (3, 1)), ((4, 1, 3), (4, 1, 3))])
def test_added_weights_may_differ_for_each_step(here: tuple[int, ...], there: tuple[int, ...]) -> None:
    x = randn(4, 3, 3)
    source = Net(lambda m, x: x * m.a + m.b, a=randn(*there), b=randn(3, seed=1))
    net = Net(lambda m, x: x * m.a + m.b, a=torch.ones(here), b=torch.zeros(3))
    report = dpnn_bridge.port(source, net, x)
    assert report.equal == (here == there)


@pytest.mark.parametrize("shift", [0, 5])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_rows_may_be_counted_from_the_end(shift: int, kind: torch.dtype) -> None:
    example = lambda seed: torch.randint(0, 5, (6,), generator=torch.Generator().manual_seed(seed))  # noqa: E731
    torch.manual_seed(0)
    net = Net(lambda m, x: m.weight[(x - shift).to(kind)], weight=torch.zeros(5, 2))
    assert dpnn_bridge.port(nn.Embedding(5, 2), net, example).equal


def test_a_batch_norm_of_pixels_is_folded_into_a_linear_layer() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.layer(x).view(-1, 3, 2, 2)
        return m.conv(m.norm(x) if hasattr(m, "norm") else x)

    source = Net(run, layer=nn.Linear(4, 12), conv=nn.Conv2d(3, 2, 2), norm=normed(nn.BatchNorm2d(3)))
    net = Net(run, layer=nn.Linear(4, 12), conv=nn.Conv2d(3, 2, 2))
    assert dpnn_bridge.port(source, net, ROWS).equal
    torch.testing.assert_close(net(ROWS), source.eval()(ROWS))


def test_a_part_of_a_scale_has_its_own_channels() -> None:
    source = Net(lambda m, x: x * m.scale, scale=randn(1, 4, 1, 1))
    net = Net(
        lambda m, x: torch.cat([a * s for a, s in zip(x.chunk(2, 1), (m.a, m.b), strict=True)], 1),
        a=torch.zeros(1, 2, 1, 1),
        b=torch.zeros(1, 2, 1, 1),
    )
    assert dpnn_bridge.port(source, net, randn(2, 4, 3, 3)).equal


def test_rows_may_be_a_view_of_one_part() -> None:
    source = Net(lambda m, x: m.layer(x.flatten(1)), layer=nn.Linear(12, 2))
    net = Net(lambda m, x: m.layer(x.transpose(1, 2).split(9, 1)[0].flatten(1)), layer=nn.Linear(12, 2))
    assert dpnn_bridge.port(source, net, randn(5, 3, 4)).equal


# -- examples ----------------------------------------------------------------------------------------------------------
def failing(seed: int) -> Tensor:
    raise KeyError(seed)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (failing, "the function fails for seed 0 or 1: KeyError: 0"),
        (ROWS.to_sparse(), "expected dense tensors .*, got one of float32, torch.sparse_coo, on cpu"),
        (ROWS.to("meta"), "got one of float32, torch.strided, on meta"),
        (ROWS.to(torch.complex64), "got one of complex64"),
        (ROWS.to(torch.uint16), "got one of uint16"),
    ],
    ids=["function", "sparse", "meta", "complex", "uint16"],
)
def test_an_example_that_cannot_be_run_is_named(example: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=f"^example: .*{reason}"):
        dpnn_bridge.port(linear(), linear(), example)


def test_a_sparse_tensor_is_named() -> None:
    sparse = Net(lambda m, x: m.layer(x).to_sparse(), layer=linear())
    assert "use dense tensors" in str(dpnn_bridge.port(linear(), sparse, ROWS))


def test_an_output_without_values_is_named() -> None:
    without = Net(lambda m, x: m.layer(x).to("meta"), layer=linear())
    report = dpnn_bridge.port(linear(), without, ROWS)
    assert not report.equal
    assert "_to_copy here takes the output of the source, which has no further operation" in str(report)
    with pytest.raises(ConversionError, match="meta device have no values"):
        dpnn_bridge.port(without, linear(), ROWS)


def test_new_norms_with_different_eps_are_not_confused() -> None:
    def net() -> Net:
        torch.manual_seed(0)
        norms = {f"b{i}": nn.BatchNorm2d(3, eps=eps) for i, eps in enumerate((1e-5, 1e-3, 1e-3))}
        layers = {f"c{i}": nn.Conv2d(3, 3, 3) for i in range(3)}
        return Net(lambda m, x: m.b2(m.c2(m.b1(m.c1(m.b0(m.c0(x)))))), **layers, **norms)

    source, target = net().eval(), net().eval()
    for layer in (target.c0, target.c1, target.c2):
        nn.init.zeros_(layer.weight)
    images = randn(2, 3, 9, 9)
    assert dpnn_bridge.port(source, target, images).equal
    target.b1.eps = 1e-4
    report = dpnn_bridge.port(source, target, images)
    assert not report.equal
    assert report.first is not None
    assert (report.first.layer, report.first.reason) == (
        "b1",
        "batch norm (running statistics): eps 0.0001 here, 0.001 in the source",
    )
