"""Noise-contrastive estimation: the noise, the normaliser, and the gradient of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.modules.dpnn.nce import NCECriterion, NCEModule, alias_table, bigrams, draw

UNIGRAMS = torch.tensor([5.0, 3, 1, 1, 4, 2, 0])


@pytest.mark.parametrize("weights", [UNIGRAMS, torch.ones(4), torch.tensor([1.0]), torch.linspace(0, 1, 500) ** 8])
def test_an_alias_table_draws_the_distribution(weights: torch.Tensor) -> None:
    torch.manual_seed(0)
    p = weights.double() / weights.double().sum()
    alias, keep = alias_table(p)
    implied = keep.clone().index_add(0, alias, 1 - keep) / len(p)
    torch.testing.assert_close(implied, p)
    counts = draw(alias, keep, 200_000).bincount(minlength=len(p)) / 200_000
    assert bool(((counts - p).abs() < 5 * (p / 200_000).sqrt() + 1e-4).all())


@pytest.mark.parametrize("batch_noise", [True, False])
def test_noise_follows_the_unigrams(batch_noise: bool) -> None:
    torch.manual_seed(0)
    module = NCEModule(2, 7, 4000, UNIGRAMS, Z=1, batch_noise=batch_noise)
    _, model, target, noise = module([torch.zeros(5, 2), torch.tensor([1, 2, 3, 4, 5])])
    assert model.shape == noise.shape == (5, 4000)
    torch.testing.assert_close(target, UNIGRAMS[:5] / 16)
    expected = float((UNIGRAMS / 16).square().sum())  # mean probability of what is drawn with it
    assert float(noise.mean()) == pytest.approx(expected, rel=0.05)


def test_the_first_batch_estimates_the_normaliser_once() -> None:
    module = NCEModule(3, 7, 10, UNIGRAMS)
    input = [torch.randn(4, 3), torch.tensor([1, 2, 3, 4])]
    assert float(module.Z) == -1
    module(input)
    first = float(module.Z)
    noise = module(input)[1].detach()
    assert float(module.Z) == first > 0
    assert float(noise.mean()) * 7 == pytest.approx(1, rel=0.5)  # with it, noise has about the probability 1/7


def test_casts_leave_the_noise_distribution_alone() -> None:
    module = NCEModule(3, 7, 10, UNIGRAMS).half()
    assert (module.weight.dtype, module.unigrams.dtype, module.keep.dtype) == (torch.half, torch.double, torch.double)


def test_evaluation_gives_the_softmax() -> None:
    module = NCEModule(3, 7, 10, UNIGRAMS, normalized=True).eval()
    x = torch.randn(4, 3)
    scores = nn.functional.linear(x, module.weight, module.bias)
    torch.testing.assert_close(module([x, torch.ones(4)]), scores.softmax(1))
    module.log_softmax = True
    assert float(module([x, torch.ones(4)]).detach().exp().sum()) == pytest.approx(4)


def test_the_biases_start_at_a_uniform_distribution() -> None:
    assert torch.equal(NCEModule(3, 7, 10, UNIGRAMS).bias, torch.full((7,), -math.log(7)))


def test_the_gradient_is_the_derivative_up_to_epsilon() -> None:
    torch.manual_seed(0)
    model, noise = torch.rand(4, dtype=torch.double) + 0.1, torch.rand(4, 5, dtype=torch.double) + 0.1
    p, q = torch.rand(4, dtype=torch.double) + 0.1, torch.rand(4, 5, dtype=torch.double) + 0.1
    model.requires_grad_()
    noise.requires_grad_()
    loss = NCECriterion()([model, noise, p, q])
    exact = -((model / (model + 5 * p)).log().sum() + (5 * q / (noise + 5 * q)).log().sum()) / 4
    for a, b in zip(torch.autograd.grad(loss, [model, noise]), torch.autograd.grad(exact, [model, noise]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def test_training_finds_the_distribution() -> None:
    """Three contexts that each determine the next word; k noise samples suffice to learn which."""
    torch.manual_seed(0)
    module, criterion = NCEModule(3, 7, 20, torch.ones(7), Z=1), NCECriterion()
    adam = torch.optim.Adam(module.parameters(), lr=0.1)
    x, words = torch.eye(3), torch.tensor([2, 5, 7])
    for _ in range(150):
        adam.zero_grad()
        criterion(module([x, words])).backward()
        adam.step()
    module.eval().normalized = True
    p = module([x, words]).detach()
    assert (p.argmax(1) + 1).tolist() == words.tolist()
    assert float(p.max(1).values.min()) > 0.9


def test_what_is_made_here_is_what_lua_makes() -> None:
    module = NCEModule(3, 7, 4, UNIGRAMS, Z=2)
    again = to_torch(to_lua(module))
    assert torch.equal(again.get_buffer("keep"), module.keep)
    assert torch.equal(again.get_buffer("alias"), module.alias)
    torch.manual_seed(1)
    first = module([torch.ones(2, 3), torch.tensor([1, 2])])
    torch.manual_seed(1)
    for a, b in zip(first, again([torch.ones(2, 3), torch.tensor([1, 2])]), strict=True):
        torch.testing.assert_close(a, b)


def test_bigrams_draw_what_follows_each_word() -> None:
    torch.manual_seed(0)
    module = bigrams({1: torch.tensor([0.5, 0.25, 0.25]), 4: torch.tensor([0.1, 0.9])}, 20_000)
    first, second = module(torch.tensor([4, 1]))
    assert float((first == 2).float().mean()) == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(second.bincount()[1:] / 20_000, torch.tensor([0.5, 0.25, 0.25]), rtol=0, atol=0.02)
    again = to_torch(to_lua(module))
    assert torch.equal(again.get_buffer("keep"), module.keep)
    with pytest.raises(KeyError, match="2"):
        module(torch.tensor([2]))


@pytest.mark.parametrize("target", [torch.tensor(1), torch.ones(2, 1, dtype=torch.long)], ids=["number", "column"])
def test_targets_of_other_dimensions_are_refused(target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"NCEModule: expected shapes \[\(N, 3\), \(N\)\], found"):
        NCEModule(3, 4, 2, torch.ones(4))([torch.randn(2, 3), target])
