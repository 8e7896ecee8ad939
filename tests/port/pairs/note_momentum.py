"""Other momentum in the batch norms: matters in training only."""

from corpus import EQUAL
from pairs.resnet_basic import ResNet, example, model
from torch import nn

__all__ = ["example", "model"]
expect = EQUAL
notes = ("momentum",)


class Net(ResNet):
    def __init__(self):
        super().__init__()
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.01


target = Net
