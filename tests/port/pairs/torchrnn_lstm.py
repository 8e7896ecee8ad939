"""torch-rnn's LSTM language model to nn.LSTM of two layers and an embedding as one-hot times a matrix."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, indices
from pairs.torchrnn_rnn import run_source
from torch import nn

__all__ = ["run_source"]
model = "samples/torch-rnn__lstm/model.t7"
expect = EQUAL


def example(seed):
    return indices(25, 3, 7, seed=seed)


class CharModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Parameter(torch.randn(25, 12))
        self.rnn, self.decoder = nn.LSTM(12, 20, 2, batch_first=True), nn.Linear(20, 25)

    def forward(self, x):
        return self.decoder(self.rnn(F.one_hot(x, 25).to(self.words.dtype) @ self.words)[0])


target = CharModel
