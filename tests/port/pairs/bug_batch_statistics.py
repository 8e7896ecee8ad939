"""The first norm keeps no running statistics and takes those of the batch."""

from corpus import Bug
from pairs.resnet_cifar_a import ResNet8, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("resnet_cifar_a", (("running", "statistics", "track_running_stats"),), layer=("bn1",))


class Net(ResNet8):
    def __init__(self):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(4, track_running_stats=False)


target = Net
