"""dpnn's layers against a loop over the batch, as Torch7 ran it, or stock PyTorch where that computes the same.

    PYTHONPATH=. python benchmarks/bench_dpnn.py [--device cuda] [--batch 64]

Prints milliseconds per forward and backward pass (the median of repeated runs) and the ratio.
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
    crop = SpatialUniformCrop(48)
    yield Case("SpatialUniformCrop", "loop", lambda: crop(image), lambda: crop_loop(crop, image))
    nce = NCEModule(128, 10_000, 100, torch.ones(10_000), Z=1).to(device)
    x, target = torch.randn(n, 128, device=device, requires_grad=True), torch.randint(1, 10_001, (n,), device=device)
    noise = torch.randint(10_000, (100,), device=device)
    yield Case("NCEModule", "loop", lambda: nce([x, target]), lambda: nce_loop(nce, x, target - 1, noise))
    full = nn.Linear(128, 10_000).to(device)
    yield Case("NCEModule", "nn.Linear + softmax", lambda: nce([x, target]), lambda: full(x).log_softmax(1))
    index, one_hot = torch.randint(1, 1001, (n * 16,), device=device), OneHot(1000).to(device)
    yield Case("OneHot", "loop", lambda: one_hot(index), lambda: one_hot_loop(index, 1000))
    yield Case("OneHot", "F.one_hot", lambda: one_hot(index), lambda: F.one_hot(index - 1, 1000).float())
    kmeans = Kmeans(50, 128).to(device)
    yield Case("Kmeans", "loop", lambda: kmeans(x), lambda: kmeans_loop(kmeans.weight.detach(), x))
    normalize = SpatialFeatNormalization(torch.randn(3), torch.rand(3) + 0.5).to(device)
    yield Case("SpatialFeatNormalization", "loop", lambda: normalize(image), lambda: normalize_loop(normalize, image))
    binary, conv = SpatialBinaryConvolution(3, 32, 3).to(device), nn.Conv2d(3, 32, 3, bias=False).to(device)
    yield Case("SpatialBinaryConvolution", "nn.Conv2d", lambda: binary(image), lambda: conv(image))
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


def milliseconds(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Median time of a forward and backward pass."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        outputs = [t for t in leaves(run()) if isinstance(t, Tensor) and t.requires_grad]
        if outputs:
            torch.autograd.backward([t.sum() for t in outputs])
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{'layer':28}{'ms':>10}  {'against':22}{'ms':>10}{'ratio':>9}")
    for case in cases(arguments.batch, arguments.device):
        own = milliseconds(case.run, arguments.device, arguments.repeats)
        other = milliseconds(case.other, arguments.device, arguments.repeats)
        print(f"{case.name:28}{own:10.3f}  {case.against:22}{other:10.3f}{other / own:8.1f}x")


if __name__ == "__main__":
    main()
