"""The candidate of the cell is squashed by a sigmoid."""

import torch
from corpus import Bug
from pairs.charrnn_eight_linears import LSTM, CharLSTM, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("charrnn_eight_linears", (("sigmoid", "Sigmoid"), ("tanh", "Tanh")), line="torch.sigmoid(x)")


class Gated(LSTM):
    def candidate(self, x):
        return torch.sigmoid(x)


class Net(CharLSTM):
    layer = Gated


target = Net
