"""OpenFace's network: local response norms, L2 pooling, L2-normalized output."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/openface.t7"
expect = EQUAL


def conv(cin, cout, k, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, k, stride, k // 2), nn.BatchNorm2d(cout), nn.ReLU())


class L2Pool(nn.Module):
    def forward(self, x):
        return (9 * F.avg_pool2d(x * x, 3, 1)).sqrt()


class Inception(nn.Module):
    def __init__(self, cin, r3, n3, r5, n5, pool, proj, n1, stride=1):
        super().__init__()
        self.branch3 = nn.Sequential(conv(cin, r3, 1), conv(r3, n3, 3, stride))
        self.branch5 = nn.Sequential(conv(cin, r5, 1), conv(r5, n5, 5, stride))
        self.pool = pool
        self.proj = conv(cin, proj, 1) if proj else None
        self.branch1 = conv(cin, n1, 1) if n1 else None

    def forward(self, x):
        pooled = self.pool(x)
        outputs = [self.branch3(x), self.branch5(x), self.proj(pooled) if self.proj else pooled]
        if self.branch1 is not None:
            outputs.append(self.branch1(x))
        size = outputs[0].shape[2]
        # what L2 pooling without padding makes smaller is put into the middle of zeros
        outputs = [F.pad(y, [(size - y.shape[3]) // 2, (size - y.shape[3] + 1) // 2] * 2) for y in outputs]
        return torch.cat(outputs, 1)


class OpenFace(nn.Module):
    alpha = 1e-4
    pool = L2Pool

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 4, 7, 2), nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(5, self.alpha))
        self.second = nn.Sequential(conv(4, 4, 1), conv(4, 8, 3), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2, 1))
        self.inception_3a = Inception(8, 4, 6, 2, 2, nn.MaxPool2d(3, 1, 1), 2, 4)
        self.inception_3b = Inception(14, 4, 6, 2, 4, self.pool(), 4, 4)
        self.inception_3c = Inception(18, 6, 8, 2, 4, nn.MaxPool2d(3, 2, 1), 0, 0, stride=2)
        self.inception_4a = Inception(30, 4, 8, 2, 4, self.pool(), 6, 8)
        self.embed = nn.Linear(26 * 16, 6)

    def forward(self, x):
        x = self.second(self.stem(x))
        x = self.inception_4a(self.inception_3c(self.inception_3b(self.inception_3a(x))))
        return F.normalize(self.embed(F.avg_pool2d(x, 3, 1).flatten(1)))


target = OpenFace


def example(seed):
    return randn(2, 3, 96, 96, seed=seed)
