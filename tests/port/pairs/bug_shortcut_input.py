"""The shortcut of a wide ResNet takes what comes before the norm."""

import torch.nn.functional as F
from corpus import Bug
from pairs.wide_resnet import WRN, example, model

__all__ = ["example", "model"]
expect = Bug(
    "wide_resnet", (("ReLU", "relu", "batch_norm", "BatchNorm", "batch norm", "input"),), line="F.conv2d(x, self.params"
)


class Net(WRN):
    def shortcut(self, x, activated, g, stride):
        return F.conv2d(x, self.params[f"g{g}_convdim"], stride=stride)


target = Net
