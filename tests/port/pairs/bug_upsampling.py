"""Upsampling and a convolution in place of a transposed convolution."""

from corpus import Bug
from pairs.dcgan_generator import Generator, example, model
from torch import nn

__all__ = ["example", "model"]
expect = Bug(
    "dcgan_generator",
    (("transposed", "ConvTranspose", "FullConvolution"),),
    layer=("main.9", "main.9.0", "main.9.1"),
)


class Net(Generator):
    def __init__(self):
        super().__init__()
        self.main[9] = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1, bias=False))


target = Net
