"""pix2pix's U-Net as nested blocks, as in pytorch-CycleGAN-and-pix2pix."""

import torch
from corpus import EQUAL, randn
from torch import nn

model = "port/pix2pix_unet.t7"
expect = EQUAL


class SkipBlock(nn.Module):
    def __init__(self, outer, inner, inside=None, kind="", cin=None, bias=True):
        super().__init__()
        self.kind = kind
        down = nn.Conv2d(cin or outer, inner, 4, 2, 1, bias=kind == "outermost" or kind == "innermost")
        up = nn.ConvTranspose2d(
            inner if kind == "innermost" else inner * 2, outer, 4, 2, 1, bias=kind == "outermost" and bias
        )
        if kind == "outermost":
            layers = [down, inside, nn.ReLU(True), up, nn.Tanh()]
        elif kind == "innermost":
            layers = [nn.LeakyReLU(0.2, True), down, nn.ReLU(True), up, nn.BatchNorm2d(outer)]
        else:
            layers = [
                nn.LeakyReLU(0.2, True),
                down,
                nn.BatchNorm2d(inner),
                inside,
                nn.ReLU(True),
                up,
                nn.BatchNorm2d(outer),
            ]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x) if self.kind == "outermost" else torch.cat([self.model(x), x], 1)


class UNet(nn.Module):
    last_bias = True
    block = SkipBlock

    def __init__(self, ngf=2):
        super().__init__()
        inner = self.block(ngf * 4, ngf * 8, kind="innermost")
        inner = self.block(ngf * 2, ngf * 4, inner)
        inner = self.block(ngf, ngf * 2, inner)
        self.model = self.block(3, ngf, inner, "outermost", cin=3, bias=self.last_bias)

    def forward(self, x):
        return self.model(x)


target = UNet


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)
