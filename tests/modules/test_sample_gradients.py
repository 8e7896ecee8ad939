"""``torch.func.vmap`` computes the gradients of each sample through gradients that are not derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from dpnn_bridge.modules.nn import BCECriterion, Euclidean, Normalize, PairwiseDistance, Sqrt
from dpnn_bridge.torch7.gradient import add_gradient, scale_gradient, with_gradient_of, zero_gradient

LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Sqrt": Sqrt(),
    "Normalize": Normalize(3),
    "PairwiseDistance": lambda x: PairwiseDistance(2)([x, x.flip(1)]),
    "Euclidean": Euclidean(3, 2).double(),
    "BCECriterion": lambda x: BCECriterion()(x, x.detach().round()),
    "with_gradient_of": lambda x: with_gradient_of(x.round(), x.exp()),
    "add_gradient": lambda x: add_gradient(x, x.detach()),
    "scale_gradient": lambda x: scale_gradient(x, 3.0),
    "zero_gradient": lambda x: x + zero_gradient(x, x),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_each_sample(name: str) -> None:
    x = torch.rand(4, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1

    def loss(sample: Tensor) -> Tensor:
        return LAYERS[name](sample).square().sum()

    assert torch.allclose(vmap(grad(loss))(x), torch.stack([grad(loss)(sample) for sample in x]))
