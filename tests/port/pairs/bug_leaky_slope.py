"""LeakyReLU with PyTorch's slope of 0.01."""

from corpus import Bug
from pairs.dcgan_discriminator import Discriminator, example, model

__all__ = ["example", "model"]
expect = Bug("dcgan_discriminator", (("slope",), "0.2", "0.01"), layer=("net.1",))


class Net(Discriminator):
    slope = 0.01


target = Net
