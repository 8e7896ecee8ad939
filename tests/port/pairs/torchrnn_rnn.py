"""torch-rnn's plain RNN language model to nn.RNN, its last layer as a convolution over time."""

from corpus import EQUAL, forget, indices
from torch import nn

model = "port/torchrnn_rnn.t7"
expect = EQUAL


def example(seed):
    return indices(14, 3, 6, seed=seed)


def run_source(model, x):
    forget(model)
    return model(x + 1)


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.classify = nn.Embedding(14, 8), nn.RNN(8, 9, 2), nn.Conv1d(9, 14, 1)

    def forward(self, x):
        y, _ = self.rnn(self.embed(x).transpose(0, 1))
        return self.classify(y.permute(1, 2, 0)).transpose(1, 2)


target = LM
