"""char-rnn's plain RNN to nn.RNN."""

import torch
import torch.nn.functional as F
from corpus import EQUAL
from pairs.charrnn_gru import H, V, example, run_source, start
from torch import nn

__all__ = ["example", "run_source"]
model = "port/charrnn_rnn.t7"
expect = EQUAL


class CharRNN(nn.Module):
    kind = "tanh"

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(V, H, 2, nonlinearity=self.kind), nn.Linear(H, V)

    def forward(self, x):
        y, _ = self.rnn(F.one_hot(x, V).double(), torch.stack(start()))
        return F.log_softmax(self.head(y), -1)


target = CharRNN
