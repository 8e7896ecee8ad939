"""ELU with PyTorch's default alpha of 1."""

from corpus import Bug
from pairs.constants import Scaled, example, model

__all__ = ["example", "model"]
expect = Bug("constants", ("alpha", "0.7"), line="F.elu")


class Net(Scaled):
    alpha = 1.0


target = Net
