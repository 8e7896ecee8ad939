"""rnn's FastLSTM in a Sequencer to nn.LSTM."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, forget, indices
from torch import nn

model = "port/fastlstm.t7"
expect = EQUAL


def example(seed):
    return indices(12, 6, 3, seed=seed)


def run_source(model, x):
    forget(model)
    return torch.stack(list(model(x + 1)))


class RNNModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(12, 7)
        self.rnn = nn.LSTM(7, 9)
        self.decoder = nn.Linear(9, 12)

    def forward(self, x):
        return F.log_softmax(self.decoder(self.rnn(self.encoder(x))[0]), -1)


target = RNNModel
