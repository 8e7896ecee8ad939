"""Trees of softmaxes of nnx."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.gradient import with_gradient_of
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.registry import LuaClass, lua_class
from dpnn_bridge.torch_context import TorchContext


def exp_minus(x: Tensor) -> Tensor:
    """Torch7's approximation of :math:`e^{-x}` for positive x, off by up to 1e-8."""
    y = 1.0 + x * (0.125 + x * (0.0078125 + x * (0.00032552083 + x * 1.0172526e-5)))
    return torch.where(x < 13, 1 / y**8, torch.zeros_like(x))


class SoftMaxTree(nn.Module):
    """Log probability of a leaf: the sum of the log softmaxes on the way from the root.

    Args:
        in_features: size D of the input.
        child_parent: for every node its parent and its place among the parent's children, counted from 1, or -1.
        parent_children: for every parent its first row of ``weight``, counted from 1, and the number of children,
            or -1.
        root: number of the root.
        max_family: largest number of children.
        max_depth: largest number of softmaxes on a way.
        index_base: of the targets.

    Shape:
        - Input: ``[x, target]``, :math:`(N, D)` and :math:`(N)`.
        - Output: :math:`(N)`.

    Attributes:
        weight: :math:`(children, D)`, one row per node other than the root.
        bias: :math:`(children)`.

    Differs from torch:
        Uses Torch7's approximation of the exponential function in the value; the gradient is that of the softmax which
        results.

    Lua:
        ``nn.SoftMaxTree(inputSize, hierarchy, rootId, accUpdate, static)``, nnx SoftMaxTree.lua
    """

    child_parent: Tensor
    parent_children: Tensor

    def __init__(
        self,
        in_features: int,
        child_parent: Tensor,
        parent_children: Tensor,
        root: int,
        max_family: int,
        max_depth: int,
        children: int,
        index_base: int = 1,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.register_buffer("child_parent", child_parent)
        self.register_buffer("parent_children", parent_children)
        self.in_features, self.root, self.index_base = in_features, root, index_base
        self.max_family, self.max_depth = max_family, max_depth
        self.weight = nn.Parameter(torch.empty(children, in_features, device=device))
        self.bias = nn.Parameter(torch.empty(children, device=device))
        bound = (children * in_features) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: list[Tensor]) -> Tensor:
        x, target = input
        node = target.long() + (1 - self.index_base)
        alive = torch.ones_like(node, dtype=torch.bool)
        total = x.new_zeros(x.shape[0])
        for _ in range(self.max_depth):
            parent, place = self.child_parent.long()[node - 1].unbind(1)
            parent = torch.where(alive, parent, self.root)
            total = total + torch.where(alive, self._log_softmax(x, parent, place), 0)
            alive = alive & (parent != self.root)
            node = torch.where(alive, parent, node)
        return total

    def _log_softmax(self, x: Tensor, parent: Tensor, place: Tensor) -> Tensor:
        """Log probability of the children at ``place`` (N) under ``parent`` (N)."""
        first, count = self.parent_children.long()[parent - 1].unbind(1)
        i = torch.arange(self.max_family, device=x.device)
        there = i < count[:, None]
        rows = torch.where(there, first[:, None] - 1 + i, 0)
        scores = torch.einsum("nd,nfd->nf", x, self.weight[rows]) + self.bias[rows]
        largest = scores.detach().masked_fill(~there, float("-inf")).max(1, keepdim=True).values
        log_sum = largest + (exp_minus(largest - scores.detach()) * there).sum(1, keepdim=True).log()
        picked = scores.gather(1, (place - 1).clamp(0, self.max_family - 1)[:, None])
        probabilities = (scores.detach() - log_sum).exp() * there
        slope = picked - (probabilities * scores).sum(1, keepdim=True)
        return with_gradient_of(picked - log_sum, slope).squeeze(1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.weight.shape[0]} nodes, root={self.root}"


@lua_class("nn.SoftMaxTree")
class SoftMaxTreeClass(LuaClass):
    """With ``static``, Torch7's ``parameters()`` is a table by node numbers; here it is weight and bias."""

    torch_type = SoftMaxTree
    scalars = {"inputSize": "in_features", "rootId": "root", "maxFamily": "max_family", "maxDept": "max_depth"}
    tensors = {
        "weight": "weight",
        "bias": "bias",
        "childParent": "child_parent",
        "parentChildren": "parent_children",
    }
    scratch = ("_multiBuffer", "_nodeBuffer", "_gradInput", "_gradTarget", "updates")

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        tables = {
            attribute: torch.empty(obj[name].shape, dtype=torch.int32, device="meta")
            for name, attribute in (("childParent", "child_parent"), ("parentChildren", "parent_children"))
        }
        sizes = {"children": obj["weight"].shape[0], "index_base": ctx.index_base, "device": "meta"}
        return {**super().arguments(obj, ctx), **tables, **sizes}


class SoftMaxForest(nn.Sequential):
    """Mixture of trees of softmaxes.

    Args:
        module: the gater and the trees, then the mixture.

    Shape:
        - Input: ``[x, target]``, as :class:`SoftMaxTree`.
        - Output: :math:`(N)`.

    Lua:
        ``nn.SoftMaxForest(inputSize, trees, rootIds, …)``, nnx SoftMaxForest.lua
    """


@lua_class("nn.SoftMaxForest")
class SoftMaxForestClass(LuaClass):
    """The parts (``experts``, ``gater`` …) are kept as they are; they are the same objects."""

    torch_type = SoftMaxForest
    container = True
