"""PyTorch's default eps where the Lua code sets 1e-3."""

from corpus import Bug
from pairs.cifar_vgg import VGG, example, model, run_target

__all__ = ["example", "model", "run_target"]
expect = Bug("cifar_vgg", ("eps", "0.001"), layer=("features.1",))


class Net(VGG):
    eps = 1e-5


target = Net
