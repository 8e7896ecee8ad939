"""CRNN in the names of crnn.pytorch: bidirectional nn.LSTM and a Linear over both directions."""

import torch
from corpus import EQUAL
from torch import nn

model = "port/crnn.t7"
expect = EQUAL


def example(seed):
    return torch.rand(2, 1, 32, 36, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 255


class BidirectionalLSTM(nn.Module):
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__()
        self.rnn = nn.LSTM(n_in, n_hidden, bidirectional=True)
        self.embedding = nn.Linear(n_hidden * 2, n_out)

    def forward(self, x):
        recurrent, _ = self.rnn(x)
        t, b, h = recurrent.size()
        return self.embedding(recurrent.view(t * b, h)).view(t, b, -1)


class CRNN(nn.Module):
    last_pool = ((2, 2), (2, 1), (0, 1))

    def __init__(self):
        super().__init__()
        ks, ps, nm = [3, 3, 3, 3, 3, 3, 2], [1, 1, 1, 1, 1, 1, 0], [2, 3, 4, 4, 6, 6, 6]
        cnn = nn.Sequential()

        def conv_relu(i, batch_norm=False):
            cnn.add_module(f"conv{i}", nn.Conv2d(1 if i == 0 else nm[i - 1], nm[i], ks[i], 1, ps[i]))
            if batch_norm:
                cnn.add_module(f"batchnorm{i}", nn.BatchNorm2d(nm[i]))
            cnn.add_module(f"relu{i}", nn.ReLU(True))

        conv_relu(0)
        cnn.add_module("pooling0", nn.MaxPool2d(2, 2))
        conv_relu(1)
        cnn.add_module("pooling1", nn.MaxPool2d(2, 2))
        conv_relu(2, True)
        conv_relu(3)
        cnn.add_module("pooling2", nn.MaxPool2d((2, 2), (2, 1), (0, 1)))
        conv_relu(4, True)
        conv_relu(5)
        cnn.add_module("pooling3", nn.MaxPool2d(*self.last_pool))
        conv_relu(6, True)
        self.cnn, self.rnn = cnn, nn.Sequential(BidirectionalLSTM(6, 4, 10))

    def forward(self, image):
        conv = self.cnn((image - 3.0) / 128).squeeze(2).permute(2, 0, 1)
        return self.rnn(conv)


target = CRNN


def run_target(module, x):
    return module(x).log_softmax(2).transpose(0, 1)
