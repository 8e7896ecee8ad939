"""Classes without a runnable Torch7: values worked out, place by place, from the rule in their source."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from formula import DOUBLE, agree, converted, leaf, linear, lua, random
from torch import Tensor, nn

from dpnn_bridge import training
from dpnn_bridge.conversion import registry, to_lua, to_torch
from dpnn_bridge.errors import ConversionError, UnsupportedClassError
from dpnn_bridge.loaders import loads
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.modules.dpnn import ReinforceNormal
from dpnn_bridge.modules.facebook.softmax import HSM
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.zoo.encoding import Encoding
from dpnn_bridge.zoo.pyramid_packer import PyramidPacker, PyramidUnPacker, resized
from dpnn_bridge.zoo.style_loss import StyleLoss


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


# ---------------------------------------------------------------------- fbnn: hierarchical softmax
MAPPING = [[1, 1], [2, 1], [1, 2], [2, 3], [2, 2]]  # cluster and place of five classes
HSM_NAMES = ("cluster_weight", "cluster_bias", "class_weight", "class_bias")
HIERARCHICAL_NAMES = ("clusterMatrix", "clusterBias", "classMatrix", "classBias")


def softmax_tensors() -> list[Tensor]:
    return [random(2, 3), random(2, seed=1), random(5, 3, seed=2), random(5, seed=3)]


def hierarchical_loss(x: Tensor, target: int) -> tuple[float, Tensor]:
    """Loss and gradient of the input for one sample; the rows of the clusters are 1 to 2 and 3 to 5."""
    cluster_weight, cluster_bias, class_weight, class_bias = softmax_tensors()
    cluster, place = (i - 1 for i in MAPPING[target - 1])
    rows = slice(0, 2) if cluster == 0 else slice(2, 5)
    loss, slope = 0.0, torch.zeros(3, dtype=DOUBLE)
    for weight, bias, wanted in (
        (cluster_weight, cluster_bias, cluster),
        (class_weight[rows], class_bias[rows], place),
    ):
        chances = torch.exp(weight @ x + bias)
        chances = chances / chances.sum()
        loss -= math.log(chances[wanted])
        slope += weight.T @ (chances - torch.eye(len(chances), dtype=DOUBLE)[wanted])
    return loss, slope


@pytest.mark.parametrize("base", [1, 0])
def test_hsm_sums_the_losses_of_cluster_and_class(base: int) -> None:
    tensors = dict(zip(HSM_NAMES, softmax_tensors(), strict=True))
    obj = lua("nn.HSM", mapping=torch.tensor(MAPPING), unk_index=0, **tensors)
    converted(obj)
    module, x, target = to_torch(obj, index_base=base), leaf(4, 3, seed=9), [1, 4, 5, 4]
    loss = module(x, torch.tensor(target) - 1 + base)
    expected = [hierarchical_loss(row, t) for row, t in zip(x.detach(), target, strict=True)]
    agree(loss, sum(value for value, _ in expected))
    loss.backward()
    assert x.grad is not None
    agree(x.grad, torch.stack([slope for _, slope in expected]))
    assert [p.shape for p in training.parameters(module)[0]] == [t.shape for t in tensors.values()]
    agree(module(x[1], torch.tensor(4 - 1 + base)), expected[1][0])
    obj["unk_index"] = 2
    with pytest.raises(ConversionError, match="expected unk_index 0"):
        to_torch(obj)


def test_a_new_hsm_holds_what_torch7_needs() -> None:
    obj = to_lua(HSM(torch.tensor(MAPPING), 3))
    numbers = {"n_classes": 5, "n_clusters": 2, "n_max_class_in_cluster": 3}
    assert {name: obj[name] for name in numbers} == numbers
    assert obj["class_start_indices"].torch().tolist() == [0, 2]
    assert obj["logLossCluster"]["sizeAverage"] is False
    assert isinstance(to_torch(obj), HSM)


def test_class_hierarchical_criterion_is_the_same_for_one_sample() -> None:
    tensors = dict(zip(HIERARCHICAL_NAMES, softmax_tensors(), strict=True))
    module = converted(lua("nn.ClassHierarchicalNLLCriterion", mapping=torch.tensor(MAPPING, dtype=DOUBLE), **tensors))
    x = random(3, seed=9)
    agree(module(x, 5), hierarchical_loss(x, 5)[0])


# ---------------------------------------------------------------------- fbnn: sparse inputs
def test_sparse_linear_of_fbnn_takes_keys_and_values() -> None:
    weight, bias, values = random(3, 6), random(3, seed=1), random(2, 2, seed=2)
    module = converted(lua("fbnn.SparseLinear", weight=weight, bias=bias, weightDecay=0))
    keys = torch.tensor([[2, 6], [1, 1]])
    first = weight[:, 1] * values[0, 0] + weight[:, 5] * values[0, 1] + bias
    second = weight[:, 0] * (values[1, 0] + values[1, 1]) + bias
    agree(module([keys, values]), torch.stack([first, second]))
    agree(module([keys[0], values[0]]), first)
    agree(module([keys[:1], values[:1]]), first)
    agree(module(torch.stack([keys.to(DOUBLE), values], 2)), torch.stack([first, second]))


def test_seg_sparse_linear_adds_the_entries_of_a_sample() -> None:
    weight, bias, values = random(6, 3), random(3, seed=1), leaf(4, seed=2)
    module = converted(lua("fbnn.SegSparseLinear", weight=weight, bias=bias))
    entries = [torch.tensor([1, 1, 3, 3]), torch.tensor([2, 6, 1, 2]), values]
    out, v = module(entries), values.detach()
    expected = torch.stack(
        [bias + v[0] * weight[1] + v[1] * weight[5], bias, bias + v[2] * weight[0] + v[3] * weight[1]]
    )
    agree(out, expected)
    assert module(entries, batch_size=5).shape == (5, 3)
    out.sum().backward()
    assert values.grad is None
    agree(module.weight.grad[1], (v[0] + v[3]).expand(3))


def test_sparse_threshold_leaves_indices_alone() -> None:
    threshold = lua("nn.Threshold", threshold=0.5, val=-1)
    x = torch.tensor([[0.2, 0.2], [0.3, 0.7]], dtype=DOUBLE, requires_grad=True)
    out = converted(lua("nn.SparseThreshold", module=threshold))(x)
    agree(out, [[0.2, -1], [0.3, 0.7]])
    out.backward(torch.tensor([[5.0, 6], [7, 8]], dtype=DOUBLE))
    assert x.grad is not None
    agree(x.grad, [[5, 0], [7, 8]])


def test_sparse_likelihood_takes_a_distribution() -> None:
    criterion = converted(lua("nn.SparseNLLCriterion", K=2, do_target_check=True, sizeAverage=True))
    x, shares = leaf(2, 4), torch.tensor([[0.25, 0.75], [1, 0]], dtype=DOUBLE)
    loss = criterion(x, [shares, torch.tensor([[4, 1], [2, 3]])])
    agree(loss, -(0.25 * x.detach()[0, 3] + 0.75 * x.detach()[0, 0] + x.detach()[1, 1]) / 2)
    loss.backward()
    assert x.grad is not None
    agree(x.grad, [[-0.375, 0, 0, -0.125], [0, -0.5, 0, 0]])
    with pytest.raises(ValueError, match="must sum to 1"):
        criterion(x, [shares * 2, torch.tensor([[4, 1], [2, 3]])])
    agree(criterion(x[1], [shares[1], torch.tensor([2, 3])]), -x.detach()[1, 1])


def test_faster_lookup_is_a_look_up_table() -> None:
    fields: dict[str, Any] = {"scaleGradByFreq": True, "skipBoundChecking": False, "concUpdates": False}
    module = converted(lua("nn.FasterLookup", weight=random(4, 2), count=torch.zeros(4, dtype=torch.int32), **fields))
    out = module(torch.tensor([3, 1, 3], dtype=torch.int32))
    agree(out, random(4, 2)[[2, 0, 2]])
    out.sum().backward()
    agree(module.weight.grad, [[1, 1], [0, 0], [1, 1], [0, 0]])


# ---------------------------------------------------------------------- fbnn: criterions
def test_true_likelihood_of_probabilities() -> None:
    x = torch.tensor([[0.2, 0.8], [0.5, 0.0]], dtype=DOUBLE)
    mean = to_torch(lua("nn.TrueNLLCriterion", sizeAverage=True))
    agree(mean(x, torch.tensor([2, 2])), -(math.log(0.8 + 1e-8) + math.log(1e-8)) / 2)
    total = to_torch(lua("nn.TrueNLLCriterion", sizeAverage=False), index_base=0)
    agree(total(x, torch.tensor([0, 0])), -(math.log(0.2 + 1e-8) + math.log(0.5 + 1e-8)))
    agree(mean(x[0], 1), -math.log(0.2 + 1e-8))


@pytest.mark.parametrize("base", [1, 0])
@pytest.mark.parametrize("kind", ["torch.DoubleTensor", "torch.CudaTensor"])
def test_likelihood_without_the_unknown_class_is_a_sum(base: int, kind: str) -> None:
    crit = lua("nn.ClassNLLCriterion", sizeAverage=True)
    obj = lua("nn.ClassNLLCriterionWithUNK", crit=crit, unk_index=2, tensortype=kind)
    assert converted(obj).unk_index == 2
    criterion, x = to_torch(obj, index_base=base), leaf(3, 4)
    loss = criterion(x, torch.tensor([1, 2, 4]) - 1 + base)
    agree(loss, -(x.detach()[0, 0] + x.detach()[2, 3]))
    loss.backward()
    assert x.grad is not None
    agree(x.grad, [[-1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1]])
    known = -(x.detach()[0, 0] + x.detach()[1, 2] + x.detach()[2, 3])
    agree(criterion(x, torch.tensor([1, 3, 4]) - 1 + base), known / (1 if "Cuda" in kind else 3))
    agree(criterion(x[0], 2 - 1 + base), 0)


def test_soft_plus_of_sums() -> None:
    x = leaf(2, 3)
    sums = x.detach().exp().sum(1)
    loss = to_torch(lua("nn.SoftPlusLSECriterion"))(x)
    agree(loss, (1 + sums).log().sum())
    loss.backward()
    assert x.grad is not None
    agree(x.grad, x.detach().exp() / (1 + sums)[:, None])
    agree(to_torch(lua("nn.SoftPlusLSEMinusLSECriterion"))(x), ((1 + sums).log() - sums.log()).sum())


# ---------------------------------------------------------------------- fbnn: other layers
def test_the_gradient_loses_its_part_along_the_input() -> None:
    module, x, g = converted(lua("fbnn.ProjectiveGradientNormalization", eps=1e-5)), leaf(2, 3), random(2, 3, seed=1)
    module(x).backward(g)
    d = x.detach() / x.detach().norm()
    assert x.grad is not None
    agree(x.grad, g - d * (d * g).sum())
    zero = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    module(zero).backward(g)
    assert zero.grad is not None
    agree(zero.grad, g)


def test_constant_of_fbnn_is_repeated() -> None:
    module, x = converted(lua("fbnn.Constant", value=random(2, 3))), leaf(4, 5)
    out = module(x)
    agree(out, random(2, 3).expand(4, 2, 3))
    out.sum().backward()
    assert x.grad is not None
    agree(x.grad, torch.zeros(4, 5))


def test_dropouts_of_fbnn() -> None:
    x = torch.ones(2000, 2, dtype=DOUBLE)
    plain = converted(lua("fbnn.Dropout", p=0.25))
    assert set(plain(x).unique().tolist()) == {0, 1}
    agree(plain.eval()(x), 0.75 * x)
    keep = torch.tensor([0.5, 1.0], dtype=DOUBLE)
    single = to_torch(lua("fbnn.IndividualDropout", p=keep, pgpu=keep.reshape(1, 2)))
    out = single(x)
    assert set(out[:, 0].tolist()) == {0, 2}
    agree(out[:, 1], x[:, 1])
    agree(single.eval()(x), x)
    back = to_lua(single)
    assert "pgpu" not in back
    assert torch.equal(back["p"].torch(), keep)


def test_a_probe_is_its_module() -> None:
    inner = linear(3, 2)
    module, x = converted(lua("fbnn.Probe", inner, name="a")), random(4, 3)
    agree(module(x), x @ random(2, 3).T + random(2, seed=1))


def test_unfolded_convolution_pads_in_time() -> None:
    weight, bias, x = random(2, 6), random(2, seed=1), random(1, 4, 3, seed=2)
    shared = [LuaTensor.from_numpy(t.numpy()) for t in (weight, bias)]
    inner = lua("nn.Linear")
    obj = lua("nn.UnfoldedTemporalConvolution", kW=2, dW=1, pad=1, inputFrameSize=3, outputFrameSize=2)
    for holder in (inner, obj):
        holder["weight"], holder["bias"] = shared
    obj["linear"] = inner
    module = converted(obj)
    padded = torch.cat([torch.zeros(1, 3, dtype=DOUBLE), x[0], torch.zeros(1, 3, dtype=DOUBLE)])
    expected = [weight @ torch.cat([padded[t], padded[t + 1]]) + bias for t in range(5)]
    agree(module(x)[0], torch.stack(expected))
    back = to_lua(module)
    assert back["linear"]["weight"] is back["weight"]


def test_locally_connected_has_a_kernel_for_each_place() -> None:
    sizes = {"nInputPlane": 2, "nOutputPlane": 3, "iW": 5, "iH": 4, "kW": 2, "kH": 3, "dW": 3, "dH": 1}
    weight, bias, x = random(3, 2, 2, 2, 3, 2), random(3, 2, 2, seed=1), random(1, 2, 4, 5, seed=2)
    obj = lua("nn.LocallyConnected", weight=weight, bias=bias, **sizes)
    expected = bias.clone()
    for o, i, j in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(2)).tolist():
        expected[o, i, j] += (weight[o, i, j] * x[0, :, i : i + 3, 3 * j : 3 * j + 2]).sum()
    agree(converted(obj)(x)[0], expected)
    obj["weight"] = LuaTensor.from_numpy(weight.float().numpy(), "torch.CudaTensor")
    with pytest.raises(ConversionError, match="another memory layout"):
        to_torch(obj)


def test_temporal_k_max_keeps_the_order() -> None:
    x = torch.tensor([[[1.0, 9], [5, 2], [3, 4], [4, 3], [0, 8]]], dtype=DOUBLE)
    module = converted(lua("nn.TemporalKMaxPooling", k=2, k_dynamic=-1))
    agree(module(x), [[[5, 9], [4, 8]]])
    module = converted(lua("nn.TemporalKMaxPooling", k=2, k_dynamic=0.5))  # 2.5, rounded up
    agree(module(x), [[[5, 9], [3, 4], [4, 8]]])
    agree(module(x[0]), [[5, 9], [3, 4], [4, 8]])


def test_rows_of_length_one() -> None:
    x = random(2, 3)
    agree(converted(lua("nn.L2Normalize"))(x), x / x.square().sum(1, keepdim=True).sqrt())
    assert "eye" not in to_lua(to_torch(lua("nn.L2Normalize", eye=torch.eye(2))))
    assert registry.find(lua("nn.L2Normalize", buffer=1.5, normSquared=2.25)) is None  # one norm for the whole batch


# ---------------------------------------------------------------------- MemNN
def test_a_skinny_table_multiplies_its_rows() -> None:
    weight = random(4, 3)
    obj = lua("nn.WeightedLookupTableSkinny", weight=weight, gradWeight=torch.zeros(10, 3, dtype=DOUBLE))
    module = to_torch(obj)
    pairs = torch.tensor([[2, 0.5], [4, -1], [2, 2]], dtype=DOUBLE)
    out = module(pairs)
    agree(out, torch.stack([weight[1] * 0.5, -weight[3], weight[1] * 2]))
    out.sum().backward()
    agree(module.weight.grad[:, 0], [0, 2.5, 0, -1])
    agree(module(torch.tensor([3.0, 1])), weight[[2, 0]])
    assert to_lua(module)["gradWeight"].shape == (10_000, 3)


def test_words_are_weighed_by_their_place() -> None:
    words, lengths = leaf(5, 3), torch.tensor([2.0, 3])
    module = converted(lua("nn.PositionalEncoder", forwardLen=True))
    out, same = module([words, lengths])
    factors = torch.zeros(5, 3, dtype=DOUBLE)
    for row, (j, length) in enumerate([(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]):
        for k in range(3):
            factors[row, k] = (1 - j / length) - (k + 1) / 3 * (1 - 2 * j / length)
    agree(out, words.detach() * factors)
    assert same is lengths
    out.sum().backward()
    assert words.grad is not None
    agree(words.grad, factors)
    agree(converted(lua("nn.PositionalEncoder"))([words, lengths]), words.detach() * factors)


def test_sentences_are_sums_of_words() -> None:
    words = leaf(5, 3)
    out = converted(lua("nn.SumVecarr"))([words, torch.tensor([2.0, 3])])
    agree(out, torch.stack([words.detach()[:2].sum(0), words.detach()[2:].sum(0)]))
    out.backward(torch.tensor([[1.0, 1, 1], [2, 2, 2]], dtype=DOUBLE))
    assert words.grad is not None
    agree(words.grad[:, 0], [1, 1, 2, 2, 2])


# ---------------------------------------------------------------------- e-lab
def test_rows_are_resized_as_image_scale_does() -> None:
    like = torch.zeros(1, dtype=DOUBLE)
    agree(resized(3, 5, like), [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    agree(resized(3, 2, like), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    agree(resized(2, 2, like), [[1, 0], [0, 1]])
    agree(resized(1, 3, like), [[1], [1], [1]])


def packer(class_name: str, **fields: Any) -> LuaObject:
    obj = lua(class_name, **fields)
    obj.header = (1.0, 0.5)
    return obj


def test_scales_stand_below_and_beside_each_other() -> None:
    module = converted(packer("nn.PyramidPacker", scales=LuaTable.from_list([1.0, 0.5, 0.25]), step_width=4))
    image = random(2, 8, 12)
    packed, boxes = module(image)
    agree(boxes, [[1, 1, 12, 8, 12, 8], [1, 9, 6, 12, 6, 4], [9, 9, 11, 10, 3, 2]])
    assert packed.shape == (2, 12, 12)
    agree(packed[:, :8], image)
    agree(packed[:, 8:12, :6], image.unflatten(2, (6, 2)).unflatten(1, (4, 2)).mean((2, 4)))
    agree(packed[:, 8:10, 8:11], image.unflatten(2, (3, 4)).unflatten(1, (2, 4)).mean((2, 4)))
    assert not packed[:, 8:, 6:8].any()
    assert not packed[:, 10:, 6:].any()


def test_maps_of_the_scales_are_cut_out() -> None:
    module = converted(packer("nn.PyramidUnPacker", step_width=4))
    boxes = torch.tensor([[1.0, 1, 60, 50, 60, 50], [1, 53, 50, 98, 50, 46], [53, 53, 98, 98, 46, 46]])
    features = random(2, 30, 30)
    parts = module([features, boxes])
    agree(parts[0], features[:, :2, :4])
    agree(parts[1], features[:, 13:14, :2])
    agree(parts[2], features[:, 13:14, 13:14])


def test_packers_go_through_a_file() -> None:
    obj = loads(dumps(packer("nn.PyramidPacker", scales=LuaTable.from_list([1.0, 0.5]))))
    assert obj.header == (1.0, 0.5)
    module = to_torch(loads(dumps(to_lua(to_torch(obj)))))
    assert isinstance(module, PyramidPacker)
    assert module.scales == [1.0, 0.5]
    assert isinstance(to_torch(to_lua(PyramidUnPacker())), PyramidUnPacker)


# ---------------------------------------------------------------------- face hallucination
def test_a_small_error_and_a_large_area_are_rewarded() -> None:
    criterion = lua("nn.VRMSEReward", scale=1, areaScale=3, sizeAverage=True, criterion=lua("nn.MSECriterion"))
    criterion["module"] = lua("nn.ReinforceNormal", stdev=0.5, stochastic=True)
    module = converted(criterion)
    assert isinstance(module.module, ReinforceNormal)
    module.image_size = (4, 5)
    image, target, attended = leaf(2, 3, 4, 5), random(2, 3, 4, 5, seed=1), torch.zeros(2, 1, 4, 5, dtype=DOUBLE)
    attended[0, 0, :2] = 1
    baseline = leaf(2, 1, seed=2)
    place = leaf(2, 2, seed=3)
    module.module(place)
    loss = module([image, attended, baseline], target)
    error = (image.detach() - target).square()
    agree(loss, error.mean())
    reward = 4 - error.sum((1, 2, 3)) / 20 + 3 * torch.tensor([0.5, 0], dtype=DOUBLE)
    loss.backward()
    agree(module.module.reward, (reward - baseline.detach()[:, 0]) / 2)
    assert image.grad is not None
    assert baseline.grad is not None
    assert not image.grad.any()
    agree(baseline.grad[:, 0], baseline.detach()[:, 0] - reward)


# ---------------------------------------------------------------------- neural-style
def test_content_is_compared_on_the_way() -> None:
    target, x, g = random(3, 2, 2), leaf(3, 2, 2, seed=1), random(3, 2, 2, seed=2)
    fields = {"strength": 5.0, "crit": lua("nn.MSECriterion"), "target": target}
    module = converted(lua("nn.ContentLoss", normalize=False, **fields))  # of before there were modes
    out = module(x)
    assert torch.equal(out, x)
    d = x.detach() - target
    agree(module.loss, 5 * d.square().mean())
    out.backward(g)
    assert x.grad is not None
    agree(x.grad, g + 5 * 2 * d / 12)
    x.grad = None
    converted(lua("nn.ContentLoss", normalize=True, mode="loss", **fields))(x).backward(g)
    agree(x.grad, g + 5 * d / (d.abs().sum() + 1e-8 * 6))
    x.grad = None
    converted(lua("nn.ContentLoss", mode="none", **fields))(x).backward(g)
    agree(x.grad, g)
    larger = leaf(3, 4, 4)
    module(larger).sum().backward()
    assert larger.grad is not None
    agree(larger.grad, torch.ones(3, 4, 4))
    module.target = target[:1]  # of other channels, not of a single sample
    x.grad = None
    module(x).backward(g)
    agree(x.grad, g)


def test_a_blend_of_styles_is_captured_and_compared() -> None:
    module = to_torch(to_lua(StyleLoss(nn.MSELoss(), to_torch(lua("nn.GramMatrix")), 2.0, mode="capture")))
    assert module.target is None
    module.blend_weight = 0.25
    first, second, x = random(3, 2, 2), random(3, 4, 2, seed=1), leaf(3, 2, 3, seed=2)
    grams = [t.detach().flatten(1) @ t.detach().flatten(1).T / t.numel() for t in (first, second, x)]
    module(first)
    module.blend_weight = 0.75
    module(second)
    agree(module.target, 0.25 * grams[0] + 0.75 * grams[1])
    module.mode, g = "loss", random(3, 2, 3, seed=3)
    again = converted(to_lua(module))
    again(x).backward(g)
    d = grams[2] - module.target
    agree(again.loss, 2 * d.square().mean())
    assert x.grad is not None
    agree(x.grad, g + 2 * (2 * (2 * d / 9) @ x.detach().flatten(1) / 18).reshape(3, 2, 3))
    module.blend_weight, module.mode = None, "capture"
    module(first)
    agree(module.target, grams[0])


def test_one_style_serves_a_batch() -> None:
    mean = {"dimension": 3, "nInputDims": -1, "sizeAverage": True, "squeeze": True}
    agg = lua("nn.Sequential", lua("nn.Mean", **mean), lua("nn.Mean", **mean))
    target, x = random(1, 3), leaf(2, 3, 2, 2, seed=1)
    fields = {"strength": 3.0, "crit": lua("nn.MSECriterion"), "target": target, "agg_type": "mean"}
    module = converted(lua("nn.StyleLoss", mode="loss", agg=agg, **fields))
    output = module(x)
    agree(output, x.detach())
    output.backward(torch.zeros(2, 3, 2, 2, dtype=DOUBLE))
    d = x.detach().mean((2, 3)) - target
    agree(module.loss, 3 * d.square().mean())
    assert x.grad is not None
    agree(x.grad, (3 * 2 * d / 6 / 4)[:, :, None, None].expand(2, 3, 2, 2))
    with pytest.raises(UnsupportedClassError, match="StyleLoss"):
        to_torch(lua("nn.StyleLoss", strength=1.0, targets=LuaTable()))  # a variant with masks


def test_content_of_an_inference_is_compared() -> None:
    target = random(3, 2, 2)
    module = converted(lua("nn.ContentLoss", strength=5.0, crit=lua("nn.MSECriterion"), target=target))
    with torch.inference_mode():
        x = random(3, 2, 2, seed=1)
        assert torch.equal(module(x), x)
        module.mode = "capture"
        module(x)
    agree(module.loss, 5 * (x - target).square().mean())
    module.mode, y = "loss", leaf(3, 2, 2, seed=2)
    module(y).sum().backward()  # a target captured in inference is compared in training
    assert y.grad is not None
    agree(y.grad, 1 + 5 * 2 * (y.detach() - x) / 12)
