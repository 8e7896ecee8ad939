"""rnn's SeqGRU to nn.GRU, which resets after the matrix product."""

import torch.nn.functional as F
from corpus import Bug
from pairs.fastlstm import example, run_source
from torch import nn

__all__ = ["example", "run_source"]
model = "port/seqgru.t7"
expect = Bug("", ("reset",), layer=("rnn",))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(12, 7), nn.GRU(7, 9), nn.Linear(9, 12)

    def forward(self, x):
        return F.log_softmax(self.decoder(self.rnn(self.encoder(x))[0]), -1)


target = Net
