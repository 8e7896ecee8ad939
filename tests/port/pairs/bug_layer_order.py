"""Batch norm after the activation."""

from corpus import Bug
from pairs.dcgan_discriminator import Discriminator, example, model

__all__ = ["example", "model"]
expect = Bug(
    "dcgan_discriminator",
    (("leaky", "Leaky"), ("batch_norm", "BatchNorm", "batch norm", "Normalization")),
    layer=("net.3", "net.4"),
)


class Net(Discriminator):
    def block(self, n):
        conv, norm, activation = super().block(n)
        return [conv, activation, norm]


target = Net
