"""The last convolution of SqueezeNet pads nothing."""

from corpus import Bug
from pairs.squeezenet import SqueezeNet, example, model

__all__ = ["example", "model"]
expect = Bug("squeezenet", ("padding",), layer=("classifier.1",))


class Net(SqueezeNet):
    margin = 0


target = Net
