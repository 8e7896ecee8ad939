"""Networks that agree on the example and differ on padding; outputs in another layout; numbers taken out of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.errors import OptionError
from dpnn_bridge.modules.rnn import SeqLSTM

Mask = Callable[[Tensor], Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nowhere(x: Tensor) -> Tensor:
    return torch.ones(len(x), x.shape[1], 1, dtype=x.dtype)


def where_zero(x: Tensor) -> Tensor:
    return (~(x == 0).all(2, keepdim=True)).to(x.dtype)


def by_sum(x: Tensor) -> Tensor:
    return x.abs().sum(2, keepdim=True).ne(0).to(x.dtype)


def by_length(x: Tensor) -> Tensor:
    """The mask of users whose padding is at the end only."""
    lengths = by_sum(x).sum(0)
    return (torch.arange(len(x))[:, None, None] < lengths).to(x.dtype)


class Masked(nn.Module):
    """A linear layer over the steps of a sequence, with zeros for its padding."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.layer, self.mask = nn.Linear(5, 4), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.mask(x)


@pytest.mark.parametrize(
    ("there", "here", "equal"),
    [
        (where_zero, nowhere, False),
        (nowhere, by_sum, False),
        (where_zero, by_sum, True),
        (where_zero, by_length, True),
    ],
)
def test_a_mask_that_one_network_lacks_is_found(there: Mask, here: Mask, equal: bool) -> None:
    net = Masked(here)
    before = net.layer.weight.clone()
    report = dpnn_bridge.port(Masked(there), net, randn(6, 3, 5))
    assert report.equal is equal, report
    assert torch.equal(before, net.layer.weight) is not equal
    if report.first is not None:
        assert "one of the networks masks zeros" in report.first.reason


class Scores(nn.Module):
    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.a, self.b, self.turned = nn.Linear(5, 4), nn.Linear(5, 4), turned

    def forward(self, x: Tensor) -> Tensor:
        scores = self.a(x[0])[:3] @ self.b(x[1]).t()
        return scores.t() if self.turned else scores


def test_another_order_of_the_dimensions_of_an_output_is_noted() -> None:
    report = dpnn_bridge.port(
        Scores(False), Scores(True), randn(2, 6, 5), target=lambda m, x: m(x), source=lambda m, x: m(x)
    )
    assert report.equal, report
    assert (
        "an output of shape (6, 3) is the source's of shape (3, 6) with its dimensions in the order (1, 0)"
        in report.notes
    )
    assert not dpnn_bridge.port(Scores(False), Scores(False), randn(2, 6, 5)).notes


def test_an_output_with_its_elements_in_another_order_is_no_inner_value() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).view(-1, 2, 2, 3, 4, 4).permute(0, 3, 4, 1, 5, 2).reshape(-1, 3, 8, 8)

    report = dpnn_bridge.port(nn.Sequential(nn.Conv2d(2, 12, 3), nn.PixelShuffle(2)), Shuffled(), randn(2, 2, 6, 6))
    assert report.first is not None
    assert report.first.reason == "an output of shape (2, 3, 8, 8) has the source's elements in another order"


def test_a_number_that_is_taken_out_of_a_tensor_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self, number: bool) -> None:
            super().__init__()
            self.a, self.b, self.number = nn.Linear(5, 4), nn.Linear(4, 3), number

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.a(x))
            largest = hidden.max()
            return self.b(hidden / (largest.item() if self.number else largest))

    assert dpnn_bridge.port(Scaled(False), Scaled(False), randn(3, 5)).equal
    report = dpnn_bridge.port(Scaled(False), Scaled(True), randn(3, 5))
    assert report.first is not None
    assert "converts a tensor to a Python number" in report.first.reason
    assert "keep it a tensor" in report.first.reason


class Normed(nn.Module):
    """Two linear layers with a norm between them: of each sample, or of all of them."""

    def __init__(self, norm: Mask) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(5, 4), nn.Linear(4, 3), norm

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.b(hidden / self.norm(hidden))


def of_each(hidden: Tensor) -> Tensor:
    return hidden.norm(dim=1, keepdim=True)


def of_all(hidden: Tensor) -> Tensor:
    return hidden.norm()


def of_samples(hidden: Tensor) -> Tensor:
    return hidden.square().sum(0, keepdim=True).sum(1, keepdim=True).sqrt()


def of_each_in_steps(hidden: Tensor) -> Tensor:
    return torch.stack([sample.norm() for sample in hidden])[:, None]


@pytest.mark.parametrize("here", [of_all, of_samples, of_each_in_steps])
def test_an_operation_over_all_samples_is_found_with_one_sample(here: Mask) -> None:
    report = dpnn_bridge.port(Normed(of_each), Normed(here), randn(1, 5))
    assert report.equal is (here is of_each_in_steps), report
    if report.first is not None:
        assert report.first.reason.startswith("equal for one sample, but not for a batch of two")


