"""A spatial transformer with affine_grid and grid_sample; Torch7's grid takes y before x."""

import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "samples/stnbhwd__spatial_transformer/model.t7"
expect = EQUAL
notes = ("single precision",)
tolerance = 1e-6  # the Lua layer's grid is in single precision


class STN(nn.Module):
    align = True

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(80, 20), nn.ReLU(True), nn.Linear(20, 6))
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 20, 5)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.conv1(F.max_pool2d(x, 2))), 2)
        theta = self.fc(F.relu(self.conv2(y)).view(-1, 80)).view(-1, 2, 3)
        theta = theta[:, [1, 0]][:, :, [1, 0, 2]]
        grid = F.affine_grid(theta, x.shape, align_corners=True)
        return F.grid_sample(x, grid, align_corners=self.align)


target = STN


def example(seed):
    return randn(2, 1, 32, 32, seed=seed)
