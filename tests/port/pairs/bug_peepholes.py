"""rnn's LSTM has peepholes, nn.LSTM has none."""

from corpus import Bug
from pairs.fastlstm import RNNModel, example, run_source

__all__ = ["example", "run_source"]
model = "port/lstm_peepholes.t7"
expect = Bug("", ("peephole",), layer=("rnn",))
target = RNNModel
