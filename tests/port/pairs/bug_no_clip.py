"""The output is not clipped to 0 to 1."""

from corpus import Bug
from pairs.upconv import UpConv7, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("upconv", (("clamp", "Clip", "clip"),), layer=("", "up"))


class Net(UpConv7):
    def clip(self, x):
        return x


target = Net
