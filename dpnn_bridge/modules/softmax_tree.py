"""Hierarchical softmax: SoftMaxTree, SoftMaxForest; dp's Dictionary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion import LuaContext, TorchContext
from dpnn_bridge.gradient import with_gradient_of
from dpnn_bridge.modules.decorator import Decorator, DecoratorClass
from dpnn_bridge.modules.lookup import LookupTableClass
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.registry import LuaClass, empty_table, lua_class, record_of


def exp_minus(x: Tensor) -> Tensor:
    """Torch7's fast approximation of :math:`e^{-x}` for :math:`x \\ge 0`, right to about eight digits."""
    x = x.double()
    y = 1.0 + x * (0.125 + x * (0.0078125 + x * (0.00032552083 + x * 1.0172526e-5)))
    return torch.where(x < 13, y**-8, 0.0)


class SoftMaxTree(nn.Module):
    r"""Log probability of a leaf: the sum of log softmaxes over the children of each node on the way from the root.

    Args:
        in_features: size of the input.
        hierarchy: children of each parent; nodes are numbers from 1.
        root: the root.
        index_base: what the first node is called in targets.

    Attributes:
        weight, bias: one row for each node but the root, siblings side by side.
        child_parent: for each node its parent and its place among its siblings, -1 for none.
        parent_children: for each parent the row of its first child and their number, -1 for none. All count from 1.

    Shape:
        - Input: ``[input, target]`` of shapes :math:`(N, D)` and :math:`(N)`.
        - Output: :math:`(N)`.

    Examples:
        >>> tree = SoftMaxTree(4, {1: [2, 3], 2: [4, 5]}, root=1)
        >>> leaves = torch.stack([tree([torch.zeros(1, 4), torch.tensor([leaf])]) for leaf in (3, 4, 5)])
        >>> round(float(leaves.exp().sum()), 5)
        1.0

    Raises:
        ValueError: a target's way does not end at the root.

    Lua:
        ``nn.SoftMaxTree(inputSize, hierarchy, rootId, accUpdate, static)``, nnx SoftMaxTree.lua, whose C code
        approximates the exponential
    """

    child_parent: Tensor
    parent_children: Tensor

    def __init__(
        self, in_features: int, hierarchy: Mapping[int, Sequence[int]], root: int = 1, *, index_base: int = 1
    ) -> None:
        super().__init__()
        self.in_features, self.root, self.index_base = in_features, root, index_base
        families = {int(parent): [int(c) for c in children] for parent, children in hierarchy.items()}
        child_parent = torch.full((max(map(max, families.values())), 2), -1, dtype=torch.int32)
        parent_children = torch.full((max(families), 2), -1, dtype=torch.int32)
        start = 1
        for parent, children in families.items():
            parent_children[parent - 1] = torch.tensor([start, len(children)])
            for place, child in enumerate(children, 1):
                child_parent[child - 1] = torch.tensor([parent, place])
            start += len(children)
        self.max_family = max(map(len, families.values()))
        self.max_depth = max(self._depth(child_parent, parent) for parent in families)
        self.weight = nn.Parameter(torch.empty(start - 1, in_features))
        self.bias = nn.Parameter(torch.empty(start - 1))
        self.register_buffer("child_parent", child_parent, persistent=False)
        self.register_buffer("parent_children", parent_children, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases as Torch7 does."""
        bound = 1 / math.sqrt(self.weight.numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def _depth(self, child_parent: Tensor, node: int) -> int:
        depth = 1
        while node != self.root:
            parent = int(child_parent[node - 1, 0]) if node <= len(child_parent) else -1
            if parent < 0 or depth > len(child_parent):
                raise ValueError(f"node {node} has no way to the root {self.root}")
            node, depth = parent, depth + 1
        return depth

    def forward(self, input: list[Tensor]) -> Tensor:
        x, target = input[0], input[1]
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"SoftMaxTree takes [(N, {self.in_features}), (N)], found {tuple(x.shape)}")
        node = target.long() - self.index_base
        output, moving = x.new_zeros(len(x)), torch.ones(len(x), dtype=torch.bool, device=x.device)
        siblings = torch.arange(self.max_family, device=x.device)
        for _ in range(self.max_depth):
            parent, place = self.child_parent[node].long().unbind(1)
            if x.device.type == "cpu" and not torch.compiler.is_compiling() and bool((parent < 0).any()):
                raise ValueError(f"node {int(node[parent < 0][0]) + self.index_base} has no parent in the tree")
            first, count = self.parent_children[parent - 1].long().unbind(1)
            rows = (first[:, None] - 1 + siblings).clamp(max=len(self.weight) - 1)
            scores = torch.einsum("nd,nfd->nf", x, self.weight[rows]) + self.bias[rows]
            scores = scores.masked_fill(siblings >= count[:, None], -math.inf)
            step = self._log_probability(scores, place[:, None] - 1)
            output = output + torch.where(moving, step, torch.zeros_like(step))
            moving = moving & (parent != self.root)
            node = torch.where(moving, parent - 1, node)
        return output

    @staticmethod
    def _log_probability(scores: Tensor, place: Tensor) -> Tensor:
        """The log softmax at ``place``; its gradient uses the exact exponential of the approximate value."""
        values = scores.detach()
        largest = values.max(1, keepdim=True).values
        log_p = values - (largest + exp_minus(largest - values).sum(1, keepdim=True).log())
        others = torch.where(log_p > -math.inf, log_p.exp() * scores, 0.0).sum(1)
        return with_gradient_of(log_p.gather(1, place)[:, 0], scores.gather(1, place)[:, 0] - others)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {len(self.weight)} nodes, root={self.root}"


@lua_class("nn.SoftMaxTree")
class SoftMaxTreeClass(LuaClass):
    torch_type = SoftMaxTree
    scalars = {"inputSize": "in_features", "rootId": "root"}
    tensors = {"weight": "weight", "bias": "bias"}
    scratch = ("updates",)
    constants = {"updates": empty_table, "static": True, "batchSize": 0}

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> SoftMaxTree:
        families, children = obj["parentChildren"].torch(), obj["childIds"].torch()
        hierarchy = {}
        for parent in obj["parentIds"].torch().tolist():
            start, count = (int(v) for v in families[parent - 1])
            hierarchy[parent] = children[start - 1 : start - 1 + count].tolist()
        return SoftMaxTree(obj["inputSize"], hierarchy, obj["rootId"], index_base=ctx.index_base)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        assert isinstance(module, SoftMaxTree)
        fields, kind = super().to_lua(module, ctx), ctx.type_of(module)
        empty_target = LuaTensor.empty("torch.IntTensor")
        fields.update(_gradInput=LuaTensor.empty(kind), _gradTarget=empty_target)
        fields["gradInput"] = LuaTable.from_list([fields["_gradInput"], empty_target])
        if record_of(module) is None:
            fields.update(_statistics(module), _nodeBuffer=LuaTensor.empty(kind), _multiBuffer=LuaTensor.empty(kind))
        return fields


def _statistics(tree: SoftMaxTree) -> dict[str, Any]:
    """Fields that Torch7's constructor counts."""
    parent_of = {c: int(p) for c, p in enumerate(tree.child_parent[:, 0].tolist(), 1) if p > 0}
    families = {p: (int(s), int(n)) for p, (s, n) in enumerate(tree.parent_children.tolist(), 1) if s > 0}
    by_row = sorted(parent_of, key=lambda c: families[parent_of[c]][0] + int(tree.child_parent[c - 1, 1]))

    def path(node: int) -> int:
        return families[node][1] + (0 if node == tree.root else path(parent_of[node]))

    return {
        "nChildNode": len(parent_of),
        "nParentNode": len(families),
        "minNodeId": min(*parent_of, *families),
        "maxNodeId": max(*parent_of, *families),
        "maxParentId": max(families),
        "maxChildId": max(parent_of),
        "maxFamily": tree.max_family,
        "maxFamilyPath": max(map(path, families)),
        "maxDept": tree.max_depth,
        "childParent": LuaTensor.from_numpy(tree.child_parent.cpu().numpy()),
        "parentChildren": LuaTensor.from_numpy(tree.parent_children.cpu().numpy()),
        "childIds": LuaTensor.from_numpy(torch.tensor(by_row, dtype=torch.int32).numpy()),
        "parentIds": LuaTensor.from_numpy(torch.tensor(list(families), dtype=torch.int32).numpy()),
    }


class SoftMaxForest(Decorator):
    """A mixture of :class:`SoftMaxTree` experts.

    Args:
        module: the mixture, built of the gater and the experts.

    Shape:
        - Input: ``[input, target]`` of shapes :math:`(N, D)` and :math:`(N)`.
        - Output: what the mixture gives.

    Lua:
        ``nn.SoftMaxForest(inputSize, trees, rootIds, gaterSize, gaterAct, accUpdate)``, SoftMaxForest.lua
    """


@lua_class("nn.SoftMaxForest")
class SoftMaxForestClass(DecoratorClass):
    torch_type = SoftMaxForest


@lua_class("nn.Dictionary")
class Dictionary(LookupTableClass):
    """A LookupTable that dpnn of 2015 had for sparse updates."""

    version = 1
