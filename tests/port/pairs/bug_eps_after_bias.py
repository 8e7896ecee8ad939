"""Another eps in norms after convolutions that have biases: folding such a norm away would hide it."""

from corpus import Bug
from pairs.cifar_nin import NIN, example, model

__all__ = ["example", "model"]
expect = Bug("cifar_nin", ("eps", "0.001"), layer=("mlpconv1.0.1",))


class Net(NIN):
    def __init__(self):
        super().__init__()
        self.mlpconv1[0][1].eps = 1e-5


target = Net
