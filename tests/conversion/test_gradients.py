"""The gradient of every registered mapping is the derivative of what it computes, in double precision.

Of each leaf (the inputs that are no indices, and the parameters) the derivative along a random direction is compared
with the difference of two forwards, as ``torch.autograd.gradcheck`` does in its fast mode. Where Torch7's gradient is
another one by intent or by mistake, it is named here, and fails as soon as it no longer is.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mapping_examples import MAPPINGS, Call, ClassMapping, call, mapping_id
from torch import Tensor, nn

from dpnn_bridge import training
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.fields import record_of

STEP = 1e-6

#: reason -> Lua classes whose gradient is not the derivative. The docstring of each module says what it is instead;
#: fixtures and tests of formulas check that
OTHER_GRADIENT = {
    "that of the sum, of a mean": ("nn.CTCCriterion",),
    "a step, whose gradient passes as if it were none": (
        "bnn.Binary",
        "nn.BinActiveZ",
        "nn.SpatialBinaryConvolution",
    ),
    "bits, whose gradient is that of their probability": ("nn.BinaryStochastic",),
    "a bound, whose gradient passes beyond it": (
        "nn.Clip",
        "w2nn.ClippedMSECriterion",
        "w2nn.ClippedWeightedHuberCriterion",
        "w2nn.InplaceClip01",
        "w2nn.LBPCriterion",
    ),
    "returns its input, and changes or adds to the gradient": (
        "fbnn.ProjectiveGradientNormalization",
        "nn.CategoricalEntropy",
        "nn.ContentLoss",
        "nn.GradMultiply",
        "nn.GradientReversal",
        "nn.KLDPenalty",
        "nn.L1Penalty",
        "nn.RegularizeLayer",
        "AggregatedStyleLoss.Lua",
        "nn.TotalVariation",
        "nn.YHat",
        "nn.ZeroGrad",
        "w2nn.GradWeight",
    ),
    "the estimate of REINFORCE": (
        "nn.BinaryClassReward",
        "nn.RecurrentAttention",
        "nn.Reinforce",
        "nn.ReinforceBernoulli",
        "nn.ReinforceCategorical",
        "nn.ReinforceGamma",
        "nn.ReinforceNormal",
        "nn.VRClassReward",
        "nn.VRMSEReward",
    ),
    "the gradient is drawn with weights of its own": (
        "nn.ShakeShakeBlock",
        "nn.ShakeShakeTable",
        "w2nn.ShakeShakeTable",
    ),
    "no gradient for some of the inputs or parameters": (
        "fbnn.NormalizedLinearNoBias",
        "fbnn.SegSparseLinear",
        "fbnn.SparseLinear",
        "nn.BoxSamplerHelper",
        "nn.CriterionTable",
        "nn.DummyGradOutput",
        "nn.IndexLinear",
        "nn.InnerTripleShift",
        "nn.LinearNoBackprop",
        "nn.LinearizedConvolution",
        "nn.ModeSwitch",
        "nn.ModuleFromCriterion",
        "nn.NCECriterion",
        "nn.NoBP",
        "nn.NoBackprop",
        "nn.STMM",
        "nn.SharpMask",
        "nn.SparseLinear",
        "nn.SpatialGlimpse_inverse",
        "nn.SpatialSymmetricPadding",
        "nn.WeightedLookupTableSkinny",
        "nn.Window",
        "NoiseOverInput.Lua",
        "onmt.PositionEmbedding",
        "onmt.WordEmbedding",
    ),
    "Torch7's gradient is another one": (
        "nn.AdaLinearScale",
        "nn.Balance",
        "nn.BeamableMM",
        "nn.ContextRegion",
        "nn.ELU",
        "nn.Encoding",
        "nn.FasterLookup",
        "nn.Kmeans",
        "nn.LookupTableMaskZero",
        "nn.MaskAveTable",
        "nn.MaskedLoss",
        "nn.MatchTrans",
        "nn.MixtureCriterion",
        "RnnPadding.Lua",
        "nn.SpatialCircularPadding",
        "nn.TrimZero",
        "nnx.QDRiemaNNLinear",
    ),
    "computes in single precision": ("nn.Scale",),
}
#: reason -> Lua classes without a gradient in the example
NO_GRADIENT = {
    "returns indices, counts or draws": (
        "OneHot",
        "nn.ArgMax",
        "nn.Bigrams",
        "nn.BoxSampler",
        "nn.LookupTableOneHot",
        "DenseCapLanguageModel.Lua",
        "nn.MakeAnchors",
        "nn.OneHot",
        "nn.SelectBoxes",
    ),
    "lets no gradient through, as in Torch7": (
        "bnn.SpatialConvolution",
        "inn.MeanSubtraction",
        "nn.ConvertFrom",
        "nn.Foveal",
    ),
    "computes nothing": ("nn.Container", "nn.Criterion", "nn.Module"),
}
#: classes that no difference of two forwards can be taken of
UNCHECKED = {
    "DenseCapModel": "chooses boxes, and in training needs the true ones",
    "nn.LocalizationLayer": "chooses boxes, and in training needs the true ones",
    "nn.MaxCoord": "refuses backward, as in Torch7",
    "nn.SparseLinear": "a value of 0 may have the index 0, which a value that is moved may not",
    "nn.WeightedLookupTable": "its indices and weights stand in one tensor",
}


def listed(table: dict[str, tuple[str, ...]]) -> set[str]:
    return {name for names in table.values() for name in names}


class Slopes:
    """A call in double precision, whose inputs are moved away from the places where a function has a kink.

    Args:
        made: the call.
        whole: tensors of whole numbers are values too, and not indices.
    """

    def __init__(self, made: Call, *, whole: bool) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.module = copy.deepcopy(made.module).double().train()
        self.whole = whole
        first, *others = made.arguments
        self.arguments = [nested.map_tensors(self._moved, first), *(nested.cast(a, torch.float64) for a in others)]
        leaves = [t for t in nested.leaves(self.arguments[0]) if isinstance(t, Tensor) and self._is_value(t)]
        trained = [p for p in self.module.parameters() if p.requires_grad and p.is_floating_point()]
        self.leaves = [*(t.requires_grad_() for t in leaves), *trained]

    def _is_value(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or not tensor.numel():
            return False
        return self.whole or not bool((tensor.isfinite() & (tensor == tensor.round())).all())

    def _moved(self, tensor: Tensor) -> Tensor:
        """Other values of the same kind: probabilities stay ones, equal values do not stay equal."""
        if not self._is_value(tensor):
            return nested.cast(tensor, torch.float64)
        tensor = tensor.double().nan_to_num(posinf=1.0, neginf=-1.0)
        return 0.9 * tensor + 0.05 * self._random(tensor, torch.rand)

    def _random(self, like: Tensor, draw: Any = torch.randn) -> Tensor:
        return draw(like.shape, generator=self.generator, dtype=torch.float64)

    def outputs(self) -> tuple[nn.Module, list[Tensor]]:
        """A forward of a copy that has the same parameters and the same random numbers, and the copy."""
        kept = [*self.module.parameters(), *(r for m in self.module.modules() if (r := record_of(m)))]
        module = copy.deepcopy(self.module, {id(value): value for value in kept})
        output = Call(module, tuple(nested.map_tensors(Tensor.clone, self.arguments))).run()
        return module, [t for t in nested.leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]

    def differences(self) -> list[str] | None:
        """What the gradient of each leaf differs in; None where there is none."""
        module, outputs = self.outputs()
        trained = [t for t in outputs if t.requires_grad]
        if not trained or not self.leaves:
            return None
        training.reinforce(module, torch.ones(trained[0].shape[:1], dtype=torch.float64))
        weights = [self._random(t) for t in outputs]
        directions = [self._random(t) for t in self.leaves]
        chosen = [w for w, t in zip(weights, outputs, strict=True) if t.requires_grad]
        gradients = torch.autograd.grad(trained, self.leaves, chosen, allow_unused=True)
        found = []
        for leaf, direction, gradient in zip(self.leaves, directions, gradients, strict=True):
            expected = (self._moved_by(leaf, direction, weights) - self._moved_by(leaf, -direction, weights)) / 2 / STEP
            actual = 0.0 if gradient is None else float((gradient * direction).sum())
            if not abs(actual - expected) <= 1e-4 * max(abs(actual), abs(expected)) + 1e-6:
                found.append(f"leaf of shape {tuple(leaf.shape)}: {actual} is not {expected}")
        return found

    @torch.no_grad()
    def _moved_by(self, leaf: Tensor, direction: Tensor, weights: list[Tensor]) -> float:
        before = leaf.clone()
        leaf += STEP * direction
        value = sum(float((w * t).sum()) for w, t in zip(weights, self.outputs()[1], strict=True))
        leaf.copy_(before)
        return value


@pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)
def test_gradient_is_the_derivative(mapping: ClassMapping) -> None:
    made, names = call(mapping), {mapping.names[0], mapping.__qualname__}
    if made is None or mapping.names[0] in UNCHECKED:
        pytest.skip(UNCHECKED.get(mapping.names[0], "never runs"))
    found = Slopes(made, whole=False).differences()
    if found is None:
        found = Slopes(made, whole=True).differences()
    if names & listed(OTHER_GRADIENT):
        assert found, "its gradient is the derivative: take it out of OTHER_GRADIENT"
    elif names & listed(NO_GRADIENT):
        assert found is None, "it has a gradient: take it out of NO_GRADIENT"
    else:
        assert found == []


def test_only_classes_are_named() -> None:
    known = {name for mapping in MAPPINGS for name in (mapping.names[0], mapping.__qualname__)}
    assert (listed(OTHER_GRADIENT) | listed(NO_GRADIENT) | UNCHECKED.keys()) - known == set()
