"""char-rnn's GRU to two matrices for each layer's gates and two for its candidate."""

import torch
from corpus import EQUAL, indices, randn
from torch import nn

model = "port/charrnn_gru.t7"
expect = EQUAL
V, H = 13, 10


def example(seed):
    return indices(V, 5, 3, seed=seed)


def start():
    return [randn(3, H, seed=9), randn(3, H, seed=10)]


def run_source(model, x):
    state, out = start(), []
    for t in range(len(x)):
        *state, y = model([x[t] + 1, *state])
        out.append(y)
    return torch.stack(out)


class GRU(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.x2g, self.h2g = nn.Linear(inputs, 2 * H), nn.Linear(H, 2 * H, bias=False)
        self.x2c, self.h2c = nn.Linear(inputs, H), nn.Linear(H, H)

    def forward(self, x, h):
        r, z = torch.sigmoid(self.x2g(x) + self.h2g(h)).chunk(2, 1)
        n = torch.tanh(self.x2c(x) + self.h2c(r * h))
        return h + z * (n - h)


class CharGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru1, self.gru2, self.head = GRU(V), GRU(H), nn.Linear(H, V)

    def forward(self, x):
        h1, h2 = start()
        out = []
        for one_hot in nn.functional.one_hot(x, V).double():
            h1 = self.gru1(one_hot, h1)
            h2 = self.gru2(h1, h2)
            out.append(self.head(h2))
        return torch.log_softmax(torch.stack(out), -1)


target = CharGRU
