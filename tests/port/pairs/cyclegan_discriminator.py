"""A PatchGAN without biases before its batch norms: the norms' means take them."""

from corpus import EQUAL, randn
from torch import nn

model = "port/cyclegan_discriminator.t7"
expect = EQUAL
notes = ("bias",)


class PatchGAN(nn.Module):
    last = (4, 1, 2)

    def __init__(self, ndf=4):
        super().__init__()
        sequence = [nn.Conv2d(3, ndf, 4, 2, 2), nn.LeakyReLU(0.2, True)]
        for n, stride in ((1, 2), (2, 2), (4, 1)):
            sequence += [
                nn.Conv2d(ndf * n, ndf * n * 2, 4, stride, 2, bias=False),
                nn.BatchNorm2d(ndf * n * 2),
                nn.LeakyReLU(0.2, True),
            ]
        self.model = nn.Sequential(*sequence, nn.Conv2d(ndf * 8, 1, *self.last))

    def forward(self, x):
        return self.model(x)


target = PatchGAN


def example(seed):
    return randn(2, 3, 64, 64, seed=seed)
