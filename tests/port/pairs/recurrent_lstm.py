"""recurrent.torch's LSTM, one matrix over input and state together, to nn.LSTMCell, which splits it."""

import torch
from corpus import EQUAL, randn
from torch import nn

model = "port/recurrent_torch_lstm.t7"
expect = EQUAL


def example(seed):
    return randn(4, 3, 7, seed=seed)


def start():
    return randn(3, 9, seed=1), randn(3, 9, seed=2)


def run_source(model, x):
    state, out = torch.cat(start(), 1), []
    for step in x:
        y, state = model([step, state])
        out.append(y)
    return torch.stack(out)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(7, 9)

    def forward(self, x):
        c, h = start()
        out = []
        for step in x:
            h, c = self.cell(step, (h, c))
            out.append(h)
        return torch.stack(out)


target = Cell
