"""A text convolution of 2014: one Conv2d over words and vectors for each width, maximum over time."""

import torch
import torch.nn.functional as F
from corpus import EQUAL, indices
from torch import nn

model = "port/nn_text_cnn.t7"
expect = EQUAL
notes = ("dropout",)


class TextCNN(nn.Module):
    activation = staticmethod(F.relu)

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 7)
        self.convs = nn.ModuleList([nn.Conv2d(1, 5, (k, 7)) for k in (2, 3, 4)])
        self.dropout = nn.Dropout(0.3)
        self.fc1 = nn.Linear(15, 4)

    def forward(self, x):
        x = self.embed(x).unsqueeze(1)
        x = [self.activation(conv(x)).squeeze(3) for conv in self.convs]
        x = [F.max_pool1d(i, i.size(2)).squeeze(2) for i in x]
        return F.log_softmax(self.fc1(self.dropout(torch.cat(x, 1))), dim=1)


target = TextCNN


def example(seed):
    return indices(20, 3, 9, seed=seed)


def run_source(model, x):
    return model(x + 1)
