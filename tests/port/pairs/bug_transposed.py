"""The image goes in transposed and does not come out transposed."""

from corpus import Bug
from pairs.upconv import UpConv7, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("upconv_transposed", ("transpose",), layer=("", "body.0", "up"))


class Net(UpConv7):
    def forward(self, x):
        return super().forward(x.transpose(2, 3))


target = Net
