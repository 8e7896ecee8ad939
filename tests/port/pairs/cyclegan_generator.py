"""CycleGAN's generator with affine instance norms and reflection padding."""

from corpus import EQUAL, randn
from torch import nn

model = "port/cyclegan_generator.t7"
expect = EQUAL


class ResnetBlock(nn.Module):
    def __init__(self, dim, norm):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(dim, dim, 3),
            norm(dim),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(dim, dim, 3),
            norm(dim),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class Generator(nn.Module):
    def __init__(self, ngf=3):
        super().__init__()
        norm = self.norm
        self.model = nn.Sequential(
            self.margin(3),
            nn.Conv2d(3, ngf, 7),
            norm(ngf),
            nn.ReLU(True),
            nn.Conv2d(ngf, ngf * 2, 3, 2, 1),
            norm(ngf * 2),
            nn.ReLU(True),
            nn.Conv2d(ngf * 2, ngf * 4, 3, 2, 1),
            norm(ngf * 4),
            nn.ReLU(True),
            ResnetBlock(ngf * 4, norm),
            self.up(ngf * 4, ngf * 2),
            norm(ngf * 2),
            nn.ReLU(True),
            self.up(ngf * 2, ngf),
            norm(ngf),
            nn.ReLU(True),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, 3, 7),
            nn.Tanh(),
        )

    def norm(self, channels):
        return nn.InstanceNorm2d(channels, affine=True)

    def margin(self, width):
        return nn.ReflectionPad2d(width)

    def up(self, cin, cout):
        return nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1)

    def forward(self, x):
        return self.model(x)


target = Generator


def example(seed):
    return randn(2, 3, 16, 16, seed=seed)
