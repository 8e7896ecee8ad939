"""ResNet-18 with the frozen batch norms of torchvision's detection models, which compute a scale and a shift."""

import torch
from corpus import EQUAL
from pairs.resnet_basic import ResNet, example, model
from torch import nn

__all__ = ["example", "model"]
expect = EQUAL


class FrozenBatchNorm2d(nn.Module):
    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x):
        w, b = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        rv, rm = self.running_var.reshape(1, -1, 1, 1), self.running_mean.reshape(1, -1, 1, 1)
        scale = w * (rv + self.eps).rsqrt()
        return x * scale + (b - rm * scale)


def frozen(module, eps=1e-5):
    for name, inner in module.named_children():
        if isinstance(inner, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(inner.num_features, eps))
        else:
            frozen(inner, eps)
    return module


def target():
    return frozen(ResNet())
