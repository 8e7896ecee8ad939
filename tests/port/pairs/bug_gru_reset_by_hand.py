"""A GRU written by hand that resets after the matrix product."""

import torch
from corpus import Bug
from pairs.charrnn_gru import GRU, CharGRU, H, V, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("", ("reset",), layer=("gru1", "gru1.h2c"), line="self.h2c(h)")


class ResetAfter(GRU):
    def forward(self, x, h):
        r, z = torch.sigmoid(self.x2g(x) + self.h2g(h)).chunk(2, 1)
        n = torch.tanh(self.x2c(x) + r * self.h2c(h))
        return h + z * (n - h)


class Net(CharGRU):
    def __init__(self):
        super().__init__()
        self.gru1, self.gru2 = ResetAfter(V), ResetAfter(H)


target = Net
