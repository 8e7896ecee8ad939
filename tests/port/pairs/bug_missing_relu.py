"""No ReLU after the sum of one block."""

from corpus import Bug
from pairs.resnet_basic import BasicBlock, ResNet, example, model
from torch import nn

__all__ = ["example", "model"]
# the sum goes straight into the next stage
expect = Bug("resnet_basic", (("ReLU", "relu"),), layer=("layer2.1", "layer3.0", "layer3.0.conv1"))


class LinearBlock(BasicBlock):
    def forward(self, x):
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x


class Net(ResNet):
    def __init__(self):
        super().__init__()
        self.layer2 = nn.Sequential(self.layer2[0], LinearBlock(4, 4))


target = Net
