"""A ReLU for the tanh of the candidate of a convolutional LSTM with one convolution over joined channels."""

import torch.nn.functional as F
from corpus import Bug
from pairs.conv_lstm import ConvLSTMCell, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("conv_lstm", ("tanh",), line="self.candidate(g)")


class Net(ConvLSTMCell):
    candidate = staticmethod(F.relu)


target = Net
