"""Networks that compute the same and hold their weights in another layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from corpus import difference, indices, randn
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.modules.rnn import SeqLSTM


class Net(nn.Module):
    """Layers with names, and a forward that takes them."""

    def __init__(self, compute: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *x: Tensor) -> Tensor:
        return self.compute(self, *x)


def filled(net: nn.Module, seed: int) -> nn.Module:
    """The network with random weights and statistics, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, max(tensor[0].numel(), 2) ** -0.5, generator=generator)
    return net.double().eval()


def prove(source: nn.Module, target: nn.Module, example: Any, **options: Any) -> Any:
    """Port, and compare on an input that the engine has not seen."""
    target = filled(target, 1)
    report = dpnn_bridge.port(source, target, example, **options)
    assert report.equal, report.first
    x = example(5)
    with torch.no_grad():
        assert difference(target(*x) if isinstance(x, tuple) else target(x), source(x)) < 1e-12
    return report


def lstm(step: Callable[[Tensor, Tensor], Tensor], x: Tensor, *shape: int) -> Tensor:
    """An LSTM over the first dimension whose gates, in one map, are i, f, o, g."""
    h, c, out = randn(*shape, seed=9), randn(*shape, seed=10), []
    for value in x:
        i, f, o, g = step(value, h).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out)


def joined(m: Any, value: Tensor, h: Tensor) -> Tensor:
    return m.gates(torch.cat([value, h], 1))


def test_gates_of_joined_inputs_to_an_lstm() -> None:
    source = Net(
        lambda m, x: lstm(lambda v, h: joined(m, v, h), m.words(x), 3, 6),
        words=nn.Embedding(11, 7),
        gates=nn.Linear(13, 24),
    )

    def run(m: Any, x: Tensor) -> Tensor:
        return m.rnn(m.words(x), (randn(1, 3, 6, seed=9), randn(1, 3, 6, seed=10)))[0]

    target = Net(run, words=nn.Embedding(11, 7), rnn=nn.LSTM(7, 6))
    report = prove(filled(source, 0), target, lambda seed: indices(11, 5, 3, seed=seed))
    (form,) = (match.form for match in report.matches if match.parameter == "rnn.weight_hh_l0")
    assert form == "gates in the order (1, 2, 4, 3), columns 8 to 13"


def test_two_convolutions_to_one_over_joined_channels_and_back() -> None:
    shape, example = (2, 4, 6, 6), lambda seed: randn(3, 2, 3, 6, 6, seed=seed)

    def two() -> Net:
        layers = {"x": nn.Conv2d(3, 16, 3, padding=1), "h": nn.Conv2d(4, 16, 3, padding=1, bias=False)}
        return Net(lambda m, x: lstm(lambda v, h: m.x(v) + m.h(h), x, *shape), **layers)

    def one() -> Net:
        return Net(lambda m, x: lstm(lambda v, h: joined(m, v, h), x, *shape), gates=nn.Conv2d(7, 16, 3, padding=1))

    prove(filled(two(), 0), one(), example)
    prove(filled(one(), 0), two(), example)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) / 8**0.5, -1), v)


def test_attention_to_multihead_attention() -> None:
    layers = {name: nn.Linear(8, 8) for name in "qkvo"}
    source = Net(lambda m, x: m.o(attend(m.q(x), m.k(x), m.v(x))), **layers)
    target = Net(lambda m, x: m.a(x, x, x)[0], a=nn.MultiheadAttention(8, 1, batch_first=True))
    prove(filled(source, 0), target, lambda seed: randn(2, 5, 8, seed=seed))


@pytest.mark.parametrize("words", [11, 14])
def test_words_with_other_indices(words: int) -> None:
    source = Net(lambda m, x: m.e(x + 1).mean(1), e=nn.Embedding(15, 6))
    target = Net(lambda m, x: m.e(x).mean(1), e=nn.Embedding(words, 6))
    report = prove(filled(source, 0), target, lambda seed: indices(11, 4, 7, seed=seed))
    assert f"e: {words} of the source's 15 rows; index i here is i+1 there (e)" in report.notes


