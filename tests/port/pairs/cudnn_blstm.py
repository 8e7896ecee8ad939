"""cudnn.BLSTM, whose weights lie in one flat vector, to nn.LSTM."""

from corpus import EQUAL, randn
from torch import nn

model = "third/cudnn/cudnn.BLSTM/cudnn.BLSTM__batch_first__float_structure.t7"
expect = EQUAL


def example(seed):
    return randn(2, 5, 3, seed=seed)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.blstm(x)[0]


target = Net
