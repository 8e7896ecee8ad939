"""DCGAN's discriminator in a loop, indices of a Sequential shifted by flattening."""

from corpus import EQUAL, randn
from torch import nn

model = "port/dcgan_discriminator.t7"
expect = EQUAL


class Discriminator(nn.Module):
    slope = 0.2

    def __init__(self, ndf=3, nc=3):
        super().__init__()
        layers = [nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(self.slope, inplace=True)]
        for i in range(3):
            layers += self.block(ndf * 2**i)
        self.net = nn.Sequential(*layers, nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False))

    def block(self, n):
        return [nn.Conv2d(n, 2 * n, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * n), nn.LeakyReLU(self.slope, inplace=True)]

    def forward(self, image):
        return self.net(image).sigmoid().view(-1, 1)


target = Discriminator


def example(seed):
    return randn(2, 3, 64, 64, seed=seed)
