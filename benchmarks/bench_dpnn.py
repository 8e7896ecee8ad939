"""Compare dpnn's layers with a loop over the batch, as in Torch7, with stock PyTorch, or with the best PyTorch code.

    PYTHONPATH=. python benchmarks/bench_dpnn.py [--device cuda] [--batch 64]

Prints milliseconds per forward and backward pass (the median of repeated, interleaved runs) and the ratio. With
``--forward``, measures only forward passes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.compare.nested import leaves
from dpnn_bridge.modules.dpnn import (
    BinaryLogisticRegression,
    Clip,
    Collapse,
    Kmeans,
    NCEModule,
    OneHot,
    SpatialBinaryConvolution,
    SpatialFeatNormalization,
    SpatialGlimpse,
    SpatialReSampling,
    SpatialUniformCrop,
)
from dpnn_bridge.modules.nnx import SoftMaxTree


class Case(NamedTuple):
    """One comparison: what is measured, and against what."""

    name: str
    against: str
    run: Callable[[], Any]
    other: Callable[[], Any]


def glimpse_loop(module: SpatialGlimpse, image: Tensor, location: Tensor) -> Tensor:
    """One sample and one depth at a time, as SpatialGlimpse.lua does."""
    samples = []
    for x, (v, u) in zip(image, ((location + 1) / 2).tolist(), strict=True):
        depths, size = [], module.size[0]
        for depth in range(module.depth):
            size = size if depth == 0 else int(size * module.scale)
            pad = (size - 1) // 2
            padded = F.pad(x, (pad, pad, pad, pad))
            top, left = (
                int(min(n - size, max(0, c * (n - size)))) for c, n in zip((v, u), padded.shape[1:], strict=True)
            )
            window = padded[:, top : top + size, left : left + size]
            depths.append(F.avg_pool2d(window, size // module.size[0]) if depth else window)
        samples.append(torch.cat(depths))
    return torch.stack(samples)


def glimpse_best(module: SpatialGlimpse, image: Tensor, location: Tensor) -> Tensor:
    """Windows of a padded image by strides alone."""
    depths, size, samples = [], module.size[0], torch.arange(len(image), device=image.device)
    for depth in range(module.depth):
        size = size if depth == 0 else int(size * module.scale)
        pad = (size - 1) // 2
        padded = F.pad(image, (pad, pad, pad, pad))
        last = padded.shape[2] - size
        top, left = ((location + 1) / 2 * last).clamp(0, last).long().unbind(1)
        window = padded.unfold(2, size, 1).unfold(3, size, 1)[samples, :, top, left]
        depths.append(F.avg_pool2d(window, size // module.size[0]) if depth else window)
    return torch.cat(depths, 1)


def nce_best(module: NCEModule, x: Tensor, target: Tensor) -> list[Tensor]:
    """With PyTorch's own sampling, and no normaliser to estimate."""
    noise = torch.multinomial(module.unigrams, module.k, True)
    scores = (x * F.embedding(target, module.weight)).sum(1) + module.bias[target]
    noise_scores = F.linear(x, module.weight[noise], module.bias[noise])
    return [scores.exp(), noise_scores.exp(), module.unigrams[target], module.unigrams[noise].expand_as(noise_scores)]


def binary_best(module: SpatialBinaryConvolution, image: Tensor) -> Tensor:
    """Its forward, with PyTorch's gradients."""
    signs = torch.where(module.weight >= 0, 1.0, -1.0)
    return F.conv2d(image, signs) * module.weight.abs().mean((1, 2, 3))[:, None, None]


def tree_best(module: SoftMaxTree, x: Tensor, target: Tensor) -> Tensor:
    """All levels at once, where all families are of one size; with PyTorch's gradients."""
    node, rows, places = target, [], []
    for _ in range(module.max_depth):
        parent, place = module.child_parent.long()[node - 1].unbind(1)
        rows.append(module.parent_children.long()[parent - 1, 0][:, None] - 1 + torch.arange(module.max_family))
        places.append(place - 1)
        node = parent
    row, place = torch.stack(rows, 1), torch.stack(places, 1)[..., None]
    scores = torch.einsum("nd,nlfd->nlf", x, module.weight[row]) + module.bias[row]
    return scores.log_softmax(2).gather(2, place).sum((1, 2))


