"""waifu2x's upresnet_s: squeeze and excitation, residuals cropped."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/waifu2x_upresnet_s.t7"
expect = EQUAL


class SEBlock(nn.Module):
    def __init__(self, n=5, mid=2):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n, mid), nn.Linear(mid, n)

    def forward(self, x):
        s = self.fc2(F.relu(self.fc1(x.mean((2, 3))))).sigmoid()
        return x * s[:, :, None, None]


class ResBlock(nn.Module):
    def __init__(self, n=5):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(n, n, 3), nn.LeakyReLU(0.1), nn.Conv2d(n, n, 3), nn.LeakyReLU(0.1), SEBlock()
        )

    def forward(self, x):
        return self.conv(x) + self.crop(x)

    def crop(self, x):
        return F.pad(x, (-2, -2, -2, -2))


class UpResNet(nn.Module):
    block = ResBlock

    def __init__(self):
        super().__init__()
        self.conv_pre, self.conv_bridge = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3)
        self.res_blocks = nn.ModuleList([self.block(), self.block()])
        self.conv_post = nn.ConvTranspose2d(5, 3, 4, 2, 3, bias=False)

    def forward(self, x):
        x = skip = F.leaky_relu(self.conv_pre(x), 0.1)
        for block in self.res_blocks:
            x = block(x)
        x = x + skip[:, :, 4:-4, 4:-4]
        x = F.leaky_relu(self.conv_bridge(x), 0.1)
        return self.conv_post(x).clamp(0, 1)


target = UpResNet


def example(seed):
    return randn(2, 3, 28, 28, seed=seed)
