"""cudnn.GRU resets after the matrix product, as nn.GRU does."""

from corpus import EQUAL, randn
from torch import nn

model = "third/cudnn/cudnn.GRU/cudnn.GRU__dropout__float_structure.t7"
expect = EQUAL


def example(seed):
    return randn(5, 2, 3, seed=seed)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, 2)

    def forward(self, x):
        return self.gru(x)[0]


target = Net
