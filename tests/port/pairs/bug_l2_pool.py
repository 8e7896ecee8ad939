"""Average in place of L2 pooling."""

from corpus import Bug
from pairs.openface import OpenFace, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug("openface", (("pow", "mul", "square", "LPPool", "avg_pool", "pool"),), layer=("inception_3b.pool",))


class Average(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 3, 1)


class Net(OpenFace):
    pool = Average


target = Net
