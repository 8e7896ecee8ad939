"""Local response norm with an alpha ten times as large."""

from corpus import Bug
from pairs.openface import OpenFace, example, model

__all__ = ["example", "model"]
expect = Bug("openface", (("alpha", "0.001", "response"),), layer=("stem.2",))


class Net(OpenFace):
    alpha = 1e-3


target = Net
