"""Batch norms in place of instance norms."""

from corpus import Bug
from pairs.cyclegan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("cyclegan_generator", (("instance", "Instance"), ("batch", "Batch")), layer=("model.2",))


class Net(Generator):
    def norm(self, channels):
        return nn.BatchNorm2d(channels)


target = Net
