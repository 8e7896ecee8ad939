"""Clustering as a layer: Kmeans."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, has_tensor
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


class _NearestCentroid(torch.autograd.Function):
    """Returns the nearest centroids; the gradient of a centroid points away from the mean of its samples."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, index: Tensor, module: Kmeans) -> Tensor:
        ctx.module, ctx.adds_gradient = module, True
        ctx.save_for_backward(input, weight, index)
        return (index + module.index_base).to(input.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        input, weight, index = ctx.saved_tensors
        module = ctx.module
        counts = weight.new_zeros(module.k).index_add_(0, index, weight.new_ones(len(index)))
        module.cluster_sample_count.copy_(counts)
        steps = torch.zeros_like(weight).index_add_(0, index, input - weight[index])
        scale = 1 if module.scale is None else module.scale
        return torch.zeros_like(input), -scale * steps / (counts[:, None] + 1e-7), None, None


@lua_class("nn.Kmeans")
class Kmeans(nn.Module):
    r"""Finds the nearest of k centroids; SGD with learning rate 1 moves each centroid to the mean of its samples.

    Args:
        k: number of centroids.
        dim: number of features of a sample, :math:`D`.
        scale: factor of the gradient; None: 1.
        index_base: index of the first centroid.

    Attributes:
        weight: the centroids, shape :math:`(k, D)`.
        loss: sum of the squared distances to the nearest centroid in the last forward pass.
        cluster_sample_count: number of samples of each centroid in the last backward pass.

    Shape:
        - Input: :math:`(N, D)`.
        - Output: :math:`(N)`, indices of the nearest centroids, in the input's dtype; of equal distances, the lowest
          index.

    Examples:
        >>> kmeans, samples = Kmeans(3, 2), torch.randn(50, 2)
        >>> kmeans.init_kmeans_plus(samples)
        >>> sgd = torch.optim.SGD(kmeans.parameters(), lr=1)
        >>> for _ in range(10):
        ...     sgd.zero_grad()
        ...     kmeans(samples).sum().backward()
        ...     sgd.step()

    Lua:
        ``nn.Kmeans(k, dim, scale)``, Kmeans.lua
    """

    cluster_sample_count: Tensor

    def __init__(
        self,
        k: int,
        dim: int,
        scale: float | None = None,
        *,
        index_base: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if k <= 0 or dim <= 0:
            raise ValueError(f"Kmeans: expected positive k and dim, found k={k}, dim={dim}")
        self.k, self.dim, self.scale, self.index_base = k, dim, scale, index_base
        self.weight = nn.Parameter(torch.empty(k, dim, device=device, dtype=dtype))
        self.register_buffer("cluster_sample_count", torch.zeros(k, device=device, dtype=dtype))
        self.loss = torch.zeros(())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the centroids uniformly from [-1, 1]."""
        nn.init.uniform_(self.weight, -1, 1)

    @torch.no_grad()
    def init_random(self, samples: Tensor) -> None:
        """Set the centroids to random samples, drawn with replacement.

        Args:
            samples: samples of shape :math:`(N, D)` with :math:`N \\ge k`.
        """
        self._check(samples)
        if len(samples) < self.k:
            raise ValueError(f"Kmeans: expected at least {self.k} samples, one per centroid, found {len(samples)}")
        self.weight.copy_(samples[torch.randint(len(samples), (self.k,), device=samples.device)])

    @torch.no_grad()
    def init_kmeans_plus(self, samples: Tensor, p: float = 0.95) -> None:
        """Set each centroid to one of the samples farthest from the previous centroids.

        Unlike k-means++, it draws uniformly from the :math:`\\lceil (1 - p) N \\rceil` farthest samples.

        Args:
            samples: samples of shape :math:`(N, D)`.
            p: fraction of the samples, the nearest ones, that are not drawn.
        """
        self._check(samples)
        if not 0 <= p <= 1:
            raise ValueError(f"expected p between 0 and 1, found {p}")
        candidates = max(math.ceil((1 - p) * len(samples)), 1)
        chosen = torch.randint(len(samples), (1,), device=samples.device)
        distances = samples.new_full((len(samples),), math.inf)
        for k in range(self.k):
            self.weight[k] = samples[chosen[0]]
            distances = torch.minimum(distances, (samples - self.weight[k]).square().sum(1))
            farthest = distances.sort(descending=True).indices
            chosen = farthest[torch.randint(candidates, (1,), device=samples.device)]

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        # computed from differences, because matrix products round equal distances differently
        distances = torch.cdist(input.detach(), self.weight.detach(), compute_mode="donot_use_mm_for_euclid_dist")
        smallest, index = distances.min(1)
        self.loss = smallest.square().sum()
        return _NearestCentroid.apply(input, self.weight, index, self)

    def _check(self, samples: Tensor) -> None:
        if samples.dim() != 2 or samples.shape[1] != self.dim:
            raise ValueError(f"Kmeans: expected samples of shape (N, {self.dim}), found {tuple(samples.shape)}")

    class Lua(LuaClass):
        computed_fields = ("loss",)
        indexed = True
        scalars = ("k", "dim", "scale")
        defaults = {"scale": None}
        tensors = {"weight": "weight", "clusterSampleCount": "cluster_sample_count"}
        optional = {"clusterSampleCount": None}

        @classmethod
        def fill(cls, module: Kmeans, obj: LuaObject, ctx: TorchContext) -> None:
            super().fill(module, obj, ctx)
            loss = obj.get("loss")
            module.loss = torch.tensor(float(loss or 0))
            if not has_tensor(obj, "clusterSampleCount"):
                module.cluster_sample_count = torch.zeros(module.k, dtype=module.weight.dtype)

        @classmethod
        def to_lua(cls, module: Kmeans, ctx: Any) -> dict[str, Any]:
            return {**super().to_lua(module, ctx), "loss": float(module.loss)}
