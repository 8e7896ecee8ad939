"""nn.WeightNorm to weight_norm, around another layer too."""

from corpus import EQUAL, randn
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

model = "port/nn_weight_norm.t7"
expect = EQUAL


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            weight_norm(nn.Conv2d(3, 6, 3, 2, 1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(6, 8, 3, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            weight_norm(nn.Linear(128, 5)),
        )

    def forward(self, x):
        return self.net(x)


target = Critic


def example(seed):
    return randn(2, 3, 16, 16, seed=seed)
