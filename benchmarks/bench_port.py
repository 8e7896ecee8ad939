"""Measure :func:`dpnn_bridge.port` from ResNets of fb.resnet.torch to torchvision's.

    python benchmarks/bench_port.py --depth 50 --size 224 [--threads 2]

Only this program needs torchvision. It prints seconds, the verdict, the largest difference and the peak memory.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time

import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.modules.nn import CAddTable, ConcatTable, View

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias and its norm."""
    padding = kernel // 2
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs)]


def block(inputs: int, width: int, stride: int, bottleneck: bool) -> nn.Module:
    """Return fb.resnet.torch's basicblock or bottleneck: both branches in a ConcatTable, their sum, a ReLU."""
    outputs = width * (4 if bottleneck else 1)
    if bottleneck:
        main = [*conv(inputs, width, 1), nn.ReLU(), *conv(width, width, 3, stride), nn.ReLU(), *conv(width, outputs, 1)]
    else:
        main = [*conv(inputs, width, 3, stride), nn.ReLU(), *conv(width, outputs, 3)]
    shortcut = nn.Identity() if inputs == outputs and stride == 1 else nn.Sequential(*conv(inputs, outputs, 1, stride))
    return nn.Sequential(ConcatTable(nn.Sequential(*main), shortcut), CAddTable(), nn.ReLU())


def resnet(depth: int) -> nn.Module:
    """Return the network of fb.resnet.torch, with random weights and statistics."""
    bottleneck = depth >= 50
    layers: list[nn.Module] = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for i, count in enumerate(LAYERS[depth]):
        for j in range(count):
            layers.append(block(inputs, 64 * 2**i, 2 if i and not j else 1, bottleneck))
            inputs = 64 * 2**i * (4 if bottleneck else 1)
    model = nn.Sequential(*layers, nn.AvgPool2d(7), View(inputs), nn.Linear(inputs, 1000))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def images(seed: int, size: int, batch: int) -> Tensor:
    """Random images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def time_of_forward(model: nn.Module, image: Tensor) -> float:
    """Seconds of a forward pass in double precision."""
    double, image = copy.deepcopy(model).double().eval(), image.double()
    with torch.no_grad():
        double(image)
        start = time.perf_counter()
        double(image)
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--depth", type=int, choices=LAYERS, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import torchvision  # type: ignore[import-not-found]

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    source, target = resnet(given.depth), getattr(torchvision.models, f"resnet{given.depth}")()
    forward = time_of_forward(target, images(0, given.size, given.batch))
    weights = sum(p.numel() * p.element_size() for model in (source, target) for p in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    report = dpnn_bridge.port(source, target, lambda seed: images(seed, given.size, given.batch))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"resnet{given.depth}: {report}")
    print(f"{seconds:.1f} s, {seconds / forward:.0f} times a forward pass")
    print(f"{(peak - before) / 1024:.0f} MiB, {(peak - before) * 1024 / weights:.1f} times the weights of both models")


if __name__ == "__main__":
    main()
