"""Sigmoid in place of Tanh at the end."""

from corpus import Bug
from pairs.dcgan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("dcgan_generator", (("sigmoid", "Sigmoid"), ("tanh", "Tanh")), layer=("main.13",))


class Net(Generator):
    def __init__(self):
        super().__init__()
        self.main[13] = nn.Sigmoid()


target = Net