def full_tree(width: int, depth: int) -> tuple[dict[int, list[int]], range]:
    """Return a tree whose nodes all have ``width`` children, and its leaves."""
    hierarchy, level, following = {}, range(1, 2), 2
    for _ in range(depth):
        for node in level:
            hierarchy[node] = list(range(following, following + width))
            following += width
        level = range(following - width * len(level), following)
    return hierarchy, level


def crop_loop(module: SpatialUniformCrop, image: Tensor) -> Tensor:
    """One sample at a time."""
    crops = []
    for x in image:
        top, left = (int(torch.randint(n - module.oheight, ())) for n in x.shape[1:])
        crops.append(x[:, top : top + module.oheight, left : left + module.owidth])
    return torch.stack(crops)


def nce_loop(module: NCEModule, x: Tensor, target: Tensor, noise: Tensor) -> list[Tensor]:
    """One sample at a time."""
    scores = [module.weight[noise] @ v + module.bias[noise] for v in x]
    targets = [module.weight[t] @ v + module.bias[t] for v, t in zip(x, target, strict=True)]
    return [torch.stack(targets).exp(), torch.stack(scores).exp()]


def one_hot_loop(index: Tensor, n: int) -> Tensor:
    """One number at a time."""
    output = torch.zeros(len(index), n, device=index.device)
    for i, k in enumerate(index.tolist()):
        output[i, k - 1] = 1
    return output


def kmeans_loop(weight: Tensor, x: Tensor) -> Tensor:
    """One sample at a time."""
    return torch.stack([(v - weight).square().sum(1).argmin() for v in x])


def normalize_loop(module: SpatialFeatNormalization, image: Tensor) -> Tensor:
    """One channel at a time, as SpatialFeatNormalization.lua does."""
    channels = [(image[:, c] - module.mean[c]) / module.std[c] for c in range(image.shape[1])]
    return torch.stack(channels, 1)


