"""Pooling rounds sizes up, as in Caffe."""

from corpus import Bug
from pairs.resnet_basic import ResNet, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("resnet_basic", ("ceil_mode",), layer=("maxpool",))


class Net(ResNet):
    def __init__(self):
        super().__init__()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)


target = Net
