"""The input is not added to the output."""

from corpus import Bug
from pairs.vdsr import VDSR, example, model

__all__ = ["example", "model"]
expect = Bug("vdsr", (("add", "Add", "sum"),), layer=("", "output"))


class Net(VDSR):
    def forward(self, x):
        return self.output(self.residual_layer(self.relu(self.input(x))))


target = Net
