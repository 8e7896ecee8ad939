"""A decoder with input feed and attention: LSTMCell, bmm."""

import torch
from corpus import EQUAL, indices, randn
from torch import nn

model = "port/seq2seq_attn.t7"
expect = EQUAL
H = 8


def example(seed):
    return indices(12, 4, 3, seed=seed), randn(3, 5, H, seed=seed + 100)


def start():
    return randn(3, H, seed=1), randn(3, H, seed=2), randn(3, H, seed=3)


def run_source(model, x):
    (words, context), out = x, []
    feed, c, h = start()
    for t in range(len(words)):
        c, h, feed = model([words[t] + 1, context, feed, c, h])
        out.append(feed)
    return torch.stack(out)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(12, 6), nn.LSTMCell(6 + H, H)
        self.linear_in = nn.Linear(H, H, bias=False)
        self.linear_out = nn.Linear(2 * H, H, bias=False)

    def weigh(self, scores):
        return scores.softmax(dim=1)

    def forward(self, words, context):
        feed, c, h = start()
        out = []
        for word in self.emb(words):
            h, c = self.rnn(torch.cat([word, feed], 1), (h, c))
            scores = torch.bmm(context, self.linear_in(h).unsqueeze(2)).squeeze(2)
            weighted = torch.bmm(self.weigh(scores).unsqueeze(1), context).squeeze(1)
            feed = torch.tanh(self.linear_out(torch.cat([weighted, h], 1)))
            out.append(feed)
        return torch.stack(out)


target = Decoder
