"""Classes without a runnable Torch7: values worked out, place by place, from the rule in their source."""

from __future__ import annotations

import torch
from formula import DOUBLE, agree, converted, leaf, lua, random

from dpnn_bridge import training
from dpnn_bridge.conversion import to_lua
from dpnn_bridge.modules.encoding import Encoding


# ---------------------------------------------------------------------- deep encoding
def test_aggregate_sums_weighted_residuals() -> None:
    module, a, r = converted(lua("nn.Aggregate", K=2, D=4)), leaf(3, 5, 2), leaf(3, 5, 2, 4, seed=1)
    out, g = module([a, r]), random(3, 2, 4, seed=2)
    expected = torch.zeros(3, 2, 4, dtype=DOUBLE)
    for b, i, k in torch.cartesian_prod(torch.arange(3), torch.arange(5), torch.arange(2)).tolist():
        expected[b, k] += a.detach()[b, i, k] * r.detach()[b, i, k]
    agree(out, expected)
    agree(module([a[1], r[1]]), expected[1])
    out.backward(g)
    assert a.grad is not None
    agree(a.grad[2, 3, 1], g[2, 1] @ r.detach()[2, 3, 1])


def test_encoding_reverses_the_gradient_of_the_assignment() -> None:
    words, factors, x, g = random(2, 3), random(2, seed=1).abs(), leaf(2, 4, 3, seed=2), random(2, 2, 3, seed=3)
    module = converted(lua("nn.Encoding", weight=words, bias=factors, K=2, D=3))
    out = module(x)
    expected, dx = torch.zeros(2, 2, 3, dtype=DOUBLE), torch.zeros(2, 4, 3, dtype=DOUBLE)
    dc, ds = torch.zeros(2, 3, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    for b in range(2):
        for i in range(4):
            r = x.detach()[b, i] - words
            squares = (r * r).sum(1)
            weights = torch.exp(-factors * squares)
            a = weights / weights.sum()
            expected[b] += a[:, None] * r
            da = (g[b] * r).sum(1)
            dz = a * (da - (a * da).sum())  # of the softmax; -s |r|^2 then enters with the sign of +s |r|^2
            dx[b, i] = (2 * (dz * factors)[:, None] * r).sum(0) + a @ g[b]
            dc += -2 * (dz * factors)[:, None] * r - a[:, None] * g[b]
            ds += dz * squares
    agree(out, expected)
    agree(module(x[0]), expected[0])
    out.backward(g)
    assert x.grad is not None
    agree(x.grad, dx)
    found = training.parameters(module)[1]
    agree(found[0], dc)
    agree(found[1], ds)
    assert to_lua(Encoding(2, 3))["soft"].class_name == "nn.SoftMax"
