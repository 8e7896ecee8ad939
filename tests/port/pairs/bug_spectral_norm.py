"""A layer that divides by the spectral norm cannot hold weights of another norm than 1."""

from corpus import Bug
from pairs.weight_norm import Critic, example, model
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["example", "model"]
expect = Bug("weight_norm", ("spectral",), layer=("net.2",))


class Net(Critic):
    def __init__(self):
        super().__init__()
        spectral_norm(self.net[2])


target = Net
