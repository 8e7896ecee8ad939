"""The module ends in a log-softmax, which the Lua code leaves to its criterion."""

from corpus import Bug
from pairs.resnet_cifar_a import ResNet8, example, model

__all__ = ["example", "model"]
expect = Bug("resnet_cifar_a", (("softmax", "SoftMax"),), line="log_softmax(1)")


class Net(ResNet8):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


target = Net
