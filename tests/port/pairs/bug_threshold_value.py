"""ReLU gives 0 where the Lua code's threshold gives 1e-6."""

import torch.nn.functional as F
from corpus import Bug
from pairs.alexnet import AlexNet, example, model

__all__ = ["example", "model"]
expect = Bug("alexnet", (("threshold", "Threshold"), ("1e-06", "1e-6", "0.000001")), line="F.relu(x)")


class Net(AlexNet):
    def squash(self, x):
        return F.relu(x)


target = Net
