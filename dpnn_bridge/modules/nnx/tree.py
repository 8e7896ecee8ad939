"""Trees of softmaxes (nnx)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, empty_table
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


def exp_minus(x: Tensor) -> Tensor:
    """Compute Torch7's approximation of :math:`e^{-x}` for positive x, with an error of up to 1e-8."""
    y = 1.0 + x * (0.125 + x * (0.0078125 + x * (0.00032552083 + x * 1.0172526e-5)))
    for _ in range(3):
        y = y * y
    return torch.where(x < 13, 1 / y, 0)


@lua_class("nn.SoftMaxTree")
class SoftMaxTree(nn.Module):
    """Log probability of a leaf: the sum of the log softmaxes on the way from the root.

    Args:
        in_features: size D of the input.
        child_parent: for every node its parent and its position among the parent's children, counted from 1, or -1.
        parent_children: for every parent its first row of ``weight``, counted from 1, and the number of children,
            or -1.
        root: number of the root.
        max_family: largest number of children.
        max_depth: largest number of softmaxes on a way.
        children: number of nodes other than the root.
        index_base: of the targets.

    Shape:
        - Input: ``[x, target]``, :math:`(N, D)` and :math:`(N)`.
        - Output: :math:`(N)`.

    Attributes:
        weight: :math:`(children, D)`, one row per node other than the root.
        bias: :math:`(children)`.

    Differs from PyTorch:
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

    @classmethod
    def from_hierarchy(
        cls, in_features: int, hierarchy: Mapping[int, Sequence[int]], root: int = 1, *, index_base: int = 1
    ) -> SoftMaxTree:
        """Build the tree of a table of children, as Torch7's constructor does.

        Args:
            in_features: size D of the input.
            hierarchy: the children of each parent; nodes are numbers from 1.
            root: number of the root.
            index_base: of the targets.

        Raises:
            ValueError: a node has no path to the root.

        Examples:
            >>> tree = SoftMaxTree.from_hierarchy(4, {1: [2, 3], 2: [4, 5]}, root=1)
            >>> leaves = [tree([torch.zeros(1, 4), torch.tensor([leaf])]) for leaf in (3, 4, 5)]
            >>> round(sum(float(leaf.detach().exp()) for leaf in leaves), 5)
            1.0
        """
        parent_of = {child: parent for parent, children in hierarchy.items() for child in children}

        def depth(node: int, limit: int) -> int:
            if node == root:
                return 1
            if node not in parent_of or limit == 0:
                raise ValueError(f"node {node} has no path to the root {root}")
            return 1 + depth(parent_of[node], limit - 1)

        child_parent = torch.full((max(parent_of), 2), -1, dtype=torch.int32)
        parent_children = torch.full((max(hierarchy), 2), -1, dtype=torch.int32)
        first = 1
        for parent, children in hierarchy.items():
            parent_children[parent - 1] = torch.tensor([first, len(children)])
            for place, child in enumerate(children, 1):
                child_parent[child - 1] = torch.tensor([parent, place])
            first += len(children)
        largest = max(map(len, hierarchy.values()))
        deepest = max(depth(parent, len(hierarchy)) for parent in hierarchy)
        return cls(in_features, child_parent, parent_children, root, largest, deepest, len(parent_of), index_base)

    def forward(self, input: list[Tensor]) -> Tensor:
        x, target = input
        node = target.long() + (1 - self.index_base)
        parent, place = self._above(node)
        there = torch.ones_like(node, dtype=torch.bool)
        steps = [(parent, place, there)]
        for _ in range(self.max_depth - 1):
            there = parent != self.root
            node = torch.where(there, parent, node)  # at the root it stays, and is not counted
            parent, place = self._above(node)
            steps.append((parent, place, there))
        parents, places, counted = (torch.stack(column, 1) for column in zip(*steps, strict=True))
        return torch.where(counted, self._log_softmax(x, parents, places), 0).sum(1)

    def _above(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parent of each node, and its position among the parent's children."""
        parent, place = self.child_parent.index_select(0, node - 1).long().unbind(1)
        return parent, place

    def _log_softmax(self, x: Tensor, parent: Tensor, place: Tensor) -> Tensor:
        """Return the log probability of the children at ``place`` (N, L) under ``parent`` (N, L), on all L levels."""
        families = self.parent_children.index_select(0, parent.flatten() - 1).long()
        first, count = families.view(*parent.shape, 2).unbind(-1)
        i = torch.arange(self.max_family, device=x.device)
        there = i < count[..., None]
        rows = torch.where(there, first[..., None] - 1 + i, 0)
        scores = torch.einsum("nd,nlfd->nlf", x, F.embedding(rows, self.weight)) + self.bias.take(rows)
        place = (place - 1)[..., None]
        values = scores.detach().masked_fill(~there, float("-inf"))
        largest = values.amax(-1, keepdim=True)
        log_sum = largest + exp_minus(largest - values).sum(-1, keepdim=True).log()
        result = (values.gather(-1, place) - log_sum).squeeze(-1)
        if not torch.is_grad_enabled():
            return result
        slopes = (values - log_sum).exp().neg().scatter_add(-1, place, torch.ones_like(log_sum))
        return with_gradient_of(result, (slopes * scores).sum(-1))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.weight.shape[0]} nodes, root={self.root}"

    class Lua(LuaClass):
        """With ``static``, Torch7's ``parameters()`` is a table by node numbers; here it is weight and bias."""

        faults = (
            Fault(("params", "gradParams"), "Torch7 lists views of single nodes, under their numbers where static"),
        )
        scalars = {"inputSize": "in_features", "rootId": "root", "maxFamily": "max_family", "maxDept": "max_depth"}
        tensors = {
            "weight": "weight",
            "bias": "bias",
            "childParent": "child_parent",
            "parentChildren": "parent_children",
        }
        sizes = {"weight": ("children", None)}
        tensor_args = ("childParent", "parentChildren")
        indexed = True
        scratch = ("_multiBuffer", "_nodeBuffer", "_gradInput", "_gradTarget", "updates")
        constants = {
            "_multiBuffer": LuaTensor.empty,
            "_nodeBuffer": LuaTensor.empty,
            "updates": empty_table,
            "static": True,
        }
        resets = {"batchSize": 0}

        @classmethod
        def to_lua(cls, module: SoftMaxTree, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is None:
                fields.update(_counted(module), _gradInput=LuaTensor.empty(ctx.type_of(module)))
                fields["_gradTarget"] = LuaTensor.empty("torch.IntTensor")
                fields["gradInput"] = LuaTable.from_list([fields["_gradInput"], fields["_gradTarget"]])
            return fields


def _counted(tree: SoftMaxTree) -> dict[str, Any]:
    """Return the fields that Torch7's constructor counts."""
    parent_of = {c: (p, place) for c, (p, place) in enumerate(tree.child_parent.tolist(), 1) if p > 0}
    families = {p: (first, n) for p, (first, n) in enumerate(tree.parent_children.tolist(), 1) if first > 0}
    by_row = sorted(parent_of, key=lambda c: families[parent_of[c][0]][0] + parent_of[c][1])

    def siblings(node: int) -> int:
        return families[node][1] + (0 if node == tree.root else siblings(parent_of[node][0]))

    nodes = {*parent_of, *families}
    return {
        "nChildNode": len(parent_of),
        "nParentNode": len(families),
        "minNodeId": min(nodes),
        "maxNodeId": max(nodes),
        "maxParentId": max(families),
        "maxChildId": max(parent_of),
        "maxFamilyPath": max(map(siblings, families)),
        "childIds": LuaTensor.from_numpy(np.array(by_row, np.int32)),
        "parentIds": LuaTensor.from_numpy(np.array(list(families), np.int32)),
    }


@lua_class("nn.SoftMaxForest")
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

    class Lua(LuaClass):
        """The parts (``experts``, ``gater`` …) are kept as they are; they are the same objects."""

        container = True

        @classmethod
        def to_lua(cls, module: SoftMaxForest, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return {**fields, "module": fields["modules"].get(1)} if len(module) else fields