def test_networks_begin_a_sequence() -> None:
    torch.manual_seed(0)
    source, net = SeqLSTM(3, 4), Net(lambda self, x: self.rnn(x)[0], rnn=nn.LSTM(3, 4))  # type: ignore[operator]
    source.remember("both")
    source.eval()(torch.randn(5, 2, 3))  # its state is in the file of a model in use
    report = dpnn_bridge.port(source, net, torch.randn(5, 2, 3))
    assert report.equal, report


def test_words_that_the_source_does_not_have_are_unset() -> None:
    source = filled(Net(lambda m, x: m.e(x).mean(1), e=nn.Embedding(11, 6)), 0)
    target = Net(lambda m, x: m.e(x + 1).mean(1), e=nn.Embedding(12, 6, padding_idx=0))
    example = lambda seed: indices(11, 4, 7, seed=seed)  # noqa: E731
    report = dpnn_bridge.port(source, target, example)
    assert report.unset == ["e.weight"]
    assert report.first is not None
    assert "a part of the parameter e.weight" in report.first.reason
    prove(source, target, example, allow_unset=["e.weight"])


def test_joined_channels_in_another_order_some_of_them_dead() -> None:
    def net(turned: bool) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            parts = F.relu(m.a(x)), F.relu(m.b(x))
            return m.d(m.n(torch.cat(parts[::-1] if turned else parts, 1)))

        layers = {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(3, 8, 1)}
        return Net(run, **layers, n=nn.BatchNorm2d(16), d=nn.ConvTranspose2d(16, 5, 3))

    source = filled(net(False), 0)
    source.a.bias.data[2:4] = source.b.bias.data[5] = -50  # type: ignore[union-attr, index]
    prove(source, net(True), lambda seed: randn(2, 3, 8, 8, seed=seed))


def test_images_with_height_and_width_exchanged() -> None:
    def net(turned: bool) -> Net:
        sizes = (slice(None, None, -1),) if turned else (slice(None),)
        kernel, padding, window = ((3, 5)[s] for s in sizes), ((1, 2)[s] for s in sizes), ((2, 1)[s] for s in sizes)

        def run(m: Any, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(m.n(m.a(x.transpose(2, 3) if turned else x))), 2)
            return m.l(F.max_pool2d(F.relu(m.b(x)), pool).flatten(1))

        pool = next(window)
        layers = {"a": nn.Conv2d(3, 4, next(kernel), padding=next(padding)), "n": nn.BatchNorm2d(4)}
        return Net(run, **layers, b=nn.Conv2d(4, 5, 3), l=nn.Linear(80, 6))

    prove(filled(net(False), 0), net(True), lambda seed: randn(2, 3, 12, 20, seed=seed))


@pytest.mark.parametrize("form", ["image", "linear"])
def test_convolution_over_words(form: str) -> None:
    def scores(m: Any, values: Tensor) -> Tensor:
        return m.l(torch.relu(values).max(2)[0])

    def image(m: Any, x: Tensor) -> Tensor:
        return scores(m, m.c(m.e(x).unsqueeze(1)).squeeze(3))

    def linear(m: Any, x: Tensor) -> Tensor:
        return scores(m, m.c(m.e(x).unfold(1, 3, 1).flatten(2)).transpose(1, 2))

    def net(run: Callable[..., Tensor], layer: nn.Module) -> Net:
        return Net(run, e=nn.Embedding(30, 6), c=layer, l=nn.Linear(8, 3))

    source = net(lambda m, x: scores(m, m.c(m.e(x).transpose(1, 2))), nn.Conv1d(6, 8, 3))
    target = net(image, nn.Conv2d(1, 8, (3, 6))) if form == "image" else net(linear, nn.Linear(18, 8))
    prove(filled(source, 0), target, lambda seed: indices(30, 4, 9, seed=seed))


