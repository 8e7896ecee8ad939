"""Wide ResNet as a function of a dictionary of tensors."""

import itertools

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/wide_resnet.t7"
expect = EQUAL
PLANES = (3, 6, 8, 12)


class WRN(nn.Module):
    def __init__(self):
        super().__init__()
        self.params, self.stats = nn.ParameterDict(), nn.Module()

        def conv(name, ni, no, k):
            self.params[name] = nn.Parameter(torch.randn(no, ni, k, k))

        def norm(name, n):
            self.params[name + "_weight"] = nn.Parameter(torch.rand(n))
            self.params[name + "_bias"] = nn.Parameter(torch.zeros(n))
            self.stats.register_buffer(name + "_mean", torch.zeros(n))
            self.stats.register_buffer(name + "_var", torch.ones(n))

        conv("conv0", 3, PLANES[0], 3)
        for g, (ni, no) in enumerate(itertools.pairwise(PLANES)):
            norm(f"g{g}_bn0", ni)
            conv(f"g{g}_conv0", ni, no, 3)
            norm(f"g{g}_bn1", no)
            conv(f"g{g}_conv1", no, no, 3)
            conv(f"g{g}_convdim", ni, no, 1)
        norm("bn", PLANES[-1])
        self.params["fc_weight"], self.params["fc_bias"] = (
            nn.Parameter(torch.randn(10, 12)),
            nn.Parameter(torch.zeros(10)),
        )

    def activate(self, x, name):
        mean, var = getattr(self.stats, name + "_mean"), getattr(self.stats, name + "_var")
        weight, bias = self.params[name + "_weight"], self.params[name + "_bias"]
        return F.relu(F.batch_norm(x, mean, var, weight, bias, self.training), inplace=True)

    def shortcut(self, x, activated, g, stride):
        return F.conv2d(activated, self.params[f"g{g}_convdim"], stride=stride)

    def forward(self, x):
        x = F.conv2d(x, self.params["conv0"], padding=1)
        for g, stride in enumerate((1, 2, 2)):
            o1 = self.activate(x, f"g{g}_bn0")
            y = F.conv2d(o1, self.params[f"g{g}_conv0"], stride=stride, padding=1)
            o2 = self.activate(y, f"g{g}_bn1")
            z = F.conv2d(o2, self.params[f"g{g}_conv1"], stride=1, padding=1)
            x = z + self.shortcut(x, o1, g, stride)
        o = F.avg_pool2d(self.activate(x, "bn"), 8, 1, 0).view(x.size(0), -1)
        return F.linear(o, self.params["fc_weight"], self.params["fc_bias"])


target = WRN


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)
