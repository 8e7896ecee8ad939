"""Weights of spectral norm 1 to layers that divide by the spectral norm."""

from corpus import EQUAL, randn
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

model = "port/nn_spectral_norm.t7"
expect = EQUAL
tolerance = 1e-6  # the file holds the normalized weights in single precision


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = spectral_norm(nn.Conv2d(3, 6, 3, 2, 1)), spectral_norm(nn.Conv2d(6, 8, 3, 2, 1))
        self.fc = nn.Linear(128, 5)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.conv1(x), 0.1)
        return self.fc(nn.functional.leaky_relu(self.conv2(x), 0.1).flatten(1))


target = Critic


def example(seed):
    return randn(2, 3, 16, 16, seed=seed)
