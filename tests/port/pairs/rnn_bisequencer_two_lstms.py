"""rnn's BiSequencer to two nn.LSTM, joined in the other order, which permutes the next layer's columns."""

import torch
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
        self.words, self.tags = nn.Embedding(12, 7), nn.Linear(12, 5)
        self.left, self.right = nn.LSTM(7, 6), nn.LSTM(7, 6)

    def forward(self, x):
        x = self.words(x)
        right = self.right(x.flip(0))[0].flip(0)
        return F.log_softmax(self.tags(torch.cat([right, self.left(x)[0]], -1)), -1)


target = Tagger
