"""Hierarchical softmax trees of nnx."""

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


def _is_cleared(tree: nn.Module) -> bool:
    record = record_of(tree)
    table = record.scratch.get("gradInput") if record is not None else None
    return isinstance(table, LuaTable) and not len(table)


@lua_class("nn.SoftMaxTree")
class SoftMaxTree(nn.Module):
    """Computes the log probability of a leaf: the sum of log softmaxes along the path from the root.

    Args:
        in_features: number of input features, D.
        child_parent: for every node its parent and its position among the parent's children, counted from 1; -1 for the
            root. Shape :math:`(nodes, 2)`.
        parent_children: for every node its children's first row of ``weight``, counted from 1, and the number of
            children; -1 for leaves. Shape :math:`(parents, 2)`.
        root: number of the root node.
        max_family: largest number of children of a node.
        max_depth: largest number of softmaxes on a path.
        children: number of nodes except the root.
        index_base: index of node 1 in the targets.

    Shape:
        - Input: ``[x, target]`` of shapes :math:`(N, D)` and :math:`(N)`; targets are the numbers of leaves.
        - Output: :math:`(N)`.

    Attributes:
        weight: weight of shape :math:`(children, D)`, with one row per node except the root.
        bias: bias of shape :math:`(children)`.

    Differs from PyTorch:
        The output is computed with Torch7's approximation of the exponential function, and the gradient from the
        approximate softmax.

    Raises:
        ValueError: input or target has another shape.

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
        self.register_buffer("child_parent", child_parent.to(device))
        self.register_buffer("parent_children", parent_children.to(device))
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
        """Build the tree of Torch7's constructor from the children of each node.

        Args:
            in_features: number of input features, D.
            hierarchy: parent → children; nodes are numbers from 1.
            root: number of the root node.
            index_base: index of node 1 in the targets.

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
            for position, child in enumerate(children, 1):
                child_parent[child - 1] = torch.tensor([parent, position])
            first += len(children)
        largest = max(map(len, hierarchy.values()))
        deepest = max(depth(parent, len(hierarchy)) for parent in hierarchy)
        return cls(in_features, child_parent, parent_children, root, largest, deepest, len(parent_of), index_base)

    def forward(self, input: list[Tensor]) -> Tensor:
        x, target = input
        if x.dim() != 2 or target.shape != x.shape[:1]:
            shapes = [tuple(x.shape), tuple(target.shape)]
            raise ValueError(f"SoftMaxTree: expected shapes [(N, {self.in_features}), (N)], found {shapes}")
        node = target.long() + (1 - self.index_base)
        parent, position = self._parent(node)
        valid = torch.ones_like(node, dtype=torch.bool)
        levels = [(parent, position, valid)]
        for _ in range(self.max_depth - 1):
            valid = parent != self.root
            node = torch.where(valid, parent, node)  # a path that has reached the root is padded with its last node
            parent, position = self._parent(node)
            levels.append((parent, position, valid))
        parents, positions, valid = (torch.stack(column, 1) for column in zip(*levels, strict=True))
        return torch.where(valid, self._log_softmax(x, parents, positions), 0).sum(1)

    def _parent(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parent of each node, and the node's position among the parent's children."""
        parent, position = self.child_parent.index_select(0, node - 1).long().unbind(1)
        return parent, position

    def _log_softmax(self, x: Tensor, parent: Tensor, position: Tensor) -> Tensor:
        """Compute the log probabilities of children.

        Args:
            x: the input, of shape (N, D).
            parent, position: parent of each child and position among its children, of shape (N, L) for L levels.

        Returns:
            The log probabilities, of shape (N, L).
        """
        families = self.parent_children.index_select(0, parent.flatten() - 1).long()
        first, count = families.view(*parent.shape, 2).unbind(-1)
        i = torch.arange(self.max_family, device=x.device)
        exists = i < count[..., None]
        rows = torch.where(exists, first[..., None] - 1 + i, 0)
        scores = torch.einsum("nd,nlfd->nlf", x, F.embedding(rows, self.weight)) + self.bias.take(rows)
        position = (position - 1)[..., None]
        values = scores.detach().masked_fill(~exists, float("-inf"))
        largest = values.amax(-1, keepdim=True)
        log_sum = largest + exp_minus(largest - values).sum(-1, keepdim=True).log()
        result = (values.gather(-1, position) - log_sum).squeeze(-1)
        if not torch.is_grad_enabled():
            return result
        slopes = (values - log_sum).exp().neg().scatter_add(-1, position, torch.ones_like(log_sum))
        return with_gradient_of(result, (slopes * scores).sum(-1))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.weight.shape[0]} nodes, root={self.root}"

    class Lua(LuaClass):
        """Torch7's ``parameters()`` returns views of the rows of each node; the module has one weight and one bias."""

        faults = (
            Fault(("params", "gradParams"), "Torch7 returns a view of the parameters for each node of the tree"),
            Fault(("gradInput",), "after clearState, Torch7 returns no gradient of the input", when=_is_cleared),
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
                fields.update(_tree_fields(module), _gradInput=LuaTensor.empty(ctx.type_of(module)))
                fields["_gradTarget"] = LuaTensor.empty("torch.IntTensor")
                fields["gradInput"] = LuaTable.from_list([fields["_gradInput"], fields["_gradTarget"]])
            return fields


def _tree_fields(tree: SoftMaxTree) -> dict[str, Any]:
    """Return the fields that Torch7's constructor computes from the tree."""
    parent_of = {c: (p, position) for c, (p, position) in enumerate(tree.child_parent.tolist(), 1) if p > 0}
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
    """Mixture of softmax trees.

    Args:
        *modules: Torch7's inner ``module``: the gater and the trees, followed by the mixture.

    Shape:
        - Input: ``[x, target]``, as in :class:`SoftMaxTree`.
        - Output: :math:`(N)`.

    Lua:
        ``nn.SoftMaxForest(inputSize, trees, rootIds, …)``, nnx SoftMaxForest.lua
    """

    class Lua(LuaClass):
        """The fields ``experts``, ``gater`` … are not converted; their modules are also in ``modules``."""

        container = True

        @classmethod
        def to_lua(cls, module: SoftMaxForest, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return {**fields, "module": fields["modules"].get(1)} if len(module) else fields
