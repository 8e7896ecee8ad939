"""Networks that agree on the example and differ on padding; outputs in another layout; numbers taken out of tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge

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
