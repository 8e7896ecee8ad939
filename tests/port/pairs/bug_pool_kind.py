"""Maximum in place of average pooling."""

import torch.nn.functional as F
from corpus import Bug
from pairs.cifar_nin import NIN, example, model

__all__ = ["example", "model"]
expect = Bug(
    "cifar_nin", (("max_pool", "MaxPool", "maximum"), ("avg_pool", "AvgPool", "Average")), line="F.max_pool2d(x"
)


class Net(NIN):
    def second_pool(self, x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


target = Net
