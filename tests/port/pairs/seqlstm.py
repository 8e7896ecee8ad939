"""rnn's SeqLSTM to nn.LSTM."""

from corpus import EQUAL
from pairs.fastlstm import RNNModel, example, run_source

__all__ = ["example", "run_source"]
model = "port/seqlstm.t7"
expect = EQUAL
target = RNNModel
