"""No sigmoid at the first of three outputs."""

import torch.nn.functional as F
from corpus import Bug
from pairs.vae import VAE, example, model

__all__ = ["example", "model"]
expect = Bug("vae", ("sigmoid", "missing here"), layer=("fc4",))


class Net(VAE):
    def decode(self, z):
        return self.fc4(F.relu(self.fc3(z)))


target = Net
