"""The last convolution pads one pixel less."""

from corpus import Bug
from pairs.cyclegan_discriminator import PatchGAN, example, model

__all__ = ["example", "model"]
expect = Bug("cyclegan_discriminator", ("padding",), layer=("model.11",))


class Net(PatchGAN):
    last = (4, 1, 1)


target = Net
