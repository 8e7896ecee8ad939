"""Zeros in place of a reflection around the image."""

from corpus import Bug
from pairs.cyclegan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("cyclegan_generator", (("reflect", "Reflect"),), layer=("model.0",))


class Net(Generator):
    def margin(self, width):
        return nn.ZeroPad2d(width)


target = Net
