"""F.dropout3d does nothing in evaluation, Torch7's nn.VolumetricDropout multiplies by 1 - p."""

import torch.nn.functional as F
from corpus import Bug
from pairs.voxnet import VoxNet, example, model

__all__ = ["example", "model"]
expect = Bug("voxnet", ("0.8",), layer=("", "conv2"), line="F.dropout3d")


class Net(VoxNet):
    def keep(self, x, rate):
        return F.dropout3d(x, 1 - rate, self.training)


target = Net
