"""Random layers with Torch7's random numbers for a seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.torch7.draws import torch7_random
from dpnn_bridge.torch7.random import Generator


def test_dropout_is_torch7s_to_the_last_bit() -> None:
    x = torch.arange(1000.0) / 7
    noise = Generator(77).fill_bernoulli(torch.empty_like(x), 0.7) / 0.7  # nn.Dropout divides the noise
    with torch7_random(77):
        assert torch.equal(F.dropout(x, 0.3), x * noise)
        assert F.dropout(x, 0.3, training=False) is x


def _as_unused(x: Tensor) -> Tensor:
    F.dropout(x, 0.5, inplace=True)
    return x


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda x: torch.randn_like(x, dtype=torch.float64), lambda g, x: g.fill_normal(x.double())),
        (lambda x: torch.rand_like(x, device="cpu", requires_grad=True), lambda g, x: g.fill_uniform(x)),
        (lambda x: x.bernoulli_(0.3, generator=None), lambda g, x: g.fill_bernoulli(x, 0.3)),
        (nn.init.xavier_normal_, lambda g, x: g.fill_normal(x, 0, (2 / 7) ** 0.5)),
        (lambda x: x.normal_(2, 0), lambda _, x: torch.full_like(x, 2)),
        (lambda x: F.rrelu(-x, 0.25, 0.5, training=True), lambda g, x: -g.fill_uniform(x, 0.25, 0.5)),
        (lambda x: F.rrelu(x, 0.25, 0.5, True), lambda _, x: x),
        (lambda x: F.rrelu(-x, 0.25, 0.5), None),
        (
            lambda x: torch.multinomial(x, 4, True).double(),
            lambda g, x: torch.tensor([g.multinomial(r, 4, True) for r in x]).double(),
        ),
        (_as_unused, lambda g, x: torch.ones_like(x) * g.fill_bernoulli(x, 0.5) * 2),
        # Torch7's generator cannot draw these
        (lambda x: x.bernoulli_(x / 2), None),
        (lambda x: x.normal_(torch.tensor(1.0), 2), None),
        (lambda x: x.normal_(generator=torch.default_generator), None),
    ],
)
def test_draws_take_all_arguments_of_pytorch(
    draw: Callable[[Tensor], Tensor], expected: Callable[[Generator, Tensor], Tensor] | None
) -> None:
    x = torch.ones(3, 4)
    torch.manual_seed(0)
    of_pytorch = draw(x.clone())
    torch.manual_seed(0)
    with torch7_random(77):
        drawn = draw(x.clone())
    assert torch.equal(drawn, of_pytorch if expected is None else expected(Generator(77), x.clone()))
    assert (drawn.dtype, drawn.requires_grad) == (of_pytorch.dtype, of_pytorch.requires_grad)
