"""rnn's BiSequencer to a bidirectional nn.LSTM."""

import torch.nn.functional as F
from corpus import EQUAL
from pairs.fastlstm import example, run_source
from torch import nn

__all__ = ["example", "run_source"]
model = "port/rnn_bisequencer.t7"
expect = EQUAL


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm, self.tags = nn.Embedding(12, 7), nn.LSTM(7, 6, bidirectional=True), nn.Linear(12, 5)

    def forward(self, x):
        return F.log_softmax(self.tags(self.lstm(self.words(x))[0]), dim=2)


target = Tagger
