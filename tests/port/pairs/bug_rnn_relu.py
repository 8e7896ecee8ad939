"""nn.RNN with ReLU in place of tanh."""

from corpus import Bug
from pairs.charrnn_rnn import CharRNN, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("charrnn_rnn", (("tanh", "Tanh"), ("relu", "ReLU")), layer=("rnn",))


class Net(CharRNN):
    kind = "relu"


target = Net
