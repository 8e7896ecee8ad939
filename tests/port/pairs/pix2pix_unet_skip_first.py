"""A U-Net that joins the skip before what comes from inside: the next layer's input channels are permuted."""

import torch
from corpus import EQUAL
from pairs.pix2pix_unet import SkipBlock, UNet, example, model

__all__ = ["example", "model"]
expect = EQUAL


class SkipFirst(SkipBlock):
    def forward(self, x):
        return self.model(x) if self.kind == "outermost" else torch.cat([x, self.model(x)], 1)


class Net(UNet):
    block = SkipFirst


target = Net
