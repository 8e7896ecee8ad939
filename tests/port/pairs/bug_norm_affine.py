"""nn.InstanceNorm2d has no weight and bias unless told."""

from corpus import Bug
from pairs.cyclegan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("cyclegan_generator", (("affine", "weight"),), layer=("model.2",))


class Net(Generator):
    def norm(self, channels):
        return nn.InstanceNorm2d(channels)


target = Net
