"""Frozen batch norms with eps 0, as early versions of torchvision had it."""

from corpus import Bug
from pairs.resnet_basic import ResNet, example, model
from pairs.resnet_frozen_norms import frozen

__all__ = ["example", "model"]
expect = Bug("resnet_frozen_norms", ("eps", ("1e-05", "1e-5", "0.00001")), layer=("bn1",))


def target():
    return frozen(ResNet(), eps=0.0)
