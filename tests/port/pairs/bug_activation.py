"""Tanh in place of ReLU in the decoder."""

import torch
from corpus import Bug
from pairs.vae import VAE, example, model

__all__ = ["example", "model"]
expect = Bug("vae", (("tanh", "Tanh"), ("relu", "ReLU", "threshold")), line="torch.tanh(self.fc3(z))")


class Net(VAE):
    def decode(self, z):
        return torch.sigmoid(self.fc4(torch.tanh(self.fc3(z))))


target = Net
