"""The module returns two of the three outputs."""

from corpus import Bug
from pairs.vae import VAE, example, model

__all__ = ["example", "model"]
expect = Bug("vae", ("output",), layer=("", "fc22"), line="return super().forward(x)[:2]")


class Net(VAE):
    def forward(self, x):
        return super().forward(x)[:2]


target = Net
