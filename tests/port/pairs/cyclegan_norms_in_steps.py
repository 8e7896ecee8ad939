"""CycleGAN's generator with an instance norm in steps, as the first PyTorch versions of fast-neural-style had it."""

import torch
from corpus import EQUAL
from pairs.cyclegan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = EQUAL


class InstanceNormalization(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x):
        n = x.size(2) * x.size(3)
        t = x.view(x.size(0), x.size(1), n)
        mean = torch.mean(t, 2).unsqueeze(2).unsqueeze(3).expand_as(x)
        var = torch.var(t, 2).unsqueeze(2).unsqueeze(3).expand_as(x) * ((n - 1) / float(n))
        scale = self.scale.unsqueeze(1).unsqueeze(1).unsqueeze(0).expand_as(x)
        shift = self.shift.unsqueeze(1).unsqueeze(1).unsqueeze(0).expand_as(x)
        return (x - mean) / torch.sqrt(var + self.eps) * scale + shift


class Net(Generator):
    def norm(self, channels):
        return InstanceNormalization(channels)


target = Net