def towers() -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b = F.relu(m.an(m.a1(x))), F.relu(m.bn(m.b1(x)))
        return m.l(torch.cat([F.relu(m.a2(a)), F.relu(m.b2(b))], 1).flatten(1))

    layers: dict[str, nn.Module] = {name: nn.Conv2d(3, 4, 3) for name in ("a1", "b1")}
    layers |= {name: nn.Conv2d(4, 3, 3) for name in ("a2", "b2")}
    return Net(run, **layers, an=nn.BatchNorm2d(4), bn=nn.BatchNorm2d(4), l=nn.Linear(96, 5))


def grouped() -> Net:
    layers = {"c1": nn.Conv2d(3, 8, 3), "n": nn.BatchNorm2d(8), "c2": nn.Conv2d(8, 6, 3, groups=2)}
    return Net(lambda m, x: m.l(F.relu(m.c2(F.relu(m.n(m.c1(x))))).flatten(1)), **layers, l=nn.Linear(96, 5))


@pytest.mark.parametrize(("source", "target"), [(towers, grouped), (grouped, towers)])
def test_towers_and_groups(source: Callable[[], Net], target: Callable[[], Net]) -> None:
    prove(filled(source(), 0), target(), lambda seed: randn(2, 3, 8, 8, seed=seed))


def test_sum_of_towers_to_a_convolution_over_both() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.a2(F.relu(m.a1(x))) + m.b2(F.relu(m.b1(x)))

    layers: dict[str, nn.Module] = {name: nn.Conv2d(3, 4, 3) for name in ("a1", "b1")}
    source = Net(run, **layers, a2=nn.Conv2d(4, 3, 3), b2=nn.Conv2d(4, 3, 3))
    target = Net(lambda m, x: m.c2(F.relu(m.c1(x))), c1=nn.Conv2d(3, 8, 3), c2=nn.Conv2d(8, 3, 3))
    prove(filled(source, 0), target, lambda seed: randn(2, 3, 8, 8, seed=seed))


def test_a_layer_that_is_too_narrow_is_named() -> None:
    def net(width: int) -> Net:
        layers = {"a": nn.Conv2d(3, width, 3), "b": nn.Conv2d(width, width, 3), "l": nn.Linear(width, 5)}
        return Net(lambda m, x: m.l(F.relu(m.b(F.relu(m.a(x)))).mean((2, 3))), **layers)

    report = dpnn_bridge.port(filled(net(16), 0), net(8), lambda seed: randn(2, 3, 8, 8, seed=seed))
    assert report.first is not None
    assert report.first.layer == "a"
    assert "weight of 8x3x3x3 here, of 16x3x3x3 in the source" in report.first.reason


