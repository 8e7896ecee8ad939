"""Batch norms of one stage with the eps of TensorFlow."""

from corpus import Bug
from pairs.resnet_basic import ResNet, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("resnet_basic", ("eps", "0.001", ("1e-05", "1e-5", "0.00001")), layer=("layer3.0.bn1",))


class Net(ResNet):
    def __init__(self):
        super().__init__()
        for layer in self.layer3.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-3


target = Net
