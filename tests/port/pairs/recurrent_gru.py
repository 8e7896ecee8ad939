"""recurrent.torch's GRU, matrices over input and state together, to layers of their own for both."""

import torch
from corpus import EQUAL, randn
from torch import nn

model = "port/recurrent_torch_gru.t7"
expect = EQUAL


def example(seed):
    return randn(4, 3, 7, seed=seed)


def run_source(model, x):
    state, out = randn(3, 9, seed=1), []
    for step in x:
        y, state = model([step, state])
        out.append(y)
    return torch.stack(out)


class GRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.wz, self.wr, self.wh = nn.Linear(7, 9), nn.Linear(7, 9), nn.Linear(7, 9)
        self.uz, self.ur, self.uh = (nn.Linear(9, 9, bias=False) for _ in range(3))

    def forward(self, x):
        h, out = randn(3, 9, seed=1), []
        for step in x:
            z = torch.sigmoid(self.wz(step) + self.uz(h))
            r = torch.sigmoid(self.wr(step) + self.ur(h))
            n = torch.tanh(self.wh(step) + self.uh(r * h))
            h = z * n + (1 - z) * h
            out.append(h)
        return torch.stack(out)


target = GRU
