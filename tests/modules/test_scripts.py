"""Layers that several training scripts define: values worked out from the rule in their Lua source."""

from __future__ import annotations

import math

import pytest
import torch
from formula import agree, converted, leaf, lua, random

from dpnn_bridge.conversion import to_torch
from dpnn_bridge.errors import UnsupportedClassError


@pytest.mark.parametrize("name", ["nn.Print", "nn.PrintModule", "nn.PrintNoNewline", "nn.PrintAddress", "nn.Debug"])
def test_printing_layers_pass_everything_through(name: str) -> None:
    module, x, g = converted(lua(name, label="here")), leaf(2, 3), random(2, 3, seed=1)
    module(x).backward(g)
    agree(module(x), x.tolist())
    assert x.grad is not None
    agree(x.grad, g.tolist())


def test_stochastic_bits_have_the_gradient_of_the_sigmoid() -> None:
    module, x, g = converted(lua("nn.BinaryStochastic", lo=-1, hi=2)), leaf(40, 5), random(40, 5, seed=1)
    drawn = module.train()(x)
    assert set(drawn.flatten().tolist()) == {0, 1}
    shares = [1 / (1 + math.exp(-float(v))) for v in x.detach().flatten()]
    assert abs(float(drawn.detach().sum()) - sum(shares)) < 4 * math.sqrt(sum(p * (1 - p) for p in shares))
    likely = module.eval()(x)
    agree(likely.flatten(), [2.0 if v >= 0 else -1.0 for v in x.detach().flatten().tolist()])
    likely.backward(g)
    assert x.grad is not None
    agree(x.grad.flatten(), [float(d) * p * (1 - p) for d, p in zip(g.flatten(), shares, strict=True)])


def test_older_stochastic_bits_are_zero_and_one() -> None:
    module = to_torch(lua("nn.BinaryStochastic")).eval()
    agree(module(torch.tensor([-0.5, 0.0, 0.5, 50.0]).double()), [0, 1, 1, 1])


def test_maps_are_flattened_each_on_its_own() -> None:
    module, x, g = converted(lua("nn.Flatten")), leaf(2, 3, 4), random(2, 12, seed=1)
    module(x).backward(g)
    agree(module(x), [[float(x[c, i // 4, i % 4]) for i in range(12)] for c in range(2)])
    assert x.grad is not None
    agree(x.grad, [[[float(g[c, 4 * i + j]) for j in range(4)] for i in range(3)] for c in range(2)])
    with pytest.raises(ValueError, match="expects an input of shape"):
        module(torch.rand(2, 2, 3, 4))


def test_a_triplet_pulls_the_positive_and_pushes_the_negative() -> None:
    module = converted(lua("nn.TripletEmbeddingCriterion", alpha=0.5))
    a, p, n = (leaf(4, 3, seed=seed) for seed in (1, 2, 3))
    terms = [sum(float((a[i, d] - p[i, d]) ** 2 - (a[i, d] - n[i, d]) ** 2) for d in range(3)) + 0.5 for i in range(4)]
    assert min(terms) < 0 < max(terms)
    loss = module([a, p, n])
    agree(loss, sum(max(0.0, t) for t in terms) / 4)
    loss.backward()
    for x, (one, other) in ((a, (n, p)), (p, (p, a)), (n, (a, n))):
        assert x.grad is not None
        agree(x.grad, [[(t > 0) * 0.5 * float(one[i, d] - other[i, d]) for d in range(3)] for i, t in enumerate(terms)])


def test_a_linear_layer_of_autoencoders_is_a_linear_layer() -> None:
    weight, bias, x = random(3, 4), random(3, seed=1), random(2, 4, seed=2)
    module = converted(lua("nn.LinearVA", weight=weight, bias=bias))
    agree(
        module(x),
        [
            [float(sum(w * v for w, v in zip(row, xs, strict=True)) + b) for row, b in zip(weight, bias, strict=True)]
            for xs in x
        ],
    )


def test_a_triplet_with_a_margin_is_another_class() -> None:
    with pytest.raises(UnsupportedClassError):
        to_torch(lua("nn.TripletEmbeddingCriterion", margin=0.5, gamma=2))
