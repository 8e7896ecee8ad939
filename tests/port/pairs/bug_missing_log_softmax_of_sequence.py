"""No log-softmax behind a bidirectional LSTM, where the source computes one for every step."""

from corpus import Bug
from pairs.rnn_bisequencer import Tagger, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("rnn_bisequencer", ("log_softmax", "missing here"), layer=("tags",))


class Net(Tagger):
    def forward(self, x):
        return self.tags(self.lstm(self.words(x))[0])


target = Net
