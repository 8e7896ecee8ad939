"""Attention that is scaled by the size of the input, not of the keys."""

from corpus import Bug
from pairs.attention_joined import Attention, example, model

__all__ = ["example", "model"]
expect = Bug("attention_joined", ("mul", "factor"), line="self.scale")


class Net(Attention):
    scale = 8**-0.5


target = Net
