"""Zeros after the transposed convolution in place of output_padding."""

from corpus import Bug
from pairs.cyclegan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("cyclegan_generator", ("output_padding",), layer=("model.11", "model.11.0"))


class Net(Generator):
    def up(self, cin, cout):
        return nn.Sequential(nn.ConvTranspose2d(cin, cout, 3, 2, 1), nn.ZeroPad2d((0, 1, 0, 1)))


target = Net