def test_a_source_that_takes_one_sample_says_nothing_about_batches() -> None:
    assert dpnn_bridge.port(Normed(of_all), Normed(of_all), randn(1, 5)).equal
    assert dpnn_bridge.port(Normed(of_all), Normed(of_each), randn(1, 5)).equal


class Apply(nn.Module):
    """A function, of the result of a layer if there is one."""

    def __init__(self, function: Callable[[Any], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x if self.layer is None else self.layer(x))


class OverTime(nn.Module):
    """Two convolutions with activations, and the maximum over time, which hides the activations of negative values."""

    def __init__(self, first: nn.Module, second: nn.Module, size: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(5, 6, 3), nn.Conv1d(5, 6, size)
        self.acts, self.last = (first, second), nn.Linear(12, 3)
        with torch.no_grad():
            self.first.bias += 3
            self.second.bias += 3

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.acts
        return self.last(torch.cat((first(self.first(x)).amax(2), second(self.second(x)).amax(2)), 1))


ACTIVATIONS = {
    "relu": nn.ReLU(),
    "threshold": nn.Threshold(0, -0.5),
    "leaky": nn.LeakyReLU(0.1),
    "other leaky": nn.LeakyReLU(0.2),
    "elu": nn.ELU(),
    "celu": nn.CELU(0.4),
    "none": nn.Identity(),
    "clip": nn.Hardtanh(0.1, 100),
    "absolute": Apply(torch.abs),
}


@pytest.mark.parametrize("here", ACTIVATIONS)
@pytest.mark.parametrize("there", ACTIVATIONS)
def test_another_activation_that_a_maximum_hides_is_found(there: str, here: str) -> None:
    torch.manual_seed(0)
    x, relu = torch.randn(2, 5, 20), nn.ReLU()
    report = dpnn_bridge.port(OverTime(relu, ACTIVATIONS[there]), OverTime(relu, ACTIVATIONS[here]), x)
    assert report.equal == (there == here), report


def test_two_activations_in_another_order_are_found() -> None:
    torch.manual_seed(0)
    leaky, relu, x = nn.LeakyReLU(0.1), nn.ReLU(), torch.randn(2, 5, 20)
    report = dpnn_bridge.port(OverTime(leaky, relu, 5), OverTime(relu, leaky, 5), x)
    assert report.first is not None
    assert "with other biases" in report.first.reason


@pytest.mark.parametrize("values", ["zeros", "ones", "gates"])
def test_equal_elements_of_a_bias_say_nothing_about_its_order(values: str) -> None:
    """The gates of both networks are in another order; a hidden ReLU lets both run with other biases."""
    torch.manual_seed(0)
    source, target = SeqLSTM(5, 6), nn.LSTM(5, 6)
    with torch.no_grad():
        if values != "gates":
            source.bias.fill_(values == "ones")
    after = lambda y: F.relu(y + 2)  # noqa: E731
    x = torch.randn(4, 2, 5)
    assert dpnn_bridge.port(Apply(after, source), Apply(lambda y: after(y[0]), target), x).equal


@pytest.mark.parametrize(
    ("joined", "order"),
    [
        (lambda a, b: torch.stack((a, b), 2).flatten(1), "interleaved"),
        (lambda a, b: torch.cat((a, b), 1).flip(1), "reversed"),
        (lambda a, b: torch.cat((a.flip(1), b), 1), "one half reversed"),
    ],
)
@pytest.mark.parametrize("seed", range(8))
def test_units_that_are_zero_on_the_example_do_not_get_a_wrong_place(
    joined: Callable[[Tensor, Tensor], Tensor], order: str, seed: int
) -> None:
    """The columns of dead units got the order of their neighbours, and the networks differed on other inputs."""

    class Joined(nn.Module):
        def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
            super().__init__()
            self.a, self.b, self.last, self.join = nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(4, 5), join

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.join(self.a(x).relu(), self.b(x).relu()))

    torch.manual_seed(seed)
    source, target = Joined(lambda a, b: torch.cat((a, b), 1)), Joined(joined)
    if dpnn_bridge.port(source, target, torch.randn(2, 6)).equal:
        x = 3 * torch.randn(64, 6)
        torch.testing.assert_close(target(x), source(x))


@pytest.mark.parametrize("same", [True, False])
def test_padding_before_a_maximum_is_compared_also_where_all_values_are_positive(same: bool) -> None:
    """Zeros are padding of a convolution, and minus infinity that of a maximum."""
    torch.manual_seed(0)
    layer, pooling = nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1)
    with torch.no_grad():
        layer.bias += 6
    padded = lambda y: F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2)  # noqa: E731
    target = Apply(pooling if same else padded, nn.Conv2d(3, 4, 3))
    report = dpnn_bridge.port(Apply(pooling, layer), target, torch.randn(2, 3, 8, 8))
    assert report.equal == same, report


