"""ResNeXt's form B: a path for each group, in a ModuleList."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/resnext_form_b.t7"
expect = EQUAL


def conv_bn(cin, cout, k, stride=1, relu=True):
    layers = [nn.Conv2d(cin, cout, k, stride, k // 2, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Paths(nn.Module):
    def __init__(self, cin, d, stride):
        super().__init__()
        self.paths = nn.ModuleList([nn.Sequential(conv_bn(cin, d, 1), conv_bn(d, d, 3, stride)) for _ in range(2)])

    def forward(self, x):
        return torch.cat([path(x) for path in self.paths], 1)


class Unit(nn.Module):
    def __init__(self, inner, cin, width, stride):
        super().__init__()
        d = width // 2
        self.inner, self.out = inner(cin, d, stride), conv_bn(2 * d, 4 * width, 1, relu=False)
        self.shortcut = conv_bn(cin, 4 * width, 1, stride, relu=False)

    def forward(self, x):
        return F.relu(self.out(self.inner(x)) + self.shortcut(x))


class ResNeXt(nn.Module):
    inner = Paths

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 4, 3)
        units = [Unit(self.inner, 4, 4, 1), Unit(self.inner, 16, 6, 2), Unit(self.inner, 24, 8, 2)]
        self.units, self.fc = nn.Sequential(*units), nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.units(self.stem(x)).mean((2, 3)))


target = ResNeXt


def example(seed):
    return randn(2, 3, 16, 16, seed=seed)
