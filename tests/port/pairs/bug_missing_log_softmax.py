"""The module leaves the log-softmax to its loss, the Lua code does not."""

from corpus import Bug
from pairs.mnist_convolutional import FCN, example, model

__all__ = ["example", "model"]
expect = Bug("mnist_convolutional", (("softmax", "SoftMax"),), layer=("", "layers.8"), line="return self.layers")


class Net(FCN):
    def forward(self, x):
        return self.layers(x)[:, :, 0, 0]


target = Net
