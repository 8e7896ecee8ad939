"""nn.GRU applies the reset gate after the matrix product; no weights make the two equal."""

import torch
import torch.nn.functional as F
from corpus import Bug
from pairs.charrnn_gru import H, V, example, model, run_source, start
from torch import nn

__all__ = ["example", "model", "run_source"]
expect = Bug("", ("reset",), layer=("gru",))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(V, H, 2), nn.Linear(H, V)

    def forward(self, x):
        y, _ = self.gru(F.one_hot(x, V).double(), torch.stack(start()))
        return F.log_softmax(self.head(y), -1)


target = Net
