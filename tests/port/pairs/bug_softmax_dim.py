"""The attention's weights sum to one over the batch."""

from corpus import Bug
from pairs.seq2seq_attn import Decoder, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("seq2seq_attn", (("softmax", "SoftMax", "Softmax"), "dim"), line="scores.softmax(dim=0)")


class Net(Decoder):
    def weigh(self, scores):
        return scores.softmax(dim=0)


target = Net
