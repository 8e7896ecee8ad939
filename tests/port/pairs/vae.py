"""VAE in the names of pytorch/examples."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, randn
from torch import nn

model = "port/vae.t7"
expect = EQUAL


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(20, 16)
        self.fc21 = nn.Linear(16, 5)
        self.fc22 = nn.Linear(16, 5)
        self.fc3 = nn.Linear(5, 16)
        self.fc4 = nn.Linear(16, 20)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(mu), mu, logvar


target = VAE


def example(seed):
    return randn(4, 20, seed=seed)
