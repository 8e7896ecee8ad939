"""torch-rnn's LSTM language model with batch norms between its layers, to two nn.LSTM."""

from corpus import EQUAL, forget, indices
from torch import nn

model = "port/torchrnn_lstm_bn.t7"
expect = EQUAL


def example(seed):
    return indices(14, 3, 6, seed=seed)


def run_source(model, x):
    forget(model)
    return model(x + 1)


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(14, 8)
        self.rnn1, self.rnn2 = nn.LSTM(8, 9, batch_first=True), nn.LSTM(9, 9, batch_first=True)
        self.norm1, self.norm2 = nn.BatchNorm1d(9), nn.BatchNorm1d(9)
        self.classify = nn.Linear(9, 14)

    def forward(self, x):
        x, _ = self.rnn1(self.embed(x))
        x, _ = self.rnn2(self.norm1(x.transpose(1, 2)).transpose(1, 2))
        return self.classify(self.norm2(x.transpose(1, 2)).transpose(1, 2))


target = LM