@pytest.mark.parametrize(
    ("flattened", "note"),
    [
        (lambda h: h.flatten(1), None),
        (lambda h: h.reshape(1, -1), "with two samples, the module fails"),
        (lambda h: h[:1].flatten(1), "with two samples, the module returns the outputs of the first one"),
    ],
)
def test_a_network_for_one_sample_is_noted(flattened: Callable[[Tensor], Tensor], note: str | None) -> None:
    def net(flatten: Callable[[Tensor], Tensor]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), Apply(flatten), nn.Linear(64, 5))

    report = dpnn_bridge.port(net(lambda h: h.flatten(1)), net(flattened), torch.randn(1, 3, 6, 6))
    assert report.equal, report
    assert [n for n in report.notes if note is None or note not in n] == []
    assert bool(report.notes) == (note is not None)


def test_a_number_among_the_outputs_is_noted() -> None:
    class Numbered(nn.Module):
        def __init__(self, number: float) -> None:
            super().__init__()
            self.layer, self.number = nn.Linear(3, 2), number

        def forward(self, x: Tensor) -> tuple[Tensor, float]:
            return self.layer(x), self.number

    report = dpnn_bridge.port(Numbered(3.0), Numbered(5.0), torch.randn(4, 3))
    assert report.notes == ["outputs that are no tensors, such as numbers, are not compared"]


@pytest.mark.parametrize("kind", ["meta", "lazy", "inference"])
def test_a_parameter_that_cannot_be_written_is_named(kind: str) -> None:
    with torch.inference_mode(kind == "inference"), torch.device("meta" if kind == "meta" else "cpu"):
        target = nn.LazyLinear(3) if kind == "lazy" else nn.Linear(4, 3)
    advice = {"meta": "to_empty", "lazy": "run the module once", "inference": "outside of it"}[kind]
    with pytest.raises(OptionError, match=f"the module's weight .*{advice}"):
        dpnn_bridge.port(nn.Linear(4, 3), target, torch.randn(2, 4))


@pytest.mark.parametrize("reduced", [torch.sum, torch.mean])
def test_an_output_of_all_samples_is_found_with_one_sample(reduced: Callable[..., Tensor]) -> None:
    source, target = nn.Linear(3, 1), Apply(lambda y: reduced(y, 0, keepdim=True), nn.Linear(3, 1))
    report = dpnn_bridge.port(source, target, torch.randn(1, 3))
    assert report.first is not None
    assert "but not for a batch of two" in report.first.reason


class Stateful(nn.Module):
    """An LSTM that a user wrote, which continues from parts of its last state: h, c, both or none."""

    def __init__(self, keeps: str) -> None:
        super().__init__()
        self.rnn, self.keeps, self.state = nn.LSTM(3, 4), keeps, None

    def forward(self, x: Tensor) -> Tensor:
        out, (h, c) = self.rnn(x, self.state)
        if self.keeps:
            self.state = h * ("h" in self.keeps), c * ("c" in self.keeps)
        return out


@pytest.mark.parametrize(
    ("remember", "keeps", "reason", "note"),
    [
        ("both", "hc", "", ""),
        ("both", "h", "not on the next one, which starts from the state of the first", ""),
        ("both", "", "", "the source continues from the state of the call before, the module does not"),
        ("neither", "hc", "", "the module continues from the state of the call before, the source does not"),
        ("neither", "", "", ""),
    ],
)
def test_a_state_that_both_networks_keep_is_compared(remember: str, keeps: str, reason: str, note: str) -> None:
    torch.manual_seed(0)
    source = SeqLSTM(3, 4)
    source.remember(remember)
    report = dpnn_bridge.port(source, Stateful(keeps), randn(5, 2, 3))
    assert report.equal is not bool(reason), report
    assert reason in (report.first.reason if report.first else "")
    assert [n for n in report.notes if "state" in n] == [note] * bool(note)


def test_a_module_that_fails_when_it_is_called_again_has_a_note() -> None:
    class Once(Stateful):
        def forward(self, x: Tensor) -> Tensor:
            out, (h, c) = self.rnn(x, self.state)
            self.state = h.transpose(0, 1), c
            return out

    source = SeqLSTM(3, 4)
    source.remember("both")
    report = dpnn_bridge.port(source, Once("hc"), randn(5, 2, 3))
    assert any(
        n.startswith("equal on the first call; the next one was not compared, because it fails: ") for n in report.notes
    )
