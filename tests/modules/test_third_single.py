"""Classes of single research packages: values worked out, place by place, from the rule in their Lua source."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from formula import DOUBLE, agree, converted, leaf, linear, lua, random
from torch import Tensor, nn

from dpnn_bridge.checkpoints import find
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nnx.lookup import NarrowLookupTable
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.zoo import attribute_to_image, dqn, msg_net, ptn, shift_net, stmn
from dpnn_bridge.zoo.stn import AffineGridGeneratorBHWD


# ---------------------------------------------------------------------- multipathnet
def test_bbox_norm_scales_in_evaluation_only() -> None:
    mean, std, x = random(1, 4), random(1, 4, seed=1), random(3, 8, seed=2)
    module = converted(lua("nn.BBoxNorm", mean=mean, std=std))
    assert not module.training  # a file without the field `train`
    agree(module.train()(x), x)
    expected = [[float(x[i, j] * std[0, j % 4] + mean[0, j % 4]) for j in range(8)] for i in range(3)]
    agree(module.eval()(x), expected)


@pytest.mark.parametrize("fields", [{"modules": LuaTable.from_list([linear(3, 2)])}, {"inner": linear(3, 2)}])
def test_nothing_is_trained_behind_no_backprop(fields: dict[str, Any]) -> None:
    obj = lua("nn.NoBackprop", **fields)
    obj.version = 2 if "modules" in fields else 1
    module, x = to_torch(obj), leaf(4, 3)
    assert to_lua(module).version == 2
    out = module(x)
    agree(out, x.detach() @ random(2, 3).T + random(2, seed=1))
    (out * 2).sum().backward()
    assert x.grad is not None
    agree(x.grad, torch.zeros(4, 3))
    assert all(p.grad is None for p in module.parameters())


def test_mode_switch_leaves_parameters_alone() -> None:
    module, x = converted(lua("nn.ModeSwitch", linear(3, 2), lua("nn.Tanh"))), leaf(4, 3)
    module(x).sum().backward()
    assert x.grad is not None
    agree(x.grad, random(2, 3).sum(0).expand(4, 3))
    assert all(p.grad is None for p in module.parameters())
    agree(module.eval()(x), x.detach().tanh())


def test_regions_around_boxes() -> None:
    box = torch.tensor([[2.0, 10, 20, 30, 60]], dtype=DOUBLE)  # 20 x 40
    rows = [[2, 10, 20, 30, 60], [2, 5, 10, 35, 70], [2, 0, 0, 40, 80], [2, -20, -40, 60, 120]]
    agree(converted(lua("nn.Foveal"))(box), rows)
    a, b = (1 + 1.5) / 2, (1 - 1.5) / 2
    tr = torch.tensor([[a, 0, b, 0], [0, a, 0, b], [b, 0, a, 0], [0, b, 0, a]], dtype=DOUBLE)
    module, boxes = converted(lua("nn.ContextRegion", tr=tr)), box.clone().requires_grad_()
    out = module(boxes)
    agree(out, [[2, 5, 10, 35, 70]])
    out.sum().backward()
    assert boxes.grad is not None
    assert not boxes.grad.any()


def test_select_boxes_takes_those_of_the_best_class() -> None:
    scores, boxes = torch.tensor([[0.1, 0.9], [0.8, 0.2]], dtype=DOUBLE), random(2, 8)
    expected = torch.stack([boxes[0, 4:], boxes[1, :4]])
    agree(converted(lua("nn.SelectBoxes"))([scores, boxes]), expected)
    mean, std = random(1, 4, seed=1), random(1, 4, seed=2)
    agree(converted(lua("nn.SelectBoxes", mean=mean, std=std))([scores, boxes]), expected * std + mean)


def test_convert_from_moves_and_scales_boxes() -> None:
    rois = torch.tensor([[1.0, 0, 0, 10, 20]], dtype=DOUBLE)
    shift = torch.tensor([[0.5, -0.25, math.log(2), 0]], dtype=DOUBLE)
    agree(converted(lua("nn.ConvertFrom"))([rois, shift]), [[1, 0, -5, 20, 15]])  # centre (10, 5), size (20, 20)


def test_a_large_batch_runs_in_parts() -> None:
    module, x = converted(lua("nn.SequentialSplitBatch", linear(3, 2), batch_size=2)), random(5, 3)
    sizes = []
    next(module.children()).register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    agree(module(x), x @ random(2, 3).T + random(2, seed=1))
    assert sizes == [2, 2, 1]
    pair = LuaTable.from_list([lua("nn.SelectTable", index=2)])
    assert converted(lua("nn.SequentialSplitBatch", batch_size=2, modules=pair))([random(1), x]).shape == (5, 3)


def test_box_regression_counts_the_class_of_the_target() -> None:
    criterion, x = to_torch(lua("nn.BBoxRegressionCriterion", sizeAverage=False)), leaf(2, 12)
    target = torch.zeros(2, 12, dtype=DOUBLE)
    target[0, 8:] = random(4, seed=3)
    loss = criterion(x, [torch.tensor([3.0, 1.0]), target])
    d = (x.detach() - target)[0, 8:]
    agree(loss, sum(0.5 * v * v if abs(v) < 1 else abs(v) - 0.5 for v in d.tolist()) / 2)
    loss.backward()
    full = torch.zeros(2, 12, dtype=DOUBLE)  # Torch7 derives at the masked input, which it does not mask again
    full[0, 8:] = d.clamp(-1, 1) / 2
    assert x.grad is not None
    agree(x.grad, full)


# ---------------------------------------------------------------------- STMN
def test_ada_linear_scale_sets_its_bound_from_the_positive_elements() -> None:
    module = converted(lua("nn.AdaLinearScale", std_multiplier=0.5))
    x = torch.tensor([-1.0, 1, 2, 6], dtype=DOUBLE, requires_grad=True)
    bound = 3 + 0.5 * math.sqrt((4 + 1 + 9) / 2)
    out = module(x)
    agree(out, [0, 1 / bound, 2 / bound, 1])
    out.sum().backward()
    assert x.grad is not None
    agree(x.grad, [0, 1 / bound, 1 / bound, 0])
    agree(module(torch.tensor([-1.0, -2])), [0, 0])
    agree(module(torch.tensor([-1.0, 0.5])), [0, 0.5])


def test_match_trans_averages_what_looks_alike() -> None:
    module = converted(lua("nn.MatchTrans", K=3, epsilon=1e-8))
    now, before, features = (leaf(1, 2, 2, 3, seed=s) for s in range(3))
    with torch.no_grad():
        before[0, :, 0, 0] = now[0, :, 0, 0] = -now[0, :, 0, 1]
    out = module([now, before, features])
    expected, slope = torch.zeros(1, 2, 2, 3, dtype=DOUBLE), torch.zeros(1, 2, 2, 3, dtype=DOUBLE)
    g = random(1, 2, 2, 3, seed=9)
    for y in range(2):
        for x in range(3):
            near = [(a, b) for a in range(y - 1, y + 2) for b in range(x - 1, x + 2) if 0 <= a < 2 and 0 <= b < 3]
            cosine = {}
            for a, b in near:
                u, v = now[0, :, y, x].detach(), before[0, :, a, b].detach()
                cosine[a, b] = max(0.0, float(u @ v) / (float(u.norm()) + 1e-8) / (float(v.norm()) + 1e-8))
            mass = sum(cosine.values())
            for place, c in cosine.items():
                weight = c / mass if mass >= 1e-7 else float(place == (y, x))
                expected[0, :, y, x] += weight * features[0, :, place[0], place[1]].detach()
                slope[0, :, place[0], place[1]] += weight * g[0, :, y, x]
    agree(out, expected)
    out.backward(g)
    assert features.grad is not None
    agree(features.grad, slope)
    for map in (now, before):
        assert map.grad is not None
        assert not map.grad.any()


def test_vid_flip_and_fixed_index() -> None:
    x = random(6, 2, 1, 1)
    agree(converted(lua("nn.VidFlip", N=2, T=3))(x), x[[2, 1, 0, 5, 4, 3]])
    module = converted(lua("nn.FixedIndex", dimension=2, index=torch.tensor([2, 1, 1])))
    agree(module(x), x[:, [1, 0, 0]])
    floats = torch.tensor([2.0, 1, 1])  # after a cast to CUDA in Lua
    agree(to_torch(lua("nn.FixedIndex", dimension=2, index=floats))(x), x[:, [1, 0, 0]])


def test_stmm_runs_its_cell_over_the_frames() -> None:
    """The cell here adds the frame, twice the frame before and half the memory."""

    class Cell(nn.Module):
        def forward(self, input: list[Tensor]) -> list[Tensor]:
            now, before, memory = input
            return [now + 2 * before + memory / 2, now, now]

    module = stmn.STMM(Cell(), videos=1, frames=3, in_channels=1, memory_channels=1)
    x, start = leaf(3, 1, 1, 1), leaf(1, 1, 1, 1, seed=1)
    a, b, c = x.detach().flatten().tolist()
    first = 3 * a + start.item() / 2
    second = b + 2 * a + first / 2
    out = module([x, start])
    agree(out.flatten(), [first, second, c + 2 * b + second / 2])
    out[2].sum().backward()
    assert start.grad is not None
    agree(start.grad.flatten(), [0.125])
    agree(module(x)[0].flatten(), [3 * a])


def test_rois_name_their_image() -> None:
    """One cell per box: the mean of four samples of a map that grows by 1 per column and 10 per row."""
    box_to_affine = lua("nn.BoxToAffine")
    branch = lua("nn.Sequential", box_to_affine, to_lua(AffineGridGeneratorBHWD(2, 2).double()))

    def swapped(*pairs: tuple[int, int]) -> LuaObject:
        return lua("nn.Transpose", permutations=LuaTable.from_list([LuaTable.from_list(p) for p in pairs]))

    pool = lua("nn.SpatialAveragePooling", kW=2, kH=2, dW=2, dH=2, padW=0, padH=0, ceil_mode=False, divide=True)
    parallel = lua("nn.ParallelTable", swapped((1, 2), (2, 3)), branch)
    net = lua("nn.Sequential", parallel, lua("nn.BatchBilinearSamplerBHWD"), swapped((3, 4), (2, 3)), pool)
    parts = {"net": net, "box_branch": branch, "box_to_affine": box_to_affine}
    module = converted(lua("nn.BilinearRoiPooling", height=1, width=1, spatial_scale=1, **parts))
    assert type(module) is stmn.ImageRoiPooling
    plane = torch.arange(5, dtype=DOUBLE) + 10 * torch.arange(5, dtype=DOUBLE)[:, None]
    features = torch.stack([plane, plane + 1000])[:, None].clone().requires_grad_()
    rois = torch.tensor([[2, 1, 1, 2, 2], [1, 2, 1, 3, 2]], dtype=DOUBLE, requires_grad=True)
    out = module([features, rois])
    assert out.shape == (2, 1, 1, 1)
    assert (out[0] - out[1]).item() == pytest.approx(1000 - 1)  # another image; one column to the left
    out.sum().backward()
    assert rois.grad is not None
    assert not rois.grad.any()
    assert features.grad is not None
    agree(features.grad.sum((1, 2, 3)), [1, 1])


# ---------------------------------------------------------------------- perspective transformer nets
def test_perspective_grid_maps_every_point() -> None:
    base, matrices = random(2, 3, 4, 4), random(2, 4, 4, seed=1)
    module = converted(lua("nn.PerspectiveGridGenerator", depth=2, height=3, width=4, baseGrid=base))
    out = module(matrices)
    for b, z, y, x in np.ndindex(2, 2, 3, 4):
        agree(out[b, z, y, x], matrices[b] @ base[z, y, x])
    agree(module(matrices[0]), out[0])


def test_perspective_sampler_is_trilinear_with_zeros_outside() -> None:
    module = converted(lua("nn.BilinearSamplerPerspective", focal_length=1.5))
    volume, grid = leaf(1, 3, 4, 5, 2), (random(1, 2, 2, 2, 4, seed=1) * 0.8).requires_grad_()
    out = module([volume, grid])
    sizes, values = (3, 4, 5), volume.detach()[0]
    for z, y, x in np.ndindex(2, 2, 2):
        place = [(grid[0, z, y, x, k].item() + 1) * (n - 1) / 2 for k, n in enumerate(sizes)]
        low = [math.floor(p) for p in place]
        expected = torch.zeros(2, dtype=DOUBLE)
        for corner in np.ndindex(2, 2, 2):
            at = tuple(a + c for a, c in zip(low, corner, strict=True))
            if all(0 <= i < n for i, n in zip(at, sizes, strict=True)):
                weights = [p - a if c else 1 - (p - a) for p, a, c in zip(place, low, corner, strict=True)]
                expected += math.prod(weights) * values[at]
        agree(out[0, z, y, x], expected)
    assert torch.autograd.gradcheck(lambda v, g: module([v, g]), (volume, grid))
    out.sum().backward()
    assert grid.grad is not None
    assert not grid.grad[..., 3].any()
    assert isinstance(module, ptn.BilinearSamplerPerspective)


# ---------------------------------------------------------------------- attr2img
def test_linear_maps_of_two_inputs() -> None:
    weight, bias, sigma, sigma_bias = random(2, 5), random(2, seed=1), random(2, 3, seed=2), random(2, seed=3)
    sizes = {"inputSize_x": 3, "inputSize_y": 2, "outputSize": 2, "weight": weight, "bias": bias}
    x, y = random(4, 3, seed=4), random(4, 2, seed=5)
    mean = x @ weight[:, :3].T + y @ weight[:, 3:].T + bias
    agree(converted(lua("nn.LinearMix", **sizes))([x, y]), mean)
    mix = converted(lua("nn.LinearMix2", weight_sigma=sigma, bias_sigma=sigma_bias, **sizes))
    out = mix([x, y])
    agree(out[0], mean)
    agree(out[1], x @ sigma.T + sigma_bias)
    assert [len(to_lua(mix)[name]) for name in ("output", "gradInput")] == [2, 2]  # Torch7 resizes what is there
    assert [name for name, _ in mix.named_parameters()] == ["weight", "bias", "weight_sigma", "bias_sigma"]


def test_gaussian_code_is_two_linear_maps() -> None:
    def layer(seed: int) -> LuaObject:
        return lua("nn.LinearWP", inputSize=3, weight=random(2, 3, seed=seed), bias=random(2, seed=seed + 1))

    module = converted(lua("nn.LinearGaussian", inputSize=3, outputSize=2, mean_layer=layer(0), sigma_layer=layer(5)))
    x = random(4, 3)
    mean, sigma = module(x)
    agree(mean, x @ random(2, 3).T + random(2, seed=1))
    agree(sigma, x @ random(2, 3, seed=5).T + random(2, seed=6))
    with pytest.raises(ConversionError, match=r"nn\.LinearGaussian"):
        to_torch(lua("nn.LinearGaussian", weight=random(2, 3), bias=random(2)))


@pytest.mark.parametrize("name", ["nn.SpatialConvolutionUpsample", "cudnn.SpatialConvolutionUpsample"])
def test_upsampling_convolution_reads_planes_in_a_row(name: str) -> None:
    weight, bias, x = random(8, 3, 3, 3), random(8, seed=1), random(2, 3, 4, 5, seed=2)
    sizes = {"nInputPlane": 3, "nOutputPlane": 8, "kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1}
    module = converted(lua(name, factor=2, nInputPlaneU=3, nOutputPlaneU=2, weight=weight, bias=bias, **sizes))
    plain = nn.functional.conv2d(x, weight, bias, padding=1)
    agree(module(x), torch.stack([p.flatten().view(2, 8, 10) for p in plain]))
    agree(module(x[0]), plain[0].flatten().view(2, 8, 10))


def test_reparametrize_draws_around_the_mean() -> None:
    module = converted(lua("nn.Reparametrize", dimension=3))
    assert isinstance(module, attribute_to_image.Reparametrize)
    mean, log_variance, eps = leaf(2, 3), leaf(2, 3, seed=1), random(2, 3, seed=2)
    out = module.sampled([mean, log_variance], eps)
    agree(out, mean.detach() + (log_variance.detach() / 2).exp() * eps)
    out.sum().backward()
    assert log_variance.grad is not None
    agree(log_variance.grad, (log_variance.detach() / 2).exp() * eps / 2)
    torch.manual_seed(0)
    eps = torch.randn(2, 3, dtype=DOUBLE)
    torch.manual_seed(0)
    agree(module([mean, log_variance]), mean.detach() + (log_variance.detach() / 2).exp() * eps)


# ---------------------------------------------------------------------- skip-thoughts
def test_masked_rows_take_the_first_rows_of_the_output_before() -> None:
    module = converted(lua("nn.MaskZeroCopy", linear(2, 3), nInputDim=1))
    weight, bias = random(3, 2), random(3, seed=1)
    x = random(3, 2, seed=2)
    x[1] = 0
    first = x @ weight.T + bias  # nothing to copy yet: the masked row is the bias
    agree(module(x), first)
    y = random(3, 2, seed=3)
    y[1:] = 0
    again = to_torch(to_lua(module))  # the output before travels with the file
    for net in (module, again):
        out = net(y.clone().requires_grad_())
        agree(out, torch.stack([y[0] @ weight.T + bias, first[0], first[1]]))


def test_grust_gates_what_comes_from_the_state() -> None:
    inner = lua("nn.Sequential", lua("nn.CAddTable", inplace=False))
    obj = lua("nn.GRUST", inputSize=2, outputSize=2, rho=5, p=0, mono=False, step=1, recurrentModule=inner)
    module = to_torch(obj)
    x = random(3, 2)
    agree(module(x), x)  # the state starts from zeros
    agree(module(x), 2 * x)
    assert to_lua(module).class_name == "nn.GRUST"


# ---------------------------------------------------------------------- MSG-Net
@pytest.mark.parametrize(("fields", "divisor"), [({"normalize": True}, 24), ({"normalize": False}, 1), ({}, 1)])
def test_gram_matrix(fields: dict[str, Any], divisor: int) -> None:
    module, x = to_torch(lua("nn.GramMatrix", **fields)), leaf(2, 2, 3, 4)
    out = module(x)
    rows = x.detach().view(2, 2, 12)
    for n, i, j in np.ndindex(2, 2, 2):
        agree(out[n, i, j], float(rows[n, i] @ rows[n, j]) / divisor)
    agree(module(x[0]), out[0].detach())
    g = random(2, 2, 2, seed=1)
    out.backward(g)
    assert x.grad is not None
    agree(x.grad.view(2, 2, 12), (g @ rows + g.transpose(1, 2) @ rows) / divisor)


def test_calibrate_remembers_the_gram_matrix() -> None:
    module = to_torch(lua("nn.Calibrate", calibrator=lua("nn.GramMatrix", normalize=True)))
    assert isinstance(module, msg_net.Calibrate)
    x = random(1, 2, 3, 4)
    assert module(x) is x
    agree(module.gram, x.view(2, 12) @ x.view(2, 12).T / 24)


def test_inspiration_mixes_maps_by_weight_and_target() -> None:
    weight, target, x = random(2, 2), random(2, 2, seed=1), random(2, 2, 3, 4, seed=2)
    module = converted(lua("nn.Inspiration", C=2, Weight=weight, target=target))
    p = weight @ target
    for n in range(2):
        agree(module(x)[n], (p.T @ x[n].view(2, 12)).view(2, 3, 4))
    agree(module(x[1]), module(x)[1])
    assert not list(module.parameters())
    assert {"MM_WG", "MM_PX"} <= {*to_lua(msg_net.Inspiration(2))}


# ---------------------------------------------------------------------- Shift-Net
def test_max_coord_marks_the_largest_channel() -> None:
    module, x = converted(lua("nn.MaxCoord", inplace=False)), leaf(1, 3, 2, 2)
    out = module(x)
    for y, z in np.ndindex(2, 2):
        agree(out[0, :, y, z], [float(c == int(x[0, :, y, z].argmax())) for c in range(3)])
    with pytest.raises(RuntimeError, match="no backward"):
        out.sum().backward()


def test_shift_fills_the_missing_part() -> None:
    options = {"shift_size": 1, "stride": 1, "threshold": 0.5, "mask_thred": 1, "triple_w": 0.7, "fixed_mask": True}
    module = converted(lua("nn.InnerTripleShift", cls="shift", **options))
    assert isinstance(module, shift_net.InnerTripleShift)
    x = random(2, 5, 3, 3)
    x[:, 4] = 0
    x[:, 4, 1, 1:] = 1  # two places are missing
    x.requires_grad_()
    out, g = module(x), random(2, 6, 3, 3, seed=1)
    expected = torch.cat([x.detach()[:, :4], torch.zeros(2, 2, 3, 3, dtype=DOUBLE)], 1)
    slope = torch.cat([g[:, :4], torch.zeros(2, 1, 3, 3, dtype=DOUBLE)], 1)
    known = [(a, b) for a in range(3) for b in range(3) if not (a == 1 and b >= 1)]
    for n in range(2):
        for place in ((1, 1), (1, 2)):
            wanted = x.detach()[n, :2, place[0], place[1]]
            offers = {q: x.detach()[n, 2:4, q[0], q[1]] for q in known}
            best = max(known, key=lambda q: float(wanted @ offers[q]) / float(offers[q].norm()))
            expected[n, 4:, place[0], place[1]] = offers[best]
            slope[n, 2:4, best[0], best[1]] += 0.7 * g[n, 4:, place[0], place[1]]
    agree(out, expected)
    out.backward(g)
    assert x.grad is not None
    agree(x.grad, slope)
    with pytest.raises(ConversionError, match="shift_size"):
        to_torch(lua("nn.InnerTripleShift", cls="shift", **{**options, "shift_size": 3}))


# ---------------------------------------------------------------------- face hallucination
@pytest.mark.parametrize("residual", [False, True])
def test_a_patch_goes_back_where_the_glimpse_was(residual: bool) -> None:
    module = converted(lua("nn.SpatialGlimpse_inverse", height=3, width=4, residual=residual))
    image, patch = leaf(3, 2, 5, 6), leaf(3, 2, 3, 4, seed=1)
    place = torch.tensor([[-1.0, -1], [0.3, -0.2], [2, 1]], dtype=DOUBLE, requires_grad=True)
    out, g = module([image, patch, place]), random(3, 2, 5, 6, seed=2)
    expected, slope = torch.zeros(3, 2, 5, 6, dtype=DOUBLE), torch.zeros(3, 2, 3, 4, dtype=DOUBLE)
    for n in range(3):
        padded, grads = torch.zeros(2, 7, 8, dtype=DOUBLE), torch.zeros(2, 7, 8, dtype=DOUBLE)  # one on each side
        if not residual:
            padded[:, 1:6, 1:7] = image.detach()[n]
        grads[:, 1:6, 1:7] = g[n]
        top = int(min(4.0, max(0.0, (place[n, 0].item() + 1) / 2 * 4)))
        left = int(min(4.0, max(0.0, (place[n, 1].item() + 1) / 2 * 4)))
        padded[:, top : top + 3, left : left + 4] = patch.detach()[n]
        expected[n], slope[n] = padded[:, 1:6, 1:7], grads[:, top : top + 3, left : left + 4]
    agree(out, expected)
    images, single = torch.zeros(21, 1, 11, 11), torch.linspace(-1, 1, 21).expand(2, 21).t()
    pasted = to_torch(to_lua(module))([images, torch.ones(21, 1, 3, 4), single])
    tops = [int((p.double() + 1) / 2 * 10) for p in single[:, 0]]  # numbers of Lua have double precision
    assert [max(0, t - 1) for t in tops] == [int(row.nonzero()[0]) for row in pasted.sum((1, 3))]
    out.backward(g)
    assert image.grad is not None
    assert patch.grad is not None
    assert place.grad is not None
    agree(patch.grad, slope)
    agree(image.grad, torch.zeros_like(g) if residual else g)
    assert not place.grad.any()
    assert len(to_lua(module)["gradInput"]) == 3


# ---------------------------------------------------------------------- objects that are not modules
def test_the_network_of_an_agent_is_found() -> None:
    agent = lua("dqn.NeuralQLearner", network=linear(3, 2), target_network=linear(3, 2, seed=5))
    agent["transitions"] = lua("dqn.TransitionTable", s=random(4, 3), a=random(4))
    assert find.candidates(agent)[0].key == "network"
    checkpoint = LuaTable({"agent": agent, "model": linear(3, 2, seed=9), "reward_history": LuaTable.from_list([1])})
    assert find.candidates(checkpoint)[0].key == "model"


def test_scale_enlarges_doubles_with_weights_in_single_precision() -> None:
    x = torch.tensor([[0.1, 0.7, 0.2]], dtype=torch.float64)
    position = np.arange(7, dtype=np.float32) * (np.float32(2) / np.float32(7))
    first = position.astype(int)
    right = position - first.astype(np.float32)
    row = x[0].numpy()
    expected = (np.float32(1) - right).astype(float) * row[first] + right.astype(float) * row[first + 1]
    assert dqn._resize_rows(x, 8)[0].tolist() == [*expected.tolist(), 0.2]


def test_too_many_words_for_a_narrow_lookup_table() -> None:
    table = NarrowLookupTable(5, 4, 2)
    assert table(torch.tensor([1, 2])).shape == (6,)
    with pytest.raises(ValueError, match="found 3 words; one would give 0 of the 4 elements"):
        table(torch.tensor([1, 2, 3]))
