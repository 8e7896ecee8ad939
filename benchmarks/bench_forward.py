"""Compare converted models with the same models written by hand in PyTorch: forward, and forward and backward.

    python benchmarks/bench_forward.py [device]

Both have the same weights and must return the same output. Each number is the median of the ratios of neighbouring
runs; 1.00 means no overhead. Target: at most 1.03.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.modules.nn import (
    CAddTable,
    ConcatTable,
    DepthConcat,
    LocalResponseNorm,
    LogSoftMax,
    MulConstant,
    Normalize,
    Reshape,
    SpatialLPPooling,
    Sqrt,
    Square,
    View,
)

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
ROUNDS = 40


# ---------------------------------------------------------------------- as Torch7 scripts build them
def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5),
        nn.Tanh(),
        nn.MaxPool2d(3, 3, 1),
        nn.Conv2d(32, 64, 5),
        nn.Tanh(),
        nn.MaxPool2d(2, 2),
        Reshape(576),
        nn.Linear(576, 200),
        nn.Tanh(),
        nn.Linear(200, 10),
        LogSoftMax(),
    )


def convolution(planes: int, out: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(planes, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out)]


def residual(planes: int, out: int, stride: int) -> nn.Module:
    body = nn.Sequential(*convolution(planes, out, 3, stride), nn.ReLU(), *convolution(out, out))
    shortcut = nn.Identity() if planes == out else nn.Sequential(*convolution(planes, out, 1, stride))
    return nn.Sequential(ConcatTable(body, shortcut), CAddTable(), nn.ReLU())


def resnet() -> nn.Module:
    planes = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    blocks = [residual(*p) for p in planes]
    tail = [nn.AvgPool2d(8, 1), View(64, num_input_dims=3), nn.Linear(64, 10)]
    return nn.Sequential(*convolution(3, 16), nn.ReLU(), *blocks, *tail)


def inception(planes: int) -> nn.Module:
    wide = nn.Sequential(*convolution(planes, 96, 1), nn.ReLU(), *convolution(96, 128), nn.ReLU())
    wider = nn.Sequential(*convolution(planes, 16, 1), nn.ReLU(), *convolution(16, 32, 5), nn.ReLU())
    norm = SpatialLPPooling(Square(), nn.AvgPool2d(3, 1, 1), MulConstant(9), Sqrt())
    pooled = nn.Sequential(norm, *convolution(planes, 32, 1), nn.ReLU())
    straight = nn.Sequential(*convolution(planes, 64, 1), nn.ReLU())
    return DepthConcat(wide, wider, pooled, straight, dimension=2)


def openface() -> nn.Module:
    stem = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), LocalResponseNorm(5)]
    tail = [nn.AvgPool2d(24, 1), View(256), nn.Linear(256, 128), Normalize(2)]
    return nn.Sequential(*stem, inception(64), inception(256), *tail)


# ---------------------------------------------------------------------- as one writes them in PyTorch
class HandLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.fc1, self.fc2 = nn.Linear(576, 200), nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).tanh(), 3, 3, 1)
        x = F.max_pool2d(self.conv2(x).tanh(), 2, 2)
        return F.log_softmax(self.fc2(self.fc1(x.flatten(1)).tanh()), 1)


class HandResidual(nn.Module):
    def __init__(self, planes: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(planes, out, 3, stride)
        self.conv2, self.bn2 = convolution(out, out)
        self.shortcut = nn.Identity() if planes == out else nn.Sequential(*convolution(planes, out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class HandResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        planes = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
        self.stem = nn.Sequential(*convolution(3, 16), nn.ReLU())
        self.blocks = nn.Sequential(*[HandResidual(*p) for p in planes])
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.avg_pool2d(self.blocks(self.stem(x)), 8, 1).flatten(1))


class HandInception(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(*convolution(planes, 96, 1), nn.ReLU(), *convolution(96, 128), nn.ReLU())
        self.wider = nn.Sequential(*convolution(planes, 16, 1), nn.ReLU(), *convolution(16, 32, 5), nn.ReLU())
        self.pooled = nn.Sequential(*convolution(planes, 32, 1), nn.ReLU())
        self.straight = nn.Sequential(*convolution(planes, 64, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        norm = (F.avg_pool2d(x * x, 3, 1, 1) * 9).sqrt()
        return torch.cat([self.wide(x), self.wider(x), self.pooled(norm), self.straight(x)], 1)


class HandOpenFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(5))
        self.body = nn.Sequential(HandInception(64), HandInception(256))
        self.fc = nn.Linear(256, 128)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.body(self.stem(x)), 24, 1).flatten(1)
        return F.normalize(self.fc(x))


# ---------------------------------------------------------------------- measuring
def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """``target`` with the tensors of ``source``, which are the same in the same order."""
    state = zip(target.state_dict(), source.state_dict().values(), strict=True)
    target.load_state_dict(dict(state))
    return target


def seconds(run: Callable[[], object]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(converted: Callable[[], object], by_hand: Callable[[], object]) -> float:
    for _ in range(5):
        converted(), by_hand()
    ratios = []
    for i in range(ROUNDS):  # who comes first takes turns
        if i % 2:
            a, b = seconds(converted), seconds(by_hand)
        else:
            b, a = seconds(by_hand), seconds(converted)
        ratios.append(a / b)
    return statistics.median(ratios)


def forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return model(x)

    return run


def both(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        model.zero_grad()
        model(x).sum().backward()

    return run


def main() -> None:
    torch.manual_seed(0)
    nets = {
        "LeNet": (lenet, HandLeNet, (64, 1, 32, 32)),
        "ResNet-20": (resnet, HandResNet, (32, 3, 32, 32)),
        "OpenFace-like": (openface, HandOpenFace, (8, 3, 96, 96)),
    }
    print(f"{'net':15} {'forward':>8} {'forward + backward':>19}   on {DEVICE}, torch {torch.__version__}")
    for name, (build, hand, shape) in nets.items():
        converted = to_torch(to_lua(build())).to(DEVICE)
        by_hand = copied(converted, hand()).to(DEVICE)
        x = torch.randn(shape, device=DEVICE)
        torch.testing.assert_close(converted(x), by_hand(x))
        alone = ratio(forward(converted, x), forward(by_hand, x))
        print(f"{name:15} {alone:8.3f} {ratio(both(converted, x), both(by_hand, x)):19.3f}", flush=True)


if __name__ == "__main__":
    main()