class Scores(nn.Module):
    """A linear layer with something behind it."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.after = nn.Linear(6, 5), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.linear(x))


def test_what_comes_behind_the_source_is_named() -> None:
    source, target = Scores(lambda x: x), Scores(lambda x: F.log_softmax(x, 1))
    report = dpnn_bridge.port(filled(source, 0), target, lambda seed: randn(3, 6, seed=seed))
    assert report.first is not None
    assert (
        "log_softmax(dim=1) here takes the output of the source, which has no further operation" in report.first.reason
    )


def test_a_module_that_computes_in_single_precision_is_equal_to_single_precision() -> None:
    source, target = Scores(lambda x: x), Scores(lambda x: x.float().double())
    report = dpnn_bridge.port(filled(source, 0), target, lambda seed: randn(3, 6, seed=seed))
    assert report.equal
    assert 1e-10 < report.difference < 1e-6
    assert any("the module computes this in float32 (" in note for note in report.notes)


def test_the_note_names_the_lowest_precision() -> None:
    source, target = Scores(lambda x: x), Scores(lambda x: x.float().bfloat16().double())
    report = dpnn_bridge.port(filled(source, 0), target, lambda seed: randn(3, 6, seed=seed))
    assert report.equal
    assert any("equal to the precision of bfloat16: the module computes this in bfloat16 (" in n for n in report.notes)


def test_a_result_that_is_overwritten_through_out() -> None:
    def overwritten(x: Tensor) -> Tensor:
        return torch.tanh(x, out=x)

    prove(filled(Scores(overwritten), 0), Scores(torch.tanh), lambda seed: randn(3, 6, seed=seed))


def test_a_norm_on_the_other_side_of_an_activation_is_named() -> None:
    def net(first: bool) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            return m.b(F.relu(m.n(m.a(x))) if first else m.n(F.relu(m.a(x))))

        return Net(run, a=nn.Conv2d(3, 4, 3), n=nn.BatchNorm2d(4), b=nn.Conv2d(4, 2, 3))

    report = dpnn_bridge.port(filled(net(False), 0), net(True), lambda seed: randn(2, 3, 8, 8, seed=seed))
    assert report.first is not None
    assert report.first.layer == "n"
    assert "takes the result of convolution here, the result of relu in the source" in report.first.reason


def test_outputs_that_are_viewed_the_other_way() -> None:
    """nn.Maxout of Torch7 has the pieces in front of the units; most implementations have them behind."""

    def net(forward: Callable[[Net, Tensor], Tensor]) -> Net:
        return Net(forward, first=nn.Linear(8, 18), second=nn.Linear(6, 10), last=nn.Linear(5, 3))

    def there(m: Any, x: Tensor) -> Tensor:
        return m.last(m.second(m.first(x).view(-1, 3, 6).amax(1)).view(-1, 2, 5).amax(1))

    def here(m: Any, x: Tensor) -> Tensor:
        return m.last(m.second(m.first(x).view(-1, 6, 3).amax(-1)).view(-1, 5, 2).amax(-1))

    prove(filled(net(there), 0), net(here), lambda seed: randn(4, 8, seed=seed))


class Grouped(nn.Module):
    """Two towers as grouped convolutions and one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.norm, self.third = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3, groups=2)
        self.linear, self.activation = nn.Linear(8, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.activation(self.norm(self.second(F.relu(self.first(x))))), 2)
        return self.linear(F.relu(self.third(x)).mean((2, 3)))


