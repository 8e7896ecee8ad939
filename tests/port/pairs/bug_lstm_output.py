"""The output gate multiplies the cell itself, without tanh."""

from corpus import Bug
from pairs.charrnn_eight_linears import LSTM, CharLSTM, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("charrnn_eight_linears", (("tanh", "Tanh"),), line="self.squash(c)", layer=("first", "first.output_gate"))


class Plain(LSTM):
    def squash(self, c):
        return c


class Net(CharLSTM):
    layer = Plain


target = Net
