"""Mean and logarithm of the variance are returned in the other order."""

from corpus import Bug
from pairs.vae import VAE, example, model

__all__ = ["example", "model"]
expect = Bug("vae", (("output", "order"),), layer=("", "fc21", "fc22", "fc3"), line="return")


class Net(VAE):
    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(mu), logvar, mu


target = Net
