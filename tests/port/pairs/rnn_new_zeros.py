"""rnn's FastLSTM to a model that makes its first states out of a parameter's type, as in pytorch/examples."""

import torch.nn.functional as F
from corpus import EQUAL
from pairs.fastlstm import example, model, run_source
from torch import nn

__all__ = ["example", "model", "run_source"]
expect = EQUAL


class RNNModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder, self.rnn, self.decoder = nn.Embedding(12, 7), nn.LSTM(7, 9), nn.Linear(9, 12)

    def init_hidden(self, batch):
        weight = next(self.parameters())
        return weight.new_zeros(1, batch, 9), weight.new_zeros(1, batch, 9)

    def forward(self, x, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(x)), hidden)
        return F.log_softmax(self.decoder(self.drop(output)).view(-1, 12), dim=1), hidden


target = RNNModel


def run_target(module, x):
    return module(x, module.init_hidden(x.shape[1]))[0].view(6, 3, 12)