def cases(n: int, device: str) -> Iterator[Case]:
    """All comparisons for batches of ``n``."""
    torch.manual_seed(0)
    image = torch.randn(n, 3, 64, 64, device=device, requires_grad=True)
    location = torch.rand(n, 2, device=device) * 2 - 1
    digit = torch.randn(n, 1, 28, 28, device=device, requires_grad=True)
    glimpse = SpatialGlimpse(8, depth=3)
    yield Case(
        "SpatialGlimpse", "loop", lambda: glimpse([digit, location]), lambda: glimpse_loop(glimpse, digit, location)
    )
    for size in (28, 60, 100):
        picture = torch.randn(n, 1, size, size, device=device, requires_grad=True)
        yield Case(
            "SpatialGlimpse",
            f"best expression, {size} x {size}",
            lambda x=picture: glimpse([x, location]),
            lambda x=picture: glimpse_best(glimpse, x, location),
        )
    crop = SpatialUniformCrop(48)
    yield Case("SpatialUniformCrop", "loop", lambda: crop(image), lambda: crop_loop(crop, image))
    nce = NCEModule(128, 10_000, 100, torch.ones(10_000), Z=1).to(device)
    x, target = torch.randn(n, 128, device=device, requires_grad=True), torch.randint(1, 10_001, (n,), device=device)
    noise = torch.randint(10_000, (100,), device=device)
    yield Case("NCEModule", "loop", lambda: nce([x, target]), lambda: nce_loop(nce, x, target - 1, noise))
    yield Case("NCEModule", "best expression", lambda: nce([x, target]), lambda: nce_best(nce, x, target - 1))
    full = nn.Linear(128, 10_000).to(device)
    yield Case("NCEModule", "nn.Linear + softmax", lambda: nce([x, target]), lambda: full(x).log_softmax(1))
    index, one_hot = torch.randint(1, 1001, (n * 16,), device=device), OneHot(1000).to(device)
    yield Case("OneHot", "loop", lambda: one_hot(index), lambda: one_hot_loop(index, 1000))
    yield Case("OneHot", "F.one_hot", lambda: one_hot(index), lambda: F.one_hot(index - 1, 1000).float())
    kmeans = Kmeans(50, 128).to(device)
    yield Case("Kmeans", "loop", lambda: kmeans(x), lambda: kmeans_loop(kmeans.weight.detach(), x))
    weight = kmeans.weight.detach()
    exact: Any = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    yield Case("Kmeans", "cdist, exact", lambda: kmeans(x), lambda: torch.cdist(x.detach(), weight, **exact).min(1))
    yield Case("Kmeans", "cdist, by products", lambda: kmeans(x), lambda: torch.cdist(x.detach(), weight).min(1))
    hierarchy, leaves_of = full_tree(10, 3)
    tree, leaf = SoftMaxTree.from_hierarchy(128, hierarchy).to(device), torch.randint(leaves_of[0], leaves_of[-1], (n,))
    if device == "cpu":
        yield Case("SoftMaxTree", "best expression", lambda: tree([x, leaf]), lambda: tree_best(tree, x, leaf))
    normalize = SpatialFeatNormalization(torch.randn(3), torch.rand(3) + 0.5).to(device)
    yield Case("SpatialFeatNormalization", "loop", lambda: normalize(image), lambda: normalize_loop(normalize, image))
    binary, conv = SpatialBinaryConvolution(3, 32, 3).to(device), nn.Conv2d(3, 32, 3, bias=False).to(device)
    yield Case("SpatialBinaryConvolution", "nn.Conv2d", lambda: binary(image), lambda: conv(image))
    yield Case("SpatialBinaryConvolution", "best expression", lambda: binary(image), lambda: binary_best(binary, image))
    clip, hardtanh = Clip(-1, 1), nn.Hardtanh()
    yield Case("Clip", "nn.Hardtanh", lambda: clip(image), lambda: hardtanh(image))
    collapse, flatten = Collapse(3), nn.Flatten()
    yield Case("Collapse", "nn.Flatten", lambda: collapse(image), lambda: flatten(image))
    scale = SpatialReSampling(owidth=40, oheight=40)
    yield Case(
        "SpatialReSampling",
        "F.interpolate",
        lambda: scale(image),
        lambda: F.interpolate(image, (40, 40), mode="bilinear", align_corners=True),
    )
    scores, signs = torch.randn(n * 1000, device=device, requires_grad=True), torch.ones(n * 1000, device=device)
    logistic, soft_margin = BinaryLogisticRegression(), nn.SoftMarginLoss()
    yield Case(
        "BinaryLogisticRegression",
        "nn.SoftMarginLoss",
        lambda: logistic(scores, signs),
        lambda: soft_margin(scores, signs),
    )


def milliseconds(run: Callable[[], Any], device: str, forward: bool) -> float:
    """Time of a pass: of the processor, or of the clock where a GPU works."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    start = clock()
    with torch.set_grad_enabled(not forward):
        outputs = [t for t in leaves(run()) if isinstance(t, Tensor) and t.requires_grad]
    if outputs and not forward:
        torch.autograd.backward([t.sum() for t in outputs])
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1000 * (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--forward", action="store_true")
    arguments = parser.parse_args()
    print(f"{'layer':28}{'ms':>10}  {'against':26}{'ms':>10}{'ratio':>9}")
    if not arguments.device.startswith("cuda"):
        torch.set_num_threads(1)
    for case in cases(arguments.batch, arguments.device):
        runs = [case.run, case.other]
        pairs = [[milliseconds(r, arguments.device, arguments.forward) for r in runs] for _ in range(arguments.repeats)]
        own, other = (statistics.median(times) for times in zip(*pairs[2:], strict=True))
        print(f"{case.name:28}{own:10.3f}  {case.against:26}{other:10.3f}{other / own:8.2f}x")


if __name__ == "__main__":
    main()
