"""A ResNet for inference: its convolutions have biases and no batch norms follow them."""

import torch.nn.functional as F
from corpus import EQUAL
from pairs.resnet_basic import example, model
from torch import nn

__all__ = ["example", "model"]
expect = EQUAL
notes = ("folded",)


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.a = nn.Conv2d(cin, cout, 3, stride, 1)
        self.b = nn.Conv2d(cout, cout, 3, 1, 1)
        self.side = nn.Conv2d(cin, cout, 1, stride) if cin != cout else None

    def forward(self, x):
        y = self.b(F.relu(self.a(x)))
        return F.relu(y + (x if self.side is None else self.side(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 10)
        self.stem = nn.Conv2d(3, 2, 7, 2, 3)
        self.blocks = nn.ModuleList([Block(2, 2, 1), Block(2, 4, 2), Block(4, 4, 1), Block(4, 8, 2), Block(8, 16, 2)])

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


target = Net
