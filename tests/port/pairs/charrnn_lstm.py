"""char-rnn's LSTM to nn.LSTM."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, indices, randn
from torch import nn

model = "samples/char-rnn__lstm/model.t7"
expect = EQUAL
notes = ("gates",)
V, H = 31, 24


def example(seed):
    return indices(V, 5, 3, seed=seed)


def start():
    """The states before the first character: c and h of both layers."""
    return [randn(3, H, seed=i + 9) for i in range(4)]


def run_source(model, x):
    state, out = start(), []
    for t in range(len(x)):
        *state, y = model([x[t] + 1, *state])
        out.append(y)
    return torch.stack(out)


class CharRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(H, V)
        self.rnn = nn.LSTM(V, H, num_layers=2)

    def forward(self, x):
        c1, h1, c2, h2 = start()
        y, _ = self.rnn(F.one_hot(x, V).double(), (torch.stack([h1, h2]), torch.stack([c1, c2])))
        return F.log_softmax(self.decoder(y), dim=-1)


target = CharRNN