class Towers(nn.Module):
    """The same with a module for each tower."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.linear, self.activation = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.ReLU()
        self.towers = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)]) for _ in range(2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for i, (half, tower) in enumerate(zip(F.relu(self.first(x)).chunk(2, 1), self.towers, strict=True)):
            convolution, norm, last = tower.children()
            half = norm(convolution(half))
            half = self.activation(half) if i else F.relu(half)
            outputs.append(F.relu(last(F.max_pool2d(half, 2))))
        return self.linear(torch.cat(outputs, 1).mean((2, 3)))


@pytest.mark.parametrize(("source", "target"), [(Grouped, Towers), (Towers, Grouped)])
@pytest.mark.parametrize(("activation", "reason"), [(nn.Tanh(), "goes into relu"), (nn.Identity(), "relu is missing")])
def test_a_tower_with_another_activation_is_explained(
    source: type[nn.Module], target: type[nn.Module], activation: nn.Module, reason: str
) -> None:
    net = target()
    net.activation = activation
    report = dpnn_bridge.port(filled(source(), 0), net, lambda seed: randn(2, 3, 10, 10, seed=seed))
    assert report.first is not None
    assert reason in report.first.reason


def _by_division(v: Tensor, g: Tensor, norm: Tensor) -> Tensor:
    return v / norm * g


def _by_factor(v: Tensor, g: Tensor, norm: Tensor) -> Tensor:
    return v * (g / norm)


@pytest.mark.parametrize("form", [_by_division, _by_factor])
def test_weight_norm_in_steps(form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.last(F.linear(x, form(m.v, m.g, m.v.norm(dim=1, keepdim=True)), m.b))

    target = Net(run, last=nn.Linear(4, 3))
    target.v, target.g, target.b = (nn.Parameter(torch.zeros(s)) for s in ((4, 6), (4, 1), (4,)))  # type: ignore[assignment]
    source = Net(lambda m, x: m.last(m.first(x)), first=nn.Linear(6, 4), last=nn.Linear(4, 3))
    prove(filled(source, 0), target, lambda seed: randn(5, 6, seed=seed))


def test_weight_norm_over_another_dimension() -> None:
    def net(layer: nn.Module) -> Net:
        return Net(lambda m, x: m.last(F.relu(m.first(x))), first=layer, last=nn.Conv2d(5, 2, 3))

    normed = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(3, 5, 4, 2), dim=1)
    source = filled(net(nn.ConvTranspose2d(3, 5, 4, 2)), 0)
    prove(source, net(normed), lambda seed: randn(2, 3, 5, 5, seed=seed))


def test_columns_of_a_layer_whose_input_goes_into_another_one_too() -> None:
    """Attention of OpenNMT: the query is an input of the first layer, and joined with the context for the last."""

    def attended(m: Any, x: Tensor) -> Tensor:
        c, q = x[:, 1:], x[:, 0]
        return (torch.softmax((c * m.a(q)[:, None]).sum(-1), 1)[..., None] * c).sum(1)

    first = nn.Linear(8, 8, bias=False)
    source = Net(
        lambda m, x: torch.tanh(m.o(torch.cat((attended(m, x), x[:, 0]), 1))), a=first, o=nn.Linear(16, 8, bias=False)
    )
    layers = {"a": nn.Linear(8, 8, bias=False), "w": nn.Linear(8, 8, bias=False), "u": nn.Linear(8, 8, bias=False)}
    target = Net(lambda m, x: torch.tanh(m.w(attended(m, x)) + m.u(x[:, 0])), **layers)
    prove(filled(source, 0), target, lambda seed: randn(2, 6, 8, seed=seed))


def test_a_convolution_over_a_line_of_an_image_has_no_note() -> None:
    def net(layer: nn.Module, after: Callable[[Tensor], Tensor]) -> Net:
        return Net(lambda m, x: m.l(after(m.c(x)).mean(2)), c=layer, l=nn.Linear(4, 2))

    source = filled(net(nn.Conv2d(3, 4, (1, 2), dilation=(1, 4)), lambda y: y.squeeze(2)), 0)
    target = filled(net(nn.Conv1d(3, 4, 2, dilation=4), lambda y: y), 1)
    line = lambda m, x: m(x.unsqueeze(2))  # noqa: E731
    report = dpnn_bridge.port(source, target, lambda seed: randn(2, 3, 12, seed=seed), source=line)
    assert report.equal, report.first
    assert not report.notes


@pytest.mark.parametrize("sizes", [(3, 4), (4, 4)])
def test_a_cell_may_concatenate_its_state_and_its_input_in_another_order(sizes: tuple[int, int]) -> None:
    """The order was read from the numbers, and the state of the first step is zero."""

    def net(state_first: bool) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[1], sizes[1])
            for step in x:
                h = torch.tanh(m.layer(torch.cat((h, step) if state_first else (step, h), 1)))
            return m.last(h)

        return Net(run, layer=nn.Linear(sum(sizes), sizes[1]), last=nn.Linear(sizes[1], 2))

    for first in (True, False):
        source, target = filled(net(first), 0).float(), net(not first)
        report = dpnn_bridge.port(source, target, torch.randn(5, 2, sizes[0]))
        assert report.equal, report
        x = torch.randn(7, 3, sizes[0])
        torch.testing.assert_close(target(x), source(x))


def test_concatenated_channels_of_which_some_are_dead() -> None:
    def net(turned: bool) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            parts = F.relu(m.a(x)), F.relu(m.b(x))
            return m.c(torch.cat(parts[::-1] if turned else parts, 1))

        return Net(run, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 5, 3), c=nn.Conv2d(9, 2, 1))

    source, target = filled(net(False), 0), net(True)
    with torch.no_grad():
        source.a.bias[1:3] -= 50  # type: ignore[index, union-attr]
        source.b.bias[2:4] -= 50  # type: ignore[index, union-attr]
    report = dpnn_bridge.port(source, target, torch.randn(2, 3, 6, 6))
    assert report.equal, report
    assert torch.equal(target.c.weight[:, :5], source.c.weight[:, 4:])  # type: ignore[index, union-attr]


@pytest.mark.parametrize("bias", [True, False])
def test_an_input_map_that_runs_for_all_steps_at_once(bias: bool) -> None:
    """The bias that moved to it was added in the first step only."""

    def net(at_once: bool, own_bias: bool) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            h, mapped = x.new_zeros(x.shape[1], 4), m.x(x) if at_once else None
            for t in range(len(x)):
                h = torch.tanh((m.x(x[t]) if mapped is None else mapped[t]) + m.h(h))
            return h

        return Net(run, x=nn.Linear(3, 4), h=nn.Linear(4, 4, bias=own_bias))

    source, target = filled(net(False, True), 0).float(), net(True, bias)
    assert dpnn_bridge.port(source, target, torch.randn(5, 2, 3)).equal
    x = torch.randn(6, 3, 3)
    torch.testing.assert_close(target(x), source(x))


class OfParameters(nn.Module):
    """Two maps with parameters, and one bias that is added to their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.b = (nn.Parameter(torch.randn(*shape)) for shape in ((3, 4), (3, 4), (4,)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x[0] @ self.w + x[1] @ self.u + self.b)


def test_a_bias_that_is_added_to_a_sum_of_maps() -> None:
    torch.manual_seed(0)
    layers = Net(lambda m, x: torch.tanh(m.w(x[0]) + m.u(x[1])), w=nn.Linear(3, 4), u=nn.Linear(3, 4, bias=False))
    source = OfParameters()
    assert dpnn_bridge.port(source, layers, torch.randn(2, 5, 3)).equal
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(layers(x), source(x))
    assert dpnn_bridge.port(layers, OfParameters(), x).equal


class Cell(nn.Module):
    """An LSTM with its gates in any order, as two maps or as one map of the concatenated values."""

    def __init__(self, order: str, joined: bool) -> None:
        super().__init__()
        self.order = order
        self.x = nn.Linear(7 if joined else 3, 16)
        self.h = None if joined else nn.Linear(4, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], 4)
        for step in x:
            z = self.x(torch.cat((step, h), 1)) if self.h is None else self.x(step) + self.h(h)
            gates = dict(zip(self.order, z.chunk(4, 1), strict=True))
            i, f, o = (torch.sigmoid(gates[name]) for name in "ifo")
            c = f * c + i * torch.tanh(gates["g"])
            h = o * torch.tanh(c)
        return h


