"""One fire module joins its halves the wrong way round; a bypass adds to them, so no weights mend it."""

import torch
from corpus import Bug
from pairs.squeezenet import Fire, SqueezeNet, example, model

__all__ = ["example", "model"]
expect = Bug("squeezenet", ("order",), layer=("features.4",), line="torch.cat([large, small], 1)")


class Swapped(Fire):
    def join(self, small, large):
        return torch.cat([large, small], 1)


class Net(SqueezeNet):
    fire = Swapped


target = Net
