"""char-rnn's LSTM to an LSTM with a layer for each gate, and an embedding for the first layer's one-hot input."""

import torch
from corpus import EQUAL
from pairs.charrnn_lstm import H, V, example, model, run_source, start
from torch import nn

__all__ = ["example", "model", "run_source"]
expect = EQUAL


class Gate(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.x2h = nn.Linear(hidden, hidden)
        self.h2h = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x, h):
        return self.x2h(x) + self.h2h(h)


class EmbeddedGate(Gate):
    def __init__(self, vocabulary, hidden):
        super().__init__(hidden)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.x2h = nn.Embedding(vocabulary, hidden)

    def forward(self, x, h):
        return self.x2h(x) + self.h2h(h) + self.bias


class LSTM(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.forget_gate, self.input_gate, self.cell_gate, self.output_gate = gate(), gate(), gate(), gate()

    def forward(self, x, c, h):
        candidate = self.candidate(self.cell_gate(x, h))
        c = torch.sigmoid(self.forget_gate(x, h)) * c + torch.sigmoid(self.input_gate(x, h)) * candidate
        return c, torch.sigmoid(self.output_gate(x, h)) * self.squash(c)

    def candidate(self, x):
        return torch.tanh(x)

    def squash(self, c):
        return torch.tanh(c)


class CharLSTM(nn.Module):
    layer = LSTM

    def __init__(self):
        super().__init__()
        self.first = self.layer(lambda: EmbeddedGate(V, H))
        self.second = self.layer(lambda: Gate(H))
        self.out = nn.Linear(H, V)

    def forward(self, x):
        c1, h1, c2, h2 = start()
        out = []
        for character in x:
            c1, h1 = self.first(character, c1, h1)
            c2, h2 = self.second(h1, c2, h2)
            out.append(torch.log_softmax(self.out(h2), dim=1))
        return torch.stack(out)


target = CharLSTM