@pytest.mark.parametrize(("there", "here"), [("ifgo", "oigf"), ("ifog", "gifo"), ("ifgo", "ifgo")])
def test_two_maps_become_one_with_gates_in_another_order(there: str, here: str) -> None:
    """In the first step the state is zero, so every pair of gates seemed to be a sum."""
    torch.manual_seed(0)
    source, target = Cell(there, False), Cell(here, True)
    report = dpnn_bridge.port(source, target, torch.randn(4, 2, 3))
    assert report.equal, report
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(target(x), source(x))


@pytest.mark.parametrize("biases", [(True, True), (False, True)])
def test_a_bias_that_is_added_to_an_outer_sum_belongs_to_its_dimension(biases: tuple[bool, bool]) -> None:
    class Outer(nn.Module):
        def __init__(self, u: bool, v: bool, b: bool) -> None:
            super().__init__()
            self.u, self.v, self.last = nn.Linear(4, 5, bias=u), nn.Linear(4, 5, bias=v), nn.Linear(5, 2)
            self.b = nn.Parameter(torch.randn(5)) if b else None

        def forward(self, x: Tensor) -> Tensor:
            z = self.u(x)[:, :, None] + self.v(x * x)[:, None, :]
            return self.last(torch.tanh(z if self.b is None else z + self.b))

    torch.manual_seed(0)
    source, target = Outer(False, False, True), Outer(*biases, False)
    assert dpnn_bridge.port(source, target, torch.randn(3, 4)).equal
    x = torch.randn(5, 4)
    torch.testing.assert_close(target(x), source(x))
