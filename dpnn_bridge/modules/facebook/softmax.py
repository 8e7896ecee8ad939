"""Hierarchical softmax losses of fbnn: a softmax over clusters, then one over the classes of a cluster."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import Field, record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.criterion_classification import ClassNLLCriterion
from dpnn_bridge.modules.nn.indices import rows_at
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("nn.HSM")
class HSM(nn.Module):
    """Negative log likelihood of a class: the loss of its cluster plus the loss of the class in the cluster.

    Args:
        mapping: cluster of each class, and index of the class in the cluster, both from 1; shape :math:`(C, 2)`.
        in_features: number of input features, :math:`D`.
        index_base: index of the first class.

    Attributes:
        cluster_weight, cluster_bias: parameters of shapes :math:`(clusters, D)` and :math:`(clusters)`.
        class_weight, class_bias: parameters of shapes :math:`(C, D)` and :math:`(C)`, sorted by cluster.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`; target :math:`(N)`, or one number.
        - Output: scalar, the sum over the samples.

    Differs from Torch7:
        Torch7's CPU code approximates the exponential function with an error of up to 1e-8.

    Lua:
        ``nn.HSM(mapping, input_size)``, fbnn HSM.lua; ``nn.ClassHierarchicalNLLCriterion(mapping, clusterCounts,
        inputSize)``, fbnn ClassHierarchicalNLLCriterion.lua, which accepts only single samples
    """

    mapping: Tensor
    cluster_weight: nn.Parameter
    cluster_bias: nn.Parameter
    class_weight: nn.Parameter
    class_bias: nn.Parameter

    def __init__(self, mapping: Tensor, in_features: int, index_base: int = 1, device: Any = None) -> None:
        super().__init__()
        self.register_buffer("mapping", mapping.to(device, torch.long), persistent=False)
        self.in_features, self.index_base = in_features, index_base
        self.counts = torch.bincount(mapping[:, 0].long() - 1).tolist()  # number of classes in each cluster
        self.bounds = [0, *accumulate(self.counts)]
        for name, rows in (("cluster", len(self.counts)), ("class", len(mapping))):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(rows, in_features, device=device)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(rows, device=device)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from a normal distribution with standard deviation 0.1, as in fbnn."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self, input: Tensor, target: Tensor | int) -> Tensor:
        x = input.reshape(-1, self.in_features)
        classes = torch.as_tensor(target, device=x.device).reshape(-1).long() - self.index_base
        cluster, position = (rows_at(self.mapping, classes, self.index_base) - 1).unbind(1)
        loss = F.cross_entropy(F.linear(x, self.cluster_weight, self.cluster_bias), cluster, reduction="sum")
        for c in cluster.unique().tolist():
            rows, selected = slice(*self.bounds[c : c + 2]), cluster == c
            scores = F.linear(x[selected], self.class_weight[rows], self.class_bias[rows])
            loss = loss + F.cross_entropy(scores, position[selected], reduction="sum")
        return loss

    def extra_repr(self) -> str:
        return f"{self.in_features}, clusters={len(self.counts)}, classes={len(self.mapping)}"

    class Lua(LuaClass):
        tensors = {
            "cluster_weight": Field("cluster_weight", grad="cluster_grad_weight"),
            "cluster_bias": Field("cluster_bias", grad="cluster_grad_bias"),
            "class_weight": Field("class_weight", grad="class_grad_weight"),
            "class_bias": Field("class_bias", grad="class_grad_bias"),
        }
        scratch = ("cluster_score", "cluster_logsum", "class_score", "class_logsum")
        constants = {
            **dict.fromkeys(scratch, LuaTensor.empty),
            "batch_size": 0,
            "unk_index": 0,
        }
        checked_by = "formula"
        test = "test_hsm_sums_the_losses_of_cluster_and_class"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            if obj.get("unk_index") not in (None, 0):
                raise ctx.error(f"expected unk_index 0, found {obj['unk_index']}; fbnn supports only 0", obj)
            weight = obj["cluster_weight" if "cluster_weight" in obj else "clusterMatrix"]
            sizes = {"mapping": obj["mapping"].torch(), "in_features": weight.shape[1]}
            return {**sizes, "index_base": ctx.index_base}

        @classmethod
        def to_lua(cls, module: HSM, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is not None:
                return fields
            counts = torch.tensor(module.counts)
            return {
                **fields,
                "mapping": ctx.constant(module.mapping, module),
                "logSMCluster": ctx.to_lua(nn.LogSoftmax(1)),
                "logLossCluster": ctx.to_lua(ClassNLLCriterion(reduction="sum")),
                "n_classes": len(module.mapping),
                "n_clusters": len(counts),
                "n_max_class_in_cluster": max(module.counts),
                "n_class_in_cluster": ctx.constant(counts, module),
                "class_start_indices": ctx.constant(counts.cumsum(0) - counts, module),
                "tmp_ones": ctx.constant(torch.ones(1, dtype=module.class_bias.dtype), module),
            }


@lua_class("nn.ClassHierarchicalNLLCriterion")
class ClassHierarchicalNLLCriterionClass(HSM.Lua):
    tensors = {
        "clusterMatrix": Field("cluster_weight", grad="clusterMatrixDx"),
        "clusterBias": Field("cluster_bias", grad="clusterBiasDx"),
        "classMatrix": Field("class_weight", grad="classMatrixDx"),
        "classBias": Field("class_bias", grad="classBiasDx"),
    }
    test = "test_class_hierarchical_criterion_is_the_same_for_one_sample"
    scratch = ()
    import_only = True  # nn.HSM also accepts batches
