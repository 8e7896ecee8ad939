"""The first convolution of a bottleneck takes the stride, as in Caffe's ResNet-50; all shapes agree."""

from corpus import Bug
from pairs.resnet_bottleneck import Bottleneck, ResNet, example, model

__all__ = ["example", "model"]
expect = Bug("resnet_bottleneck", ("stride",), layer=("layer2.conv1",))


class CaffeBottleneck(Bottleneck):
    strides = (2, 1)


class Net(ResNet):
    block = CaffeBottleneck


target = Net
